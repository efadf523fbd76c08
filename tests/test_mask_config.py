"""Fields that a kind of method does not read are refused, in one sentence."""

import dataclasses
import math

import pytest
from test_config import LEAVES, another

from jaxnas.config import ExperimentConfig, load_config, override
from jaxnas.errors import UserError
from jaxnas.methods.checks import (
  check_mask_config,
  check_path_config,
  check_values,
  refuse_foreign,
)  # fmt: skip

MASKS = override(
  ExperimentConfig(method="pgnas"), ["train.optimizer.weight_decay=0"]
)
PATHS = ExperimentConfig()

FOREIGN_TO_MASKS = [
  path
  for path in LEAVES
  if path in {
    "latency", "retrain.dropout", "score.race",
    "net.bn_affine", "net.bn_track", "net.remat", "train.sampler",
    "train.paths", "train.pad_unequal", "train.share_batch",
    "train.loss_reduce", "train.paths_in_flight", "train.evaluate_archs",
  } or path.startswith(("search.", "ranking."))
]  # fmt: skip
FOREIGN_TO_PATHS = [path for path in LEAVES if path.startswith("masks.")]


def test_the_lists_are_whole():
  assert len([p for p in FOREIGN_TO_MASKS if "." not in p]) == 1
  assert len([p for p in FOREIGN_TO_MASKS if p.startswith("train.")]) == 7
  assert len([p for p in FOREIGN_TO_MASKS if p.startswith("net.")]) == 3
  assert len([p for p in FOREIGN_TO_MASKS if p.startswith("score.")]) == 1
  assert len([p for p in FOREIGN_TO_MASKS if p.startswith("search.")]) > 30
  assert len(FOREIGN_TO_PATHS) == len(dataclasses.fields(MASKS.masks)) > 15


def test_defaults_are_accepted():
  check_mask_config(MASKS)
  check_path_config(PATHS)


def test_masks_have_two_engines():
  for engine in ("auto", "wavefront", "serial"):
    check_mask_config(override(MASKS, [f"score.engine={engine}"]))
  with pytest.raises(UserError, match="for masks: auto, wavefront or serial"):
    check_mask_config(override(MASKS, ["score.engine=routed"]))


def one_sentence(error):
  text = str(error.value)
  assert "\n" not in text
  assert text.endswith(".")
  assert ". " not in text
  return text


def sections_of(path):
  """The field, or a section around it: both are named well enough."""
  parts = path.split(".")
  return tuple(".".join(parts[:n]) + " is " for n in range(2, len(parts) + 1))


@pytest.mark.parametrize("path", FOREIGN_TO_MASKS)
def test_masks_refuse_what_belongs_to_paths(path):
  config = override(MASKS, [f"{path}={another(path)[0]}"])
  with pytest.raises(UserError) as error:
    check_mask_config(config)
  text = one_sentence_head(error)
  assert text.startswith(sections_of(path) or f"{path} is ")
  assert "method pgnas does not use it" in text
  if path.count(".") < 2:
    check_path_config(override(PATHS, [f"{path}={another(path)[0]}"]))


def one_sentence_head(error):
  text = str(error.value)
  assert "\n" not in text
  assert text.endswith("; leave it at its default.")
  return text


@pytest.mark.parametrize("path", FOREIGN_TO_PATHS)
def test_paths_refuse_what_belongs_to_masks(path):
  with pytest.raises(UserError) as error:
    check_path_config(override(PATHS, [f"{path}={another(path)[0]}"]))
  text = one_sentence_head(error)
  assert text.startswith(f"{path} is ")
  assert "method fairnas does not use it" in text


def test_every_other_field_is_left_to_masks():
  """Only what is listed is refused, so the list cannot grow by accident."""
  own = [
    path for path in LEAVES
    if path not in FOREIGN_TO_MASKS
    and not path.startswith(("masks.", "blocks.", "expert."))
    and path != "train.optimizer.weight_decay"
  ]  # fmt: skip
  for path in own:
    try:
      text = another(path)[0]
    except Exception:  # noqa: BLE001, S112 - no other value is known
      continue
    check_mask_config(override(MASKS, [f"{path}={text}"]))


@pytest.mark.parametrize("path", ["blocks.rounds", "expert.offsets"])
def test_masks_and_paths_refuse_what_belongs_to_blocks(path):
  text = f"{path}={another(path)[0]}"
  for check, base in ((check_mask_config, MASKS), (check_path_config, PATHS)):
    with pytest.raises(UserError, match=f"{path} is .* does not use it"):
      check(override(base, [text]))


def test_weight_decay_belongs_to_the_length_scale():
  with pytest.raises(UserError) as error:
    check_mask_config(ExperimentConfig(method="pgnas"))
  text = one_sentence(error)
  assert text.startswith("train.optimizer.weight_decay is ")
  assert "masks.length_scale" in text
  # The retraining of a plain network may decay.
  check_mask_config(override(MASKS, ["retrain.optimizer.weight_decay=1e-4"]))


def test_no_retraining_needs_inherited_weights():
  zero = override(MASKS, ["retrain.epochs=0"])
  with pytest.raises(UserError, match="retrain.inherit"):
    check_mask_config(zero)
  check_mask_config(override(zero, ["retrain.inherit=true"]))
  with pytest.raises(UserError, match="retrain.epochs is 0; .*at least 1"):
    check_path_config(
      override(PATHS, ["retrain.epochs=0", "retrain.inherit=true"])
    )


@pytest.mark.parametrize(
  ("text", "field"),
  [("initial_rate=1", "initial_rate"), ("tau=0", "tau"),
   ("halving=1", "halving"), ("candidates=0", "candidates")],
)  # fmt: skip
def test_values_of_masks_are_checked(text, field):
  with pytest.raises(UserError, match=f"^masks.{field} is "):
    check_mask_config(override(MASKS, [f"masks.{text}"]))


def test_a_value_that_equals_nothing_is_refused():
  search = dataclasses.replace(MASKS.search, mutation_rate=math.nan)
  with pytest.raises(UserError, match="search.mutation_rate is nan"):
    refuse_foreign(dataclasses.replace(MASKS, search=search), "search")


@pytest.mark.parametrize("variant", ["", ":quicktest"])
def test_the_shipped_config_passes(variant):
  config = load_config(f"digits_pgnas{variant}")
  check_values(config)
  check_mask_config(config)
  with pytest.raises(UserError):
    check_path_config(config)
