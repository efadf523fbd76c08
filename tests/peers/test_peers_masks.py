"""The masked network in PyTorch computes what jaxnas computes."""

import json
import subprocess
import sys

import graphs
import jax
import numpy as np
import pytest
from tiny import shaken

torch = pytest.importorskip("torch")

from jaxnas.bench.masks import MaskWorkload  # noqa: E402
from jaxnas.bench.workload import make_images  # noqa: E402
from jaxnas.config import ScoreConfig  # noqa: E402
from jaxnas.nets import MaskedSupernet  # noqa: E402
from jaxnas.scoring import MaskScorer  # noqa: E402
from jaxnas.sharding import make_placement  # noqa: E402
from peers import score  # noqa: E402
from peers.__main__ import text  # noqa: E402
from peers.arms import LAYOUTS, state_dict  # noqa: E402
from peers.worker import Arm  # noqa: E402

# Two threads with so little to do wait for each other on a busy machine.
torch.set_num_threads(1)
N = 7


def make_tiny(name) -> MaskWorkload:
  space = graphs.SPACES[name]
  supernet = MaskedSupernet(space)
  variables = shaken(supernet.init(jax.random.key(0)))
  data = make_images(space.graph, 4, N, 0)
  rates = np.full(len(space.groups), 0.3)
  return MaskWorkload(space, supernet, variables, data, rates, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", sorted(graphs.SPACES))
def test_scores_of_masks_agree(name, layout, tmp_path):
  workload = make_tiny(name)
  space, variables = workload.space, workload.variables
  (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
  np.savez(tmp_path / "weights.npz", **state_dict(space, variables))
  np.savez(tmp_path / "images.npz", **score.images_of(workload))
  arm = Arm(tmp_path)
  arm.start_masked(layout)
  archs = graphs.masks(space, 3)
  config = ScoreConfig("running", batch_size=3)
  scorer = MaskScorer(
    workload.supernet, workload.data, config, make_placement()
  )
  ours = scorer(variables, archs)
  for order in (np.arange(len(archs)), np.arange(len(archs))[::-1]):
    texts = [space.to_string(arch) for arch in archs[order]]
    theirs = arm.score_masks(layout, texts, batch_size=3)
    np.testing.assert_array_equal(ours["accuracy"][order], theirs["accuracy"])
    np.testing.assert_allclose(ours["loss"][order], theirs["loss"], 1e-5)
  assert len(np.unique(ours["loss"].round(4))) > len(archs) // 2


def test_one_command_compares_masks(repo):
  done = subprocess.run(
    [
      sys.executable, "-m", "tests.peers", "masks", "--json",
      "--masked-options", '{"width": 2, "blocks": 1}', "--masks", "9",
      "--masked-images", "6", "--sample", "4", "--repeats", "1",
    ],
    cwd=repo, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  row = found["masks"]["masks"]
  assert (row["n"], row["torch_sample"]) == (9, 4)
  assert row["largest_difference"]["accuracy"] == 0
  assert row["largest_difference"]["loss"] < 1e-5
  assert set(row["seconds"]) == {"jaxnas", *LAYOUTS}
  assert set(row["torch_over_jaxnas"]) == set(LAYOUTS)
  assert text(found).count("PyTorch / jaxnas") == len(LAYOUTS)
