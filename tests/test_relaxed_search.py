"""The differentiable search in a tiny run: learning, resuming, refusals."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import same

from jaxnas.config import load_config, override
from jaxnas.errors import RunError, UserError
from jaxnas.methods import (
  BlockObjective,
  expert_guide,
  make_block_setup,
  relaxed,
)
from jaxnas.methods.relaxed import (
  check_relaxed,
  relaxed_indices,
  relaxed_step,
  search_relaxed,
)
from jaxnas.nets import BlockSupernet

pytestmark = pytest.mark.usefixtures("compiled_once")

SETTINGS = [
  'space.options={"max_layers": 3, "stem": 4, "stages": [[4, 1]],'
  ' "hidden": 0, "dropout": 0, "convs": "separable"}',
  "data.limit=320", "train.batch_size=16", "data.augment.shift=0",
  "score.calibration_images=64", "expert.samples=40", "expert.rounds=5",
  "expert.iterations=2", "blocks.rounds=6", "blocks.per_round=4",
  "blocks.policy_learning_rate=0.2", "search.algorithm=differentiable",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(repo):
  base = load_config(f"{repo / 'configs' / 'digits_irlas.py'}:quicktest")
  return override(base, SETTINGS)


def make(config, workdir, guidance=0.3, **patched):
  """A set-up with fresh weights in the interpreter's place, and a search."""
  workdir.mkdir(exist_ok=True)
  setup = make_block_setup(config, workdir)
  variables = setup.supernet.init(setup.key("init"))
  guide = expert_guide(setup)
  objective = BlockObjective(setup, guide, variables)
  objective = patched.get("objective", lambda o: o)(objective)
  return setup, lambda: search_relaxed(
    setup, guide, guidance, variables, objective
  )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
  """An undisturbed search: its directory and what it returned."""
  workdir = tmp_path_factory.mktemp("finished")
  setup, run = make(config, workdir)
  return setup, run()


def searched(setup, guidance=0.3):
  return [
    row for row in setup.journal.rows()
    if row["stage"] == "search" and row["guidance"] == guidance
  ]  # fmt: skip


def test_every_new_block_is_in_the_archive_once(finished):
  setup, (state, timing, seconds) = finished
  rows, archive = searched(setup), state["archive"]
  assert [r["round"] for r in rows] == list(range(1, 7))
  decoded = [r["decoded"] for r in rows]
  texts = [setup.space.to_string(np.array(a)) for a in archive["archs"]]
  assert texts == list(dict.fromkeys(decoded))
  assert timing == [1 + decoded.index(t) for t in texts]
  assert rows[-1]["evaluated"] == len(texts) >= 1
  assert rows[-1]["best_accuracy"] == max(archive["metrics"]["accuracy"])
  assert seconds > 0


def test_blocks_are_judged_with_the_weights_as_they_were(finished):
  setup, (state, _, _) = finished
  variables = setup.supernet.init(setup.key("init"))
  archs = np.array(state["archive"]["archs"], np.int32)
  accuracy = setup.scorer()(variables, archs)["accuracy"]
  assert accuracy.tolist() == state["archive"]["metrics"]["accuracy"]


def test_the_loss_falls_and_guidance_raises_f(config, finished, tmp_path):
  rows = searched(finished[0])
  assert rows[-1]["loss"] < rows[0]["loss"]
  # Fast probabilities on F alone, in all but name.
  strong = override(config, ["blocks.guidance=100"])
  setup, run = make(strong, tmp_path, 100.0)
  run()
  rows = searched(setup, 100.0)
  assert rows[-1]["mirror"] > rows[0]["mirror"] + 0.2


@pytest.mark.slow
def test_without_guidance_there_is_no_f(config, tmp_path):
  plain = override(
    config,
    ["blocks.guidance=0", "blocks.compare=()", "expert.features=topology",
     "blocks.rounds=1", "blocks.per_round=1"],
  )  # fmt: skip
  setup, run = make(plain, tmp_path, 0.0)
  run()
  assert all("mirror" not in row for row in searched(setup, 0.0))


class Killed(BaseException):
  """Ends a search as a signal would."""


def test_killed_and_run_again_is_the_same(
  config, finished, tmp_path, monkeypatch
):
  monkeypatch.setattr(relaxed, "SAVE_EVERY", 0.0)
  before, (state, timing, _) = finished
  real = relaxed._run_round
  for last in (2, 5):

    def run_round(*args, last=last):
      if args[-1] > last:
        raise Killed
      return real(*args)

    with monkeypatch.context() as patch:
      patch.setattr(relaxed, "_run_round", run_round)
      with pytest.raises(Killed):
        make(config, tmp_path)[1]()
  setup, run = make(config, tmp_path)
  found = run()
  assert found[:2] == (state, timing)
  assert searched(setup) == searched(before)
  ends = [
    s.checkpoints("search-0.3").restore(
      relaxed_step(s, expert_guide(s), 0.3, s.supernet.init(s.key("init")))[1]
    )[1]
    for s in (before, setup)
  ]
  assert same(*ends)
  # A finished search does nothing any more.
  assert make(config, tmp_path)[1]() == found


def test_both_halves_are_apart_and_cover_the_training_images(config, tmp_path):
  setup = make_block_setup(config, tmp_path)
  indices, n = relaxed_indices(setup), len(setup.data.train)
  seen = np.stack([indices(i) for i in range(40)])
  assert seen.shape == (40, 2, 16) and seen.dtype == np.int32
  weights, alpha = (set(seen[:, i].flat) for i in (0, 1))
  assert not weights & alpha and weights | alpha <= set(range(n))
  assert len(weights) == n // 2 and len(alpha) == n - n // 2
  again = relaxed_indices(setup)
  assert (again(7) == indices(7)).all()
  other = relaxed_indices(make_block_setup(override(config, ["seed=1"]),
                                           tmp_path))  # fmt: skip
  assert (other(7) != indices(7)).any()


def test_a_budget_cuts_blocks_and_may_leave_none(config, finished, tmp_path):
  state = finished[1][0]
  macs = max(state["archive"]["metrics"]["macs"])
  bound = dataclasses.replace(config, budget=f"macs<={int(macs) - 1}")
  _, run = make(bound, tmp_path / "a")
  metrics = run()[0]["archive"]["metrics"]
  assert max(metrics["macs"]) < macs
  setup, run = make(config, tmp_path / "b")
  object.__setattr__(setup, "budget", Nothing())
  with pytest.raises(UserError, match="keeps the budget macs<=0; raise it"):
    run()


class Nothing:
  """A budget that no block keeps."""

  def allows(self, archs):
    return np.zeros(len(archs), bool)

  def __str__(self):
    return "macs<=0"


def test_blocks_without_an_accuracy_do_no_harm(config, tmp_path):
  def failing(objective):
    def run(archs):
      found = objective(archs)
      return {**found, "accuracy": np.full(len(archs), np.nan)}

    return run

  setup, run = make(config, tmp_path, objective=failing)
  state = run()[0]
  assert np.isnan(state["archive"]["metrics"]["accuracy"]).all()
  assert all(row["best_accuracy"] is None for row in searched(setup))


def test_values_that_are_not_finite_stop_it(config, tmp_path, monkeypatch):
  init = BlockSupernet.init

  def broken(self, key):
    variables = init(self, key)
    return jax.tree.map(lambda a: np.full_like(a, np.nan), variables)

  monkeypatch.setattr(BlockSupernet, "init", broken)
  with pytest.raises(RunError, match="diverged in round 1"):
    make(config, tmp_path)[1]()


@pytest.mark.parametrize(
  ("settings", "part"),
  [
    (["blocks.evaluation=children"], "is 'children'; .* needs 'interpreter'"),
    (["expert.features=topology"], "expert.features is 'topology'"),
    (["expert.discount=0.9"], "expert.discount is 0.9"),
    (["blocks.flops_penalty=1"], "blocks.flops_penalty is 1.0; with"),
    (["train.batch_size=161"], "train.batch_size is 161;.* at most 160"),
  ],
)
def test_wrong_values_are_explained(config, tmp_path, settings, part):
  if "children" in settings[0]:
    config = dataclasses.replace(config, train=type(config.train)())
  setup = make_block_setup(override(config, settings), tmp_path)
  with pytest.raises(UserError, match=part):
    check_relaxed(setup)
