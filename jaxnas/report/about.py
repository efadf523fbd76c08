"""Sections around the result: terms, provenance, next commands."""

import json
import shlex
from html import escape

from jaxnas import config as config_lib
from jaxnas.costs.budget import write_limit
from jaxnas.report.load import Run
from jaxnas.report.markup import paragraphs

CLASS_NAMES = 20
Steps = tuple[tuple[str, str], ...]  # what a command does, and the command


def glossary(run: Run) -> str:
  """The three accuracies, which are never mixed."""
  if run.masked:
    return (
      "<dl class='glossary'>"
      "<dt>supernet accuracy</dt><dd>The network under a mask, with the"
      " supernet's weights, on the validation split. The winner's is flattered:"
      " it is the highest of many on the images that chose it.</dd>"
      "<dt>stand-alone accuracy</dt><dd>The winner as a compact network after"
      " further training, on the validation split; there is none if it keeps"
      " the supernet's weights as they are, for then both networks give the"
      " same logits.</dd>"
      "<dt>test accuracy</dt><dd>The network that is exported, on images held"
      " out from training and selection, meant to be read once, at the end."
      " This is the number to quote.</dd></dl>"
    )
  if run.stacked:
    return (
      "<dl class='glossary'>"
      "<dt>supernet accuracy</dt><dd>A block's network with shared weights of"
      " the interpreter supernet, on the validation split (ours, not what"
      " BlockQNN did). Cheap; good for comparing blocks, as far as the ranking"
      " can be trusted. The winner's is flattered: those images chose it.</dd>"
      "<dt>stand-alone accuracy</dt><dd>The chosen block's network after"
      " training of its own, on the validation split.</dd>"
      "<dt>test accuracy</dt><dd>That network on images held out from training"
      " and selection, meant to be read once, at the end. This is the number to"
      " quote.</dd></dl>"
    )
  return (
    "<dl class='glossary'>"
    f"{_scores(run)}"
    "<dt>stand-alone accuracy</dt><dd>The arch trained from scratch as an"
    " ordinary network, on the validation split. That split also served the"
    " selection, so it can flatter the winner.</dd>"
    "<dt>test accuracy</dt><dd>The stand-alone network on images held out from"
    " training and selection, meant to be read once, at the end. This is the"
    " number to quote.</dd></dl>"
  )


def _scores(run: Run) -> str:
  """The accuracies that an arch has before it is trained to the end."""
  text = (
    "<dt>supernet accuracy</dt><dd>The arch evaluated with weights inherited"
    " from the supernet, on the validation split. Cheap; good for comparing"
    " archs, as far as the ranking can be trusted.</dd>"
  )
  if run.brief:
    text = (
      "<dt>early accuracy</dt><dd>The arch's own network after"
      f" {run.config.divide.epochs} epochs of training, on the validation"
      " split; there is no supernet. Good for comparing archs, as far as the"
      " ranking can be trusted.</dd>"
    )
  if run.divided:
    text += (
      "<dt>accuracy after the longer training</dt><dd>A cluster's best as its"
      f" own network after {run.config.divide.conquer_epochs} epochs, on the"
      " validation split. It is flattered: the best of several is taken on"
      " those images.</dd>"
    )
  return text


def provenance(run: Run) -> str:
  """Versions, device, data and the whole config."""
  manifest, data = run.manifest, run.manifest.get("data", {})
  rows = [
    (k, manifest[k])
    for k in (
      "jaxnas", "python", "jax", "flax", "platform", "device", "n_devices",
      "seed", "config_fingerprint",
    )
    if k in manifest
  ]  # fmt: skip
  rows += [
    (f"data: {k}", f"{data[k]:,}" if isinstance(data[k], int) else data[k])
    for k in ("source", "fingerprint", "train", "validation", "test")
    if k in data
  ]
  if data.get("n_classes"):
    names = [str(n) for n in data.get("class_names") or ()]
    text = f"{data['n_classes']:,}"
    if names:
      text += f": {', '.join(names[:CLASS_NAMES])}"
    if len(names) > CLASS_NAMES:
      text += f" and {len(names) - CLASS_NAMES:,} more"
    rows.append(("data: classes", text))
  body = ""
  if rows:
    body += '<table class="provenance"><tbody>' + "".join(
      f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>"
      for k, v in rows
    ) + "</tbody></table>"  # fmt: skip
  text = json.dumps(config_lib.to_json(run.config), indent=2)
  body += (
    "<details><summary>the whole config</summary>"
    f"<pre>{escape(text)}</pre></details>"
  )
  if run.missing:
    body += paragraphs(f"Not in this directory: {', '.join(run.missing)}.")
  return body


def own_data(run: Run) -> str:
  """Commands that repeat this on the reader's data and go on from here."""
  if run.stacked:
    return _commands(_block_steps(run))
  return _commands(_mask_steps(run) if run.masked else _path_steps(run))


def _path_steps(run: Run) -> Steps:
  budget = run.budget or "macs<=60M"
  arch = run.winner or "ARCH"
  begin = (
    (
      "search on a folder with one sub-folder of images per class",
      "python -m jaxnas run CONFIG --workdir DIR --data folder:PATH",
    ),
    (
      "the same under a budget",
      "python -m jaxnas run CONFIG --workdir DIR --data folder:PATH"
      f" --budget {shlex.quote(budget)}",
    ),
  )
  model = (
    "the winner as an ordinary model with weights",
    "python -m jaxnas export CONFIG --workdir DIR",
  )
  score = (
    f"{run.scored} and cost of any arch",
    f"python -m jaxnas score CONFIG --workdir DIR --archs {shlex.quote(arch)}",
  )
  if run.divided:
    return (*begin, *_DIVIDED, score, model)
  if run.brief:
    return (*begin, score, model)
  return (
    *begin,
    score,
    (
      "how far the supernet's ranking can be trusted",
      "python -m jaxnas rank CONFIG --workdir DIR --truth FILE",
    ),
    model,
  )


# Every option is one that a run with clusters reads.
_DIVIDED: Steps = tuple(
  (what, f"python -m jaxnas run CONFIG --workdir NEW --set {option}")
  for what, option in (
    ("the number of clusters by silhouette", "divide.clusters=0"),
    ("plain early stopping: one cluster", "divide.clusters=1"),
    ("a baseline: clusters of alike multiply-adds", "divide.partition=macs"),
    ("whether ranking within clusters is better", "ranking.n_archs=24"),
  )
)


def _mask_steps(run: Run) -> Steps:
  """As above; every option is one that a masked network reads."""
  again = "python -m jaxnas run CONFIG --workdir NEW"
  macs = run.result.get("metrics", {}).get("macs")
  budget = run.budget or (write_limit("macs", macs) if macs else "macs<=60M")
  return (
    (
      "the same on a folder with one sub-folder of images per class",
      f"{again} --data folder:PATH",
    ),
    (
      "a smaller network: train the rates towards a share of the multiply-adds",
      f"{again} --set masks.target=macs --set masks.target_share=0.4",
    ),
    (
      "no mask above a budget",
      f"{again} --budget {shlex.quote(budget)}",
    ),
    (
      "train the winner on from its inherited weights",
      f"{again} --set retrain.epochs=20 --set retrain.inherit=true",
    ),
    (
      "the baseline: fixed drop rates, nothing learned",
      f"{again} --set masks.rates=fixed",
    ),
    (
      "supernet accuracy and cost of any mask; full keeps every channel",
      "python -m jaxnas score CONFIG --workdir DIR --archs full",
    ),
    (
      "the winner as an ordinary model with weights",
      "python -m jaxnas export CONFIG --workdir DIR",
    ),
  )


def _block_steps(run: Run) -> Steps:
  """As above; every option is one that a search for blocks reads."""
  again = "python -m jaxnas run CONFIG --workdir NEW"
  budget = run.budget or "macs<=60M"
  arch = shlex.quote(run.winner or "BLOCK")
  again_ = (
    "the same on a folder with one sub-folder of images per class",
    f"{again} --data folder:PATH",
  )
  given = (
    "train one block, without a search",
    f"{again} --set blocks.block={arch}",
  )
  model = (
    "the winner as an ordinary model with weights",
    "python -m jaxnas export CONFIG --workdir DIR",
  )
  if run.config.blocks.block:
    return again_, given, model
  return (
    again_,
    ("no block above a budget", f"{again} --budget {shlex.quote(budget)}"),
    (
      "BlockQNN: no guidance by experts",
      f"{again} --set blocks.guidance=0",
    ),
    (
      "another expert",
      f"{again} --set expert.blocks=resnet-bottleneck",
    ),
    (
      "accuracy and cost of any block",
      f"python -m jaxnas score CONFIG --workdir DIR --archs {arch}",
    ),
    given,
    model,
  )


def _commands(steps: Steps) -> str:
  return "<dl class='commands'>" + "".join(
    f"<dt>{escape(what)}</dt><dd><pre>{escape(command)}</pre></dd>"
    for what, command in steps
  ) + "</dl>"  # fmt: skip
