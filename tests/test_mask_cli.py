"""Masked networks on the command line: costs, refusals, texts of masks."""

import json

import numpy as np
import pytest

from jaxnas.catalogue import read_archs
from jaxnas.cli import main
from jaxnas.spaces import get_space

TINY = {"width": 2, "blocks": 1}
SPACE = get_space("supnet-small", **TINY)
LARGE = get_space("supnet-m")


@pytest.fixture
def fails(capsys):
  """Runs a command that must fail by the book; returns its sentence."""

  def run(*arguments):
    with pytest.raises(SystemExit) as caught:
      main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err

  return run


@pytest.mark.parametrize(
  "arguments",
  [
    ["profile", "--space", "supnet-small", "--out", "latency.csv"],
    ["bench", "score", "--space", "supnet-small"],
    ["bench", "train", "--space", "supnet-small"],
    ["bench", "kernels", "--space", "supnet-small"],
  ],
)
def test_what_needs_layers_refuses_a_masked_network(arguments, fails):
  sentence = fails(*arguments)
  assert "'supnet-small' is a masked network" in sentence
  assert "bench masks" in sentence


@pytest.mark.parametrize(
  "text", ["full", SPACE.to_string(np.arange(SPACE.n_layers) % 2)]
)
def test_costs_of_a_mask(text, capsys):
  arguments = [
    "cost", "--space", "supnet-small", "--options", json.dumps(TINY),
    "--arch", text,
  ]  # fmt: skip
  main([*arguments, "--json"])
  value = json.loads(capsys.readouterr().out)
  rows = value["layers"]
  assert sum(row["macs"] for row in rows) == value["macs"]
  assert sum(row["params"] for row in rows) < value["params"]
  assert value["kept_channels"] == (1 if text == "full" else 0.5)
  assert value["kept_operations"] == 1
  main(arguments)
  shown = capsys.readouterr().out.splitlines()
  assert len({len(line) for line in shown[:-1]}) == 1
  assert f"{value['macs']:,} multiply-adds" in shown[-1]
  # Every product once, what lies between them, and all in all.
  assert [line.split()[0] for line in shown[1:-3]] == [r["node"] for r in rows]
  assert shown[-2].split() == [
    "all", f"{value['params']:,}", f"{value['macs']:,}"
  ]  # fmt: skip


def test_a_long_mask_is_shortened_for_people(capsys):
  main(["cost", "--space", "supnet-m", "--arch", "full"])
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) < 250
  assert "2,755 characters" in lines[-1]


@pytest.mark.parametrize("text", ["x00ff", "0123", "ful", "x" + "zz" * 20])
def test_a_wrong_mask_is_one_sentence(text, fails):
  sentence = fails("cost", "--space", "supnet-m", "--arch", text)
  assert f"{text[:24]!r} is not a mask of 'supnet-m'" in sentence


@pytest.mark.parametrize(
  ("archs", "part"),
  [
    (["x00"], "'x00' is not a mask of 'supnet-small'"),
    (["0123"], "'0123' is not a mask"),
    (["missing.csv"], "no file 'missing.csv'"),
    (["full", "--race", "0.05"], "masks.halving"),
    (["full"], "python -m jaxnas train"),
    ([], "no archs"),
  ],
)
def test_score_of_nothing_usable(archs, part, fails, repo, tmp_path):
  config = f"{repo / 'configs' / 'digits_pgnas.py'}:quicktest"
  given = ["--archs", *archs] if archs else []
  sentence = fails("score", config, "--workdir", tmp_path / "w", *given)
  assert part in sentence
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("suffix", ["csv", "txt", "none"])
def test_masks_too_long_for_a_file_name_are_read(suffix, tmp_path):
  archs = LARGE.sample(np.random.default_rng(0), 3)
  texts = [LARGE.to_string(arch) for arch in archs]
  given = texts
  if suffix != "none":
    path = tmp_path / f"masks.{suffix}"
    rows = [f"1,{t}" for t in texts] if suffix == "csv" else texts
    head = ["accuracy,arch"] if suffix == "csv" else []
    path.write_text("\n".join([*head, *rows]))
    given = [str(path)]
  assert np.array_equal(read_archs([*given, "full"], LARGE)[:3], archs)
  assert read_archs([*given, "full"], LARGE)[3].all()


def test_a_method_of_masks_searches_no_table(fails, repo, tmp_path):
  table = tmp_path / "table.csv"
  table.write_text("arch,accuracy,macs\n00,0.5,1\n01,0.6,2\n")
  config = repo / "configs" / "digits_pgnas.py"
  sentence = fails("search", config, "--table", table)
  assert "method pgnas" in sentence
