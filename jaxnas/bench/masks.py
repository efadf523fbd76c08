"""`bench masks`: many masks in one call beside the best serial loop."""

import dataclasses
import functools
import json
import logging
from pathlib import Path

import jax
import numpy as np

from jaxnas.bench.options import MaskOptions
from jaxnas.bench.timing import (
  check_counts,
  first_call,
  header,
  interleave,
  peak_memory,
  ratio,
  spread,
)
from jaxnas.bench.workload import make_images, space_options
from jaxnas.compilations import Compilations
from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.nets import MaskedSupernet, Variables
from jaxnas.scoring import MaskForm, MaskScorer
from jaxnas.sharding import make_placement
from jaxnas.spaces import SUPERNETS, MaskSpace, get_space

log = logging.getLogger("jaxnas")

# Final drop rates of the released DenseNet-121 run (authors' log): groups of
# 638 in each interval, rounded bounds included.
PUBLISHED = (
  (0.0, 0.01, 451), (0.01, 0.1, 55), (0.1, 0.3, 18), (0.3, 0.4, 16),
  (0.4, 0.5, 53), (0.5, 0.6, 12), (0.6, 0.788, 33),
)  # fmt: skip
# Largest difference of losses, in nats, that is put down to rounding.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


@dataclasses.dataclass(frozen=True)
class MaskWorkload:
  """What masks are scored on.

  Attributes:
    space: with the data's classes and channels.
    supernet: the masked network.
    variables: its weights, `supernet.init(jax.random.key(seed))`.
    data: `train` holds the calibration images, `validation` the scored ones.
    rates: drop rate of each group, `float64[G]`.
    seed: of weights, images and masks.
  """

  space: MaskSpace
  supernet: MaskedSupernet
  variables: Variables
  data: Dataset
  rates: np.ndarray
  seed: int

  def masks(self, n: int, stream: int = 0) -> np.ndarray:
    """Draws `n` masks from the rates, others for each stream: `int32[n, L]`."""
    rng = np.random.default_rng([self.seed, n, stream])
    return self.space.draw(rng, self.rates, n)


def make_mask_workload(options: MaskOptions) -> MaskWorkload:
  """Builds a workload.

  Raises:
    UserError: for an unknown space, source or file of rates, a space that is
      no masked network, or a number out of range.
  """
  o = options
  space = get_space(o.space, **space_options(o.options))
  if not isinstance(space, MaskSpace):
    raise UserError(
      f"space {space.name!r} is a chain of layers and has no channel masks;"
      f" legal: {', '.join(SUPERNETS)}, or a file with a MaskSpace."
    )
  data = make_images(
    space.graph, o.calibration_images, o.validation_images, o.seed, o.data
  )
  space = space.replace(
    n_classes=data.n_classes, image_channels=data.image_channels
  )
  rates = read_rates(o.rates, space, o.seed)
  supernet = MaskedSupernet(space, NetConfig(precision=o.precision))
  variables = supernet.init(jax.random.key(o.seed))
  return MaskWorkload(space, supernet, variables, data, rates, o.seed)


def read_rates(text: str, space: MaskSpace, seed: int) -> np.ndarray:
  """Drop rates as the command line names them.

  Args:
    text: a number; `published`, which draws the rate of each group from the
      histogram of the released DenseNet-121 run, uniform within an interval; or
      the `posterior.json` that a run writes.
    space: of the groups.
    seed: of the draw.

  Returns:
    `float64[G]`, 0..1.

  Raises:
    UserError: for what is none of these, or rates of other groups.
  """
  groups = len(space.groups)
  if text == "published":
    rng = np.random.default_rng(seed)
    low, high, counts = np.array(PUBLISHED).T
    bins = rng.choice(len(PUBLISHED), groups, p=counts / counts.sum())
    return rng.uniform(low[bins], high[bins])
  try:
    rates = np.full(groups, float(text))
  except ValueError:
    rates = _posterior(text, space)
  if not ((rates >= 0) & (rates <= 1)).all():
    raise UserError(f"--rates {text!r}: drop rates lie between 0 and 1.")
  return rates


def _posterior(text: str, space: MaskSpace) -> np.ndarray:
  path = Path(text)
  try:
    rows = json.loads(path.read_text())["groups"]
    found = [(row["node"], row["channels"]) for row in rows]
    rates = np.array([row["rate"] for row in rows], np.float64)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"--rates {text!r} is no number between 0 and 1, not 'published', and no"
      " posterior.json of a run."
    ) from error
  if found != [(g.node, g.channels) for g in space.groups]:
    raise UserError(
      f"{path} has the rates of other groups than {space.name!r} with these"
      " --options."
    )
  return rates


def bench_masks(options: MaskOptions) -> dict:
  """Times many masks in one call and serial loops, on the same masks.

  All arms run in one process, turn about. A serial loop is one compiled program
  that scores one mask in each call: on whole batches, and on the tiles of
  images that the default form takes; the faster of them is what the others are
  compared with. All but the default form time a sample of the masks, and their
  seconds are scaled. Scores are compared before anything is timed.

  Returns:
    JSON object: the options, `machine`, `groups` and `channels` of the space,
    `kept_channels` (mean share over the masks); `beginnings` (whether the
    default form computes those that masks have in common once, and the ratio of
    multiply-adds without and with that); `scores` (how the arms
    compare); `serial` (the faster loop) and `together` (the default form), with
    their costs as in `bench score`; `ratio` and `total_ratio` (with
    compiling); `compilations_second_set`; and `forms`, one row for each arm:
    `vectorised` masks at once, so many times `looped` in a call, `tile` images
    at once, `role` (`serial` and `default`), `seconds` for all masks and
    `ratio` to the serial loop. Seconds and ratios are medians with the smallest
    and the largest.

  Raises:
    UserError: for an unknown name or a number out of range.
  """
  o = options
  check_counts(
    n=o.n, calibration_images=o.calibration_images, repeats=o.repeats,
    validation_images=o.validation_images, batch_size=o.batch_size,
    sample=o.sample, max_live_bytes=o.max_live_bytes,
    chunks=min(o.chunks, default=1),
  )  # fmt: skip
  check_counts(least=0, seed=o.seed)
  w = make_mask_workload(o)
  archs = w.masks(o.n)
  timed = min(o.sample, o.n)
  some, scale = archs[:timed], o.n / timed
  arms = _arms(w, o)
  first, scores = {}, {}
  for name, arm in arms.items():
    log.info("bench masks: compiling %s", name)
    scores[name], first[name] = first_call(
      functools.partial(arm, some if name != "together" else archs)
    )
  compared = _compare(scores, timed, TOLERANCE[o.precision])
  if not compared["agree"]:
    log.warning(
      "bench masks: the arms disagree (losses by %.3g): do not trust the"
      " ratios.", compared["largest_loss_difference"],
    )  # fmt: skip
  runs = {name: functools.partial(arm, some) for name, arm in arms.items()}
  runs["together"] = functools.partial(arms["together"], archs)
  with Compilations() as again:
    arms["together"](w.masks(o.n, 1))
  log.info("bench masks: timing %d arms, %d rounds", len(arms), o.repeats)
  seconds = interleave(runs, o.repeats)
  best = min(
    (name for name in arms if name.startswith("serial")),
    key=lambda name: spread(seconds[name])["median"],
  )
  scales = dict.fromkeys(arms, scale) | {"together": 1.0}

  def costs(name: str) -> dict:
    whole = spread(seconds[name], scales[name])
    setup = first[name].setup(spread(seconds[name])["median"])
    return {
      "seconds": whole,
      "masks_per_second": o.n / whole["median"],
      "setup": setup,
      "total_seconds": whole["median"] + setup["seconds"],
      "peak": peak_memory(runs[name]),
      "largest_program": first[name].program,
    }

  serial, together = costs(best), costs("together")
  roles = {best: "serial", "together": "default"}
  return {
    **header("masks", w.space, o),
    "groups": len(w.space.groups),
    "channels": w.space.n_layers,
    "kept_channels": float(archs.mean()),
    "beginnings": arms["together"].sharing(archs),
    "scores": compared,
    "serial": {"timed": timed, **serial},
    "together": together,
    "ratio": ratio(seconds[best], seconds["together"], scale),
    "total_ratio": serial["total_seconds"] / together["total_seconds"],
    "compilations_second_set": again.count,
    "forms": [
      {
        **dataclasses.asdict(arm.form),
        "role": roles.get(name, ""),
        "seconds": spread(seconds[name], scales[name]),
        "ratio": ratio(seconds[best], seconds[name], scale / scales[name]),
        "compile_seconds": first[name].compile_seconds,
      }
      for name, arm in arms.items()
    ],
  }


class _Arm:
  """A scorer of one form; compiled by its first call."""

  def __init__(self, w: MaskWorkload, o: MaskOptions, form: MaskForm | None):
    placement = make_placement()
    config = ScoreConfig(
      bn_mode=o.bn_mode, calibration_images=o.calibration_images,
      batch_size=o.batch_size, max_live_bytes=o.max_live_bytes,
    )  # fmt: skip
    self._scorer = MaskScorer(w.supernet, w.data, config, placement, form)
    self._variables = placement.put(w.variables)

  def sharing(self, archs: np.ndarray) -> dict:
    """Whether beginnings are shared, and the work that this would save."""
    return {
      "shared": self._scorer.shares(archs),
      "work_ratio": self._scorer.saving(archs),
    }

  @property
  def form(self) -> MaskForm:
    """How it computes, after memory had its say."""
    return self._scorer.form

  def __call__(self, archs: np.ndarray) -> dict[str, np.ndarray]:
    return self._scorer(self._variables, archs, per_example=True)


def _arms(w: MaskWorkload, o: MaskOptions) -> dict[str, _Arm]:
  together = _Arm(w, o, None)
  arms = {"serial": _Arm(w, o, MaskForm(1, 1, 0))}
  tiled = MaskForm(1, 1, together.form.tile)
  if tiled != arms["serial"].form:
    arms["serial, tiled"] = _Arm(w, o, tiled)
  for chunk in o.chunks:
    form = MaskForm(vectorised=chunk, looped=1, tile=0)
    arms[f"{chunk} vectorised"] = _Arm(w, o, form)
  arms["looped"] = _Arm(w, o, together.form)
  return {**arms, "together": together}


def _compare(scores: dict, timed: int, tolerance: float) -> dict:
  """How far the scores of all arms are from those of the serial one."""
  reference = scores["serial"]
  gaps, unequal = [], 0
  for found in scores.values():
    gaps.append(np.abs(found["loss"][:timed] - reference["loss"]).max())
    unequal += int((found["correct"][:timed] != reference["correct"]).sum())
  largest = float(np.max(gaps))  # NaN if any is
  return {
    "compared": timed,
    "arms": len(scores),
    "largest_loss_difference": largest,
    "unequal_predictions": unequal,
    "agree": bool(largest <= tolerance),
  }
