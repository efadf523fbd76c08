"""Notebooks of methods without a supernet of paths."""

import re

import numpy as np
import pytest
from notebooks import TINY, Executed, execute

from jaxnas.nets import load_network
from jaxnas.spaces import MaskSpace

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repo, xla_cache, tmp_path):
  """Executes a notebook by name."""

  def start(name: str, *smaller: str) -> Executed:
    path = repo / "colab" / f"{name}.ipynb"
    return execute(path, tmp_path, xla_cache, *smaller)

  return start


def check_winner(seen: Executed) -> None:
  """The last cell shows the exported network with its test accuracy."""
  metrics = seen.file("result.json")["metrics"]
  assert seen.found(r"\ntest accuracy (\S+) of 359 images, (\S+) para") == (
    f"{metrics['test_accuracy']:.4f}", f"{metrics['params']:,}",
  )  # fmt: skip


def test_pgnas(run):
  seen = run("pgnas", "data.limit=256")
  check_winner(seen)
  groups = seen.file("posterior.json")["groups"]
  rates = [group["rate"] for group in groups]
  n, low, high = seen.found(r"(\d+) drop rates from (\S+) to (\S+)\n")
  assert int(n) == len(groups)
  assert (low, high) == (f"{min(rates):.3f}", f"{max(rates):.3f}")
  # What is said to be kept of each kernel is what the winner's mask says.
  kept = [g["kept"] for g in groups]
  lines = re.findall(r"(\d+) of \d+\n", seen.text[seen.text.index("#") :])
  assert [int(k) for k in lines[: len(groups)]] == kept
  arch = seen.file("result.json")["arch"]
  space = MaskSpace.from_json(seen.file("space.json"))
  assert sum(kept) == space.from_string(arch).sum()
  assert seen.shown["image/png"] == 3


def test_irlas(run):
  smaller = (
    'space.options={"max_layers":4,"stem":4,"stages":[[4,1]]}',
    "data.limit=256", "train.epochs=1", "blocks.latency_blocks=0",
  )  # fmt: skip
  seen = run("irlas", *smaller)
  check_winner(seen)
  # Expert and winner are drawn, layer by layer.
  arch = seen.file("result.json")["arch"]
  pictures = seen.pictures("image/svg+xml")
  assert len(pictures) == 2
  layers = [picture.count('class="block layer"') for picture in pictures]
  assert layers == [3, len(arch.split("-"))]
  assert f"chosen: {arch}" in seen.text
  # One row for each lambda, the chosen one last.
  rows = seen.file("guidance.json")["rows"]
  for row in rows:
    numbers = (row["guidance"], row["mirror"], row["accuracy"])
    assert re.search(r"\s+".join(f"{v:.4f}" for v in numbers), seen.text)
  assert [row["guidance"] for row in rows] == [0.0, 0.3]
  assert rows[-1]["arch"] == arch


def test_dcnas(run):
  smaller = ("divide.samples=8", "divide.clusters=2", "ranking.n_archs=8")
  seen = run("dcnas", *TINY, *smaller)
  check_winner(seen)
  clusters = seen.file("clusters.json")
  assert sum(row["size"] for row in clusters["clusters"]) == 8
  for row in clusters["clusters"]:
    assert re.search(
      rf"{row['cluster']} +{row['size']} +{row['winner']}", seen.text
    )
  best = max(row["longer"] for row in clusters["clusters"])
  assert seen.found(r"winner \S+, longer (\S+)") == (f"{best:.4f}",)
  partition = seen.file("ranking.json")["partition"]
  for label, key in (
    ("tau-b, all pairs", "global"),
    ("within clusters", "within"),
  ):
    (value,) = seen.found(rf"\n{label}: +(\S+) \[")
    np.testing.assert_allclose(float(value), partition[key]["value"], atol=1e-3)
  network, _, _ = load_network(seen.workdir / "export")
  assert network.space.name == "tiny"
  assert seen.shown["image/png"] == 2
