"""The PyTorch peers compute what jaxnas computes; times are not judged."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny import SE, THREE, make_space, shaken

torch = pytest.importorskip("torch")

from jaxnas.bench.workload import Workload  # noqa: E402
from jaxnas.config import OptimizerConfig, ScoreConfig, TrainConfig  # noqa: E402
from jaxnas.data import Dataset, Split  # noqa: E402
from jaxnas.errors import RunError  # noqa: E402
from jaxnas.nets import PathSupernet  # noqa: E402
from jaxnas.scoring import Scorer  # noqa: E402
from jaxnas.sharding import make_placement  # noqa: E402
from jaxnas.spaces import Conv, MBConv  # noqa: E402
from peers import score, train  # noqa: E402
from peers.__main__ import text  # noqa: E402
from peers.arms import LAYOUTS, state_dict  # noqa: E402
from peers.supernet import fair_step, score_paths  # noqa: E402
from peers.worker import Arm  # noqa: E402

# Two threads with so little to do wait for each other on a busy machine.
torch.set_num_threads(1)
# Every operation, with and without stride, residual and squeeze.
SPACE = make_space(
  THREE, (Conv(3, "relu"), MBConv(2, 5, residual=False), SE), THREE
)
ALL = np.stack(np.meshgrid(*[range(3)] * 3), -1).reshape(-1, 3).astype(np.int32)
# So few pixels that biased and unbiased variances are far apart.
CALIBRATION, VALIDATION = 6, 9


def make_tiny(space=SPACE) -> Workload:
  rng = np.random.default_rng(0)

  def split(n):
    pixels = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return Split(pixels, rng.integers(0, 4, n).astype(np.int32))

  data = Dataset(
    split(CALIBRATION), split(VALIDATION), split(1), ("a", "b", "c", "d"),
    np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3]), "", "",
  )  # fmt: skip
  supernet = PathSupernet(space)
  variables = shaken(supernet.init(jax.random.key(0)))
  return Workload(space, supernet, variables, data, 0)


WORKLOAD = make_tiny()


def make_arm(folder, images) -> Arm:
  (folder / "space.json").write_text(json.dumps(SPACE.to_json()))
  weights = state_dict(SPACE, WORKLOAD.variables)
  np.savez(folder / "weights.npz", **weights)
  np.savez(folder / "images.npz", **images)
  return Arm(folder)


@pytest.fixture
def arm(tmp_path) -> Arm:
  return make_arm(tmp_path, score.images_of(WORKLOAD))


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
  config = ScoreConfig(calibration_images=CALIBRATION, batch_size=VALIDATION)
  scorer = Scorer(WORKLOAD.supernet, WORKLOAD.data, config, make_placement())
  return scorer(WORKLOAD.variables, ALL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_with_stored_statistics_agree(arm, layout):
  arm.start(layout)
  net, images, _ = arm.arms[layout]
  x = score.images_of(WORKLOAD)["x"]
  program = jax.jit(
    lambda arch: WORKLOAD.supernet.apply_path(WORKLOAD.variables, arch, x)[0]
  )
  net.eval()
  for arch in ALL:
    with torch.no_grad():
      logits = net(images["x"], arch.tolist()).numpy()
    np.testing.assert_allclose(program(arch), logits, 1e-4, 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_agree_and_leave_no_trace(arm, layout, scores):
  arm.start(layout)
  for order in (np.arange(len(ALL)), np.arange(len(ALL))[::-1]):
    answer = arm.score(layout, ALL[order].tolist())
    np.testing.assert_array_equal(scores["accuracy"][order], answer["accuracy"])
    np.testing.assert_allclose(scores["loss"][order], answer["loss"], 1e-5)


def test_recalibrated_statistics_are_those_of_the_calibration_images(arm):
  arm.start("nchw")
  net, images, _ = arm.arms["nchw"]
  x, y = images["calibration"], torch.zeros(CALIBRATION, dtype=torch.int64)
  score_paths(net, [[0, 0, 0]], x, x, y)
  with torch.no_grad():
    z = net.stem[0].conv(x).double()
  bn = net.stem[0].bn
  torch.testing.assert_close(bn.running_mean.double(), z.mean((0, 2, 3)))
  biased = z.var((0, 2, 3), correction=0)
  torch.testing.assert_close(bn.running_var.double(), biased)


def test_strictly_fair_steps_agree(tmp_path):
  arm = make_arm(tmp_path, train.images_of(WORKLOAD))
  optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=0.0)
  config = TrainConfig(sampler="fair", optimizer=optimizer, label_smoothing=0.2)
  for layout in LAYOUTS:
    arm.start(layout, optimizer.learning_rate, optimizer.momentum)
  trainer = train.Trainer(WORKLOAD, CALIBRATION, 0, config)
  old = state_dict(SPACE, {"params": WORKLOAD.variables["params"]})
  for i in range(2):  # the second has momentum
    archs = trainer.next_paths()
    assert (np.sort(archs, 0) == np.arange(3)[:, None]).all()
    ours = trainer.step()
    new = state_dict(SPACE, {"params": jax.device_get(trainer.state.params)})
    for layout in LAYOUTS:
      theirs = arm.step(layout, archs, CALIBRATION, 0.2)
      np.testing.assert_allclose(ours["loss"], theirs["loss"], 1e-5)
      weights = dict(arm.arms[layout][0].named_parameters())
      assert set(weights) == set(new)
      for name, weight in new.items():
        found = weights[name].detach().numpy()
        np.testing.assert_allclose(weight, found, 1e-5, 1e-6, err_msg=name)
        if not i:  # without momentum yet, the update is the gradient
          gradient = (old[name] - weight) / optimizer.learning_rate
          found = weights[name].grad.numpy()
          np.testing.assert_allclose(gradient, found, 1e-4, 1e-4, err_msg=name)


def test_a_step_sums_the_gradients_of_its_paths(arm):
  arm.start("nchw")
  net, images, _ = arm.arms["nchw"]
  x, y = images["x"], torch.zeros(VALIDATION, dtype=torch.int64)
  still = torch.optim.SGD(net.parameters(), 0.0)

  def gradient(archs):
    loss = fair_step(net, still, archs, x, y, 0.1)
    return loss, net.stem[0].conv.weight.grad.clone()

  parts = [gradient([arch]) for arch in ([0, 1, 2], [1, 2, 0])]
  loss, total = gradient([[0, 1, 2], [1, 2, 0]])
  torch.testing.assert_close(total, parts[0][1] + parts[1][1])
  assert loss == pytest.approx((parts[0][0] + parts[1][0]) / 2, rel=1e-6)


def test_one_command_compares_both(tmp_path, repo):
  (tmp_path / "small.py").write_text(
    "from jaxnas.spaces import Space\n"
    f"def get_space():\n  return Space.from_json({SPACE.to_json()!r})\n"
  )
  done = subprocess.run(
    [
      sys.executable, "-m", "tests.peers", "all", "--json", "--space",
      str(tmp_path / "small.py"), "--uniform", "9", "--segment", "0",
      "--offspring", "4", "--calibration", "6", "--validation", "9",
      "--sample", "5", "--batches", "6", "--repeats", "1",
    ],
    cwd=repo, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert set(found["score"]) == {"uniform", "offspring"}
  arms = {"jaxnas", *LAYOUTS}
  for n, row in zip((9, 4), found["score"].values(), strict=True):
    assert (row["n"], row["torch_sample"]) == (n, min(5, n))
    assert row["largest_difference"]["accuracy"] == 0
    assert row["largest_difference"]["loss"] < 1e-5
    assert set(row["seconds"]) == arms
    assert set(row["torch_over_jaxnas"]) == set(LAYOUTS)
  assert set(found["train"]) == {"6"}
  row = found["train"]["6"]
  assert row["paths"] == 3
  assert set(row["seconds"]) == arms
  for layout in LAYOUTS:
    assert row["relative_difference"][layout]["loss"] < 1e-5
    assert row["relative_difference"][layout]["update"] < 1e-4
  assert {"processor", "cores", "torch", "jax"} <= set(found["machine"])
  assert text(found).count("PyTorch / jaxnas") == 3 * len(LAYOUTS)


def test_different_scores_are_refused(arm, scores):
  arm.start("nchw")
  archs, rows = ALL.tolist(), np.arange(len(ALL))
  answer = arm.score("nchw", archs)
  assert score.gaps(scores, rows, answer)["accuracy"] == 0
  with pytest.raises(RunError, match="differ"):
    score.gaps(scores, rows[::-1], answer)
  with torch.no_grad():
    arm.arms["nchw"][0].classifier.bias[0] += 0.01
  with pytest.raises(RunError, match="loss by up to"):
    score.gaps(scores, rows, arm.score("nchw", archs))


@pytest.mark.parametrize("arm", ["jaxnas", *LAYOUTS])
def test_different_updates_are_refused(arm):
  rng = np.random.default_rng(0)
  old = {"a": rng.standard_normal((9, 9)), "b": rng.standard_normal(9)}
  new = {name: w + 0.1 for name, w in old.items()}
  losses = dict.fromkeys(("jaxnas", *LAYOUTS), 1.5)
  weights = dict.fromkeys(losses, new)
  assert train.step_gaps(losses, weights, old)["nchw"]["update"] == 0
  with pytest.raises(RunError, match="step apart"):
    train.step_gaps(losses | {arm: 1.501}, weights, old)
  if arm == "jaxnas":  # a layout alone moves the bound with it
    planted = {arm: new | {"b": new["b"] + 0.01}}
    with pytest.raises(RunError, match="step apart"):
      train.step_gaps(losses, weights | planted, old)
