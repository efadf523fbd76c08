"""`jaxnas score --race`: what is reported, and what is refused."""

import json
import types

import jax
import numpy as np
import pytest

from jaxnas import experiment
from jaxnas.cli import main
from jaxnas.config import load_config, override
from jaxnas.experiment import paths

pytestmark = pytest.mark.usefixtures("compiled_once")

# Choice 2 of the last layer is broken: archs that end in 2 are never right.
ARCHS = ("0120", "2102", "2101", "0012", "0120", "1111")
DROPPED = ["2102", "0012"]
N = 359  # validation images of the digits


@pytest.fixture(scope="module")
def arguments(repo, tmp_path_factory):
  space = repo / "docs" / "examples" / "my_space.py"
  sets = (
    f"space.name={space}", 'space.options={"width": 4}', "space.image_size=8",
    "score.batch_size=32", "score.calibration_images=32",
  )  # fmt: skip
  return [
    f"{repo / 'configs' / 'digits_fairnas.py'}:quicktest",
    "--workdir", str(tmp_path_factory.mktemp("race") / "w"), "--budget", "",
    *(part for text in sets for part in ("--set", text)),
  ]  # fmt: skip


@pytest.fixture
def untrained(monkeypatch):
  """Initial weights in the place of a trained supernet."""

  def load(setup, sampler):
    variables = setup.supernet.init(jax.random.key(0))
    layer = variables["params"]["layer_03"]
    name = setup.supernet.names[3][2]
    layer[name] = jax.tree.map(lambda a: a * np.nan, layer[name])
    return types.SimpleNamespace(variables=variables)

  monkeypatch.setattr(paths, "load_supernet", load)


@pytest.fixture
def score(arguments, untrained, capsys):
  def run(*more):
    main(["score", *arguments, "--archs", *ARCHS, *more])
    return capsys.readouterr().out

  return run


def test_a_race_in_json_lists_survivors_first(score):
  plain = {r["arch"]: r for r in json.loads(score("--json"))["archs"]}
  out = score("--json", "--race", "0.05")
  assert out.count("\n") == 1
  value = json.loads(out)
  rows, race = value["archs"], value["race"]
  assert [r["status"] for r in rows] == ["survived"] * 4 + ["dropped"] * 2
  assert sorted(r["arch"] for r in rows) == sorted(ARCHS)
  assert {r["arch"] for r in rows[4:]} == set(DROPPED)
  accuracies = [r["accuracy"] for r in rows[:4]]
  assert accuracies == sorted(accuracies, reverse=True)
  for row in rows[:4]:
    assert row == {**plain[row["arch"]], "status": "survived", "images": N}
  for row in rows[4:]:
    assert row["accuracy"] is None and row["loss"] is None
    assert row["macs"] == plain[row["arch"]]["macs"]
    assert row["images"] in race["rungs"][:-1]
  assert race["archs"] == 5  # one was given twice
  assert race["error"] == 0.05
  assert race["rungs"] == [32, 64, 128, 256, N]
  assert race["remaining"][-1] == 3
  seen = 3 * N + sum(r["images"] for r in rows[4:])
  assert race["evaluations"] == seen
  assert race["plain_evaluations"] == 5 * N
  assert race["saved"] == pytest.approx(1 - seen / (5 * N))
  assert value["images"] == N


def test_a_race_for_people(score):
  lines = score("--race", "0.05").splitlines()
  assert "359 validation images, batch norm: recalibrate" in lines[0]
  assert "race of 5 distinct archs; left: 5 after 32, " in lines[1]
  assert "3 after 359 images" in lines[1]
  assert "of 1,795 evaluations" in lines[2]
  assert "probability of at most 0.05" in lines[2]
  assert lines[3].split()[:4] == ["arch", "status", "images", "accuracy"]
  assert [line.split()[1] for line in lines[4:8]] == ["survived"] * 4
  for line in lines[8:]:
    assert line.split()[1] == "dropped"
    assert line.split()[3:5] == ["-", "-"]


def test_the_config_may_ask_for_races_and_the_flag_decides(score, arguments):
  always = ("--set", "score.race=0.05", "--json")
  assert json.loads(score(*always)) == json.loads(
    score("--json", "--race", "0.05")
  )
  assert "race" not in json.loads(score(*always, "--race", "0"))
  assert load_config(arguments[0]).score.race == 0  # never the default


def test_the_order_of_images_follows_the_set_of_archs(
  arguments, untrained, monkeypatch, tmp_path
):
  seeds = []

  def spy(*args, order_seed):
    seeds.append(order_seed)
    raise KeyboardInterrupt

  monkeypatch.setattr(paths, "race_archs", spy)
  config = override(
    load_config(arguments[0]),
    [a for a in arguments if "=" in a and not a.startswith("--")],
  )
  run = experiment.make_experiment(config, tmp_path / "w")
  one, other = np.array([[0, 1, 2, 0], [1, 1, 1, 1]]), np.array([[0, 1, 2, 0]])
  for archs in (one, one[::-1], one[[0, 1, 1]], other):
    with pytest.raises(KeyboardInterrupt):
      run.score(archs, 0.05)
  assert seeds[0] == seeds[1] == seeds[2] != seeds[3]


def test_a_race_that_cannot_save_says_so(score, caplog):
  score("--race", "0.05", "--set", "score.batch_size=512")
  assert any("nothing was saved" in m for m in caplog.messages)


@pytest.mark.parametrize(
  ("flags", "part"),
  [
    (["--race", "1"], "score.race is 1.0"),
    (["--race", "-0.1"], "score.race is -0.1"),
    (["--race", "0.05", "--set", "score.bn_mode=batch"], "bn_mode=batch"),
    (["--set", "score.race=2"], "score.race is 2.0"),
  ],
)
def test_races_that_cannot_be_held(flags, part, arguments, capsys):
  with pytest.raises(SystemExit) as caught:
    main(["score", *arguments, "--archs", "0120", *flags])
  assert caught.value.code == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("error: ") and err.count("\n") == 1
  assert part in err
