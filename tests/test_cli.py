"""The command line: exit statuses, one-line errors, JSON on stdout."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxnas import cli, printing
from jaxnas.bench.options import (
  InputOptions,
  KernelOptions,
  ScoreOptions,
  TrainOptions,
)
from jaxnas.catalogue import read_archs
from jaxnas.cli import main
from jaxnas.config import load_config, override, to_json
from jaxnas.errors import RunError
from jaxnas.methods import METHODS
from jaxnas.spaces import SPACES

pytestmark = pytest.mark.usefixtures("compiled_once")

VERBS = {
  v.__name__.lower(): v
  for v in (
    cli.Run, cli.Train, cli.Search, cli.Rank, cli.Retrain, cli.Export,
    cli.Report, cli.Score, cli.Cost, cli.List,
  )
}  # fmt: skip


@pytest.fixture
def quick(repo):
  return f"{repo / 'configs' / 'digits_fairnas.py'}:quicktest"


@pytest.fixture
def call(capsys):
  """Runs a command that succeeds; returns what it printed on stdout."""

  def run(*arguments):
    main([str(a) for a in arguments])
    return capsys.readouterr().out

  return run


@pytest.fixture
def fails(capsys):
  """Runs a command that must fail by the book; returns its sentence."""

  def run(*arguments, status=2):
    with pytest.raises(SystemExit) as caught:
      main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert caught.value.code == status
    assert out == ""
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err

  return run


# Costs and lists --------------------------------------------------------------


@pytest.mark.parametrize(
  ("preset", "macs", "params"),
  [
    ("fairnas-a", 388122848, 4651352),
    ("fairnas-b", 345297632, 4506272),
    ("fairnas-c", 321024992, 4397864),
  ],
)
def test_golden_costs(call, preset, macs, params):
  out = call("cost", "--space", "fairnas", "--arch", preset, "--json")
  assert out.count("\n") == 1
  value = json.loads(out)
  assert value.keys() == {"space", "arch", "macs", "params", "layers"}
  assert value["macs"] == macs
  assert value["params"] == params
  assert value["space"] == "fairnas"
  assert len(value["arch"]) == 19
  for name in ("macs", "params"):
    assert sum(row[name] for row in value["layers"]) == value[name]


def test_cost_for_people(call):
  out = call("cost", "--space", "fairnas", "--arch", "fairnas-a")
  assert "388,122,848 multiply-adds, 4,651,352 parameters" in out
  assert len({len(line) for line in out.splitlines()[:-1]}) == 1


def test_cost_options_and_classes(call):
  args = ("cost", "--space", "fairnas", "--arch", "fairnas-a", "--json")
  plain = json.loads(call(*args))
  ten = json.loads(call(*args, "--classes", 10))
  assert plain["params"] - ten["params"] == 990 * 1281
  se = json.loads(call(*args, "--options", '{"se_ratio": 0.5}'))
  assert se["params"] > plain["params"]


def test_cost_of_a_space_in_a_file(call, repo):
  file = repo / "docs" / "examples" / "my_space.py"
  value = json.loads(call("cost", "--space", file, "--arch", "0120", "--json"))
  assert value["space"] == "my-space"


@pytest.mark.parametrize(
  ("what", "names"),
  [
    ("spaces", set(SPACES)),
    ("methods", set(METHODS)),
    ("data", {"digits", "npz", "folder", "idx", "tfds"}),
  ],
)
def test_lists(call, what, names):
  value = json.loads(call("list", what, "--json"))
  assert value.keys() == {what}
  assert {row["name"] for row in value[what]} == names
  text = call("list", what)
  assert len(text.splitlines()) == len(names)
  for name in names:
    assert name in text


def test_list_of_configs(call, repo):
  rows = json.loads(call("list", "configs", "--json"))["configs"]
  files = (repo / "configs").glob("*.py")
  assert {r["name"] for r in rows} == {f"configs/{p.name}" for p in files}
  for row in rows:
    whole = "get_configs" if "/compare_" in row["name"] else "get_config"
    assert {whole, "quicktest"} <= set(row["variants"])
    assert row["about"]
    assert row["name"] in call("list", "configs")


# Benchmarks ----------------------------------------------------------------


def test_bench_prints_one_json_object(call, repo):
  space = repo / "tests" / "bench" / "bench_space.py"
  args = ("bench", "score", "--space", space, "--sets", "uniform:3",
          "--repeats", 1)  # fmt: skip
  out = call(*args, "--json")
  assert out.count("\n") == 1
  value = json.loads(out)
  assert value["bench"] == "score"
  assert value["sets"][0]["scores"]["agree"]
  assert value["sets"][0]["ratio"]["median"] > 0
  assert value["machine"]["platform"]
  assert "bench score on space bench-tiny" in call(*args)


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (["score", "--sets", "segmnt"], "Did you mean 'segment'"),
    (["score", "--repeats", "0"], "--repeats is 0"),
    (["train", "--batch-sizes", "0"], "--batch-sizes is 0"),
    (["kernels", "--space", "fairnaz"], "Did you mean 'fairnas'"),
  ],
)
def test_unusable_benchmarks(arguments, part, fails):
  assert part in fails("bench", *arguments)


# Help ---------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_flag_and_says_what_it_does(verb, capsys):
  with pytest.raises(SystemExit) as caught:
    main([verb, "--help"])
  assert caught.value.code in (0, None)
  text = capsys.readouterr().out
  for field in dataclasses.fields(VERBS[verb]):
    name = {"config": "CONFIG", "what": "{spaces"}.get(
      field.name, f"--{field.name.replace('_', '-')}"
    )
    assert name in text
  summary = VERBS[verb].__doc__.split()
  assert " ".join(summary[:3]) in " ".join(text.split())


@pytest.mark.parametrize(
  ("what", "options"),
  [
    ("score", ScoreOptions),
    ("train", TrainOptions),
    ("kernels", KernelOptions),
    ("input", InputOptions),
  ],
)
def test_help_of_the_benchmarks(what, options, capsys):
  with pytest.raises(SystemExit) as caught:
    main(["bench", what, "--help"])
  assert caught.value.code in (0, None)
  text = capsys.readouterr().out
  for field in dataclasses.fields(options):
    assert f"--{field.name.replace('_', '-')}" in text
  assert options.__doc__.splitlines()[0] in text


def test_help_lists_every_verb(capsys):
  with pytest.raises(SystemExit):
    main(["--help"])
  text = capsys.readouterr().out
  for verb in (*VERBS, "bench", "prepare"):
    assert verb in text


def test_an_unknown_flag_has_status_2(capsys):
  with pytest.raises(SystemExit) as caught:
    main(["run", "digits_fairnas", "--workdri", "x"])
  assert caught.value.code == 2
  assert "--workdir" in capsys.readouterr().err


# Mistakes: one sentence, status 2, nothing written --------------------------


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    (["--set", "search.populaton=4"], ["Did you mean 'population'"]),
    (["--set", "search.population=many"], ["search.population", "int", "many"]),
    (["--set", "search.population"], ["no '='"]),
    (["--set", "net.remat=1"], ["net.remat", "true or false"]),
    (["--set", "method=fairnes"], ["method", "Did you mean 'fairnas'"]),
    (["--set", "space.name=digitz"], ["space", "Did you mean 'digits'"]),
    (["--set", "train.sampler=fare"], ["sampler", "Did you mean 'fair'"]),
    (["--set", 'space.options={"widht": 2}'], ["digits", "widht"]),
    (["--set", "space.image_size=-3"], ["image_size is -3"]),
    (["--budget", "macs<=1k"], ["smallest network", "macs<="]),
    (["--budget", "macs=60M"], ["macs=60M", "cannot be read"]),
    (["--budget", "flops<=60M"], ["flops", "macs"]),
    (["--data", "digitz"], ["Did you mean 'digits'"]),
    (["--data", "folder:/no/such/place"], ["/no/such/place"]),
    (["--data", "npz:/no/such.npz"], ["/no/such.npz"]),
    (["--seed", "-1"], ["seed is -1"]),
  ],
  ids=lambda v: "-".join(v) if v[0].startswith("--") else "",
)
def test_mistakes_in_a_run(change, parts, fails, quick, tmp_path):
  sentence = fails("run", quick, "--workdir", tmp_path / "w", *change)
  for part in parts:
    assert part in sentence
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("verb", ["run", "train", "search", "report", "score"])
def test_an_unknown_config_names_the_nearest(verb, fails, tmp_path):
  sentence = fails(verb, "digits_fairnass", "--workdir", tmp_path / "w")
  assert "digits_fairnas" in sentence
  sentence = fails(verb, "digits_fairnas:quiktest", "--workdir", tmp_path / "w")
  assert "Did you mean 'quicktest'" in sentence
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("arch", "parts"),
  [
    ("0123", ["4 indices", "19 layers"]),
    ("2023500551311335358", ["index 8", "layer 18", "0..5"]),
    ("fairnas-d", ["fairnas-a", "19 choice indices"]),
    ("20a3500551311335354", ["19 choice indices"]),
  ],
)
def test_unusable_archs(arch, parts, fails):
  sentence = fails("cost", "--space", "fairnas", "--arch", arch)
  for part in (arch, *parts):
    assert part in sentence


@pytest.mark.parametrize(
  ("flags", "parts"),
  [
    (["--space", "fairnaz"], ["Did you mean 'fairnas'"]),
    (["--space", "no_such.py"], ["no file 'no_such.py'"]),
    (["--space", "fairnas", "--options", '{"act": "foo"}'], ["'foo'", "relu6"]),
    (["--space", "fairnas", "--options", '{"se_ratio": "x"}'], ["se_ratio"]),
    (["--space", "fairnas", "--options", '{"se": 1}'], ["'se'"]),
    (["--space", "fairnas", "--options", "[1]"], ["JSON object"]),
    (["--space", "fairnas", "--options", "{"], ["JSON object"]),
    (["--space", "fairnas", "--classes", "-1"], ["n_classes is -1"]),
  ],
)
def test_unusable_spaces(flags, parts, fails):
  sentence = fails("cost", "--arch", "fairnas-a", *flags)
  for part in parts:
    assert part in sentence


def picture(path, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
  Image.fromarray(pixels).save(path)


def test_a_folder_with_one_class(fails, quick, tmp_path):
  picture(tmp_path / "images" / "cats" / "a.png", 0)
  args = ("--data", f"folder:{tmp_path / 'images'}")
  sentence = fails("run", quick, "--workdir", tmp_path / "w", *args)
  assert "cats" in sentence
  assert "at least 2" in sentence
  assert not (tmp_path / "w").exists()


def test_an_image_that_cannot_be_read_is_named(fails, quick, tmp_path):
  for i in range(6):
    picture(tmp_path / "images" / ("cats", "dogs")[i % 2] / f"{i}.png", i)
  bad = tmp_path / "images" / "dogs" / "broken.png"
  bad.write_bytes(b"\x89PNG but not really")
  args = ("--data", f"folder:{tmp_path / 'images'}")
  sentence = fails("run", quick, "--workdir", tmp_path / "w", *args)
  assert str(bad) in sentence
  assert not (tmp_path / "w").exists()


@pytest.fixture
def used(quick, tmp_path):
  """A folder that belongs to the quicktest with seed 3."""
  folder = tmp_path / "used"
  folder.mkdir()
  config = override(load_config(quick), ["seed=3"])
  (folder / "config.json").write_text(json.dumps(to_json(config)))
  return folder


def test_a_folder_of_another_config(fails, quick, used):
  sentence = fails("run", quick, "--workdir", used)
  assert "seed: 3 there, 0 here" in sentence
  assert [p.name for p in used.iterdir()] == ["config.json"]


def test_resume_never_refuses_a_used_folder(fails, quick, used):
  sentence = fails(
    "train", quick, "--workdir", used, "--seed", 3, "--resume", "never"
  )
  assert "--resume" in sentence
  assert [p.name for p in used.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
  ("verb", "before"),
  [
    ("search", "train"), ("rank", "train"), ("retrain", "search"),
    ("export", "search"), ("report", "run"),
  ],
)  # fmt: skip
def test_a_stage_too_early_names_the_command(
  verb, before, fails, quick, tmp_path
):
  sentence = fails(verb, quick, "--workdir", tmp_path / "w")
  assert f"python -m jaxnas {before}" in sentence
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("archs", "parts"),
  [
    ([], ["no archs", "--archs"]),
    (["--archs", "0123"], ["4 indices", "8 layers"]),
    (["--archs", "00000009"], ["layer 7", "0..5"]),
    (["--archs", "missing.csv"], ["missing.csv"]),
    (["--archs", "00000000"], ["python -m jaxnas train"]),
  ],
)
def test_score_of_nothing_usable(archs, parts, fails, quick, tmp_path):
  sentence = fails("score", quick, "--workdir", tmp_path / "w", *archs)
  for part in parts:
    assert part in sentence
  assert not (tmp_path / "w").exists()


def test_rank_without_its_truth_file(fails, quick, tmp_path):
  sentence = fails(
    "rank", quick, "--workdir", tmp_path / "w", "--truth", "none.csv"
  )
  assert "none.csv" in sentence
  assert not (tmp_path / "w").exists()


# How results and failures come out --------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_archs_from_files(suffix, tmp_path, repo):
  from jaxnas.spaces import get_space

  path = tmp_path / f"archs{suffix}"
  text = {
    ".csv": "round,arch,accuracy\n1,00000000,0.5\n2,5-0-1-2-3-4-5-0,0.7\n",
    ".txt": "00000000\n\n50123450\n",
  }
  path.write_text(text[suffix])
  archs = read_archs([str(path), "11111111"], get_space("digits"))
  want = [[0] * 8, [5, 0, 1, 2, 3, 4, 5, 0], [1] * 8]
  np.testing.assert_array_equal(archs, want)


def test_json_is_valid_even_for_nan(call, monkeypatch):
  nan = {"tau": math.nan, "rows": [1.5, math.inf]}
  monkeypatch.setattr(cli, "_call", lambda command: nan)
  out = call("list", "spaces", "--json")
  value = json.loads(out, parse_constant=pytest.fail)
  assert value == {"tau": None, "rows": [1.5, None]}


def test_a_failed_run_has_status_1(fails, monkeypatch):
  def diverge(command):
    raise RunError("stage train diverged at step 7.")

  monkeypatch.setattr(cli, "_call", diverge)
  assert "step 7" in fails("list", "spaces", status=1)


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, capsys):
  def interrupt(command):
    raise KeyboardInterrupt

  monkeypatch.setattr(cli, "_call", interrupt)
  with pytest.raises(SystemExit) as caught:
    main(["list", "spaces"])
  assert caught.value.code == 130
  assert "same command" in capsys.readouterr().err


def test_results_for_people():
  estimate = {"value": 0.5, "low": 0.25, "high": math.nan}
  ranking = {
    "n": 24, "selection": "uniform", "pairs": 276, "bn_mode": "recalibrate",
    "confidence": 0.95, "kendall_tau_b": estimate, "kendall_tau_a": 0.4,
    "spearman": estimate, "top_k": 5, "top_k_overlap": estimate,
    "regret": 0.01, "baselines": {"macs": {**estimate, "gain": estimate}},
  }  # fmt: skip
  text = printing.text("rank", ranking)
  assert "24 networks (uniform), 276 pairs" in text
  assert "95% bootstrap intervals" in text
  assert "macs alone: tau-b 0.500 [0.250, nan]" in text
  rows = [{"arch": "01", "accuracy": 0.5}, {"arch": "10", "accuracy": 0.25}]
  score = {"images": 9, "bn_mode": "batch", "archs": rows}
  assert printing.text("score", score).splitlines() == [
    "supernet metrics on 9 validation images, batch norm: batch",
    "arch  accuracy",
    "  01    0.5000",
    "  10    0.2500",
  ]
  stage = {"stage": "train", "steps": 3, "rows": [1]}
  assert printing.text("train", stage) == "stage: train\nsteps: 3"


def test_the_whole_way_through_processes(repo, tmp_path, quick, xla_cache):
  """Score after train, as a user types it; stdout holds nothing but JSON."""

  def jaxnas(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "jaxnas", *map(str, arguments)],
      cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip

  (tmp_path / "space.py").write_text(
    (repo / "docs" / "examples" / "my_space.py").read_text()
  )
  config = (
    quick, "--workdir", tmp_path / "w",
    "--set", f"space.name={tmp_path / 'space.py'}",
    "--set", 'space.options={"width": 4}', "--set", "space.image_size=8",
    "--set", "train.epochs=1", "--set", "data.limit=200", "--budget", "",
  )  # fmt: skip
  done = jaxnas("train", *config, "--json")
  assert done.returncode == 0, done.stderr
  value = json.loads(done.stdout)
  assert value["stage"] == "train"
  assert value["steps"] == 6
  assert "200 / 359 / 359 images" in done.stderr
  assert "budget none" in done.stderr
  done = jaxnas("score", *config, "--archs", "0120", "2-1-0-2")
  assert done.returncode == 0, done.stderr
  head, names, *rows = done.stdout.splitlines()
  assert "359 validation images, batch norm: recalibrate" in head
  assert names.split() == ["arch", "accuracy", "loss", "params", "macs"]
  assert [r.split()[0] for r in rows] == ["0120", "2102"]
  done = jaxnas("retrain", *config)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith("error: ")
  assert "Traceback" not in done.stderr
