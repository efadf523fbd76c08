"""Answers of the command line that need no run: what exists, what it costs."""

import ast
import csv
import json
import os
from pathlib import Path

import numpy as np

from jaxnas.config import config_files
from jaxnas.costs import cost_tables, layer_rows
from jaxnas.costs.graph import graph_costs, graph_rows
from jaxnas.costs.masks import mask_costs, mask_layer_rows
from jaxnas.data import SOURCES
from jaxnas.errors import UserError
from jaxnas.methods import METHODS
from jaxnas.spaces import (
  SPACES,
  AnySpace,
  BlockSpace,
  MaskSpace,
  block_graph,
  get_space,
)


def read_archs(given: list[str], space: AnySpace) -> np.ndarray:
  """Reads archs as the command line takes them.

  Args:
    given: archs as text, presets, or files: CSV with a column `arch`, or one
      arch a line.
    space: the space.

  Returns:
    `int32[n, L]`.

  Raises:
    UserError: for what is none of these.
  """
  archs = []
  for item in given:
    path = Path(item)
    if not os.path.isfile(item):  # a mask is too long for Path.is_file
      if path.suffix in (".csv", ".txt"):
        raise UserError(f"no file {item!r}.")
      archs.append(space.from_string(item))
      continue
    try:
      lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
      raise UserError(f"{path} is not a text file ({error}).") from error
    if lines and "arch" in lines[0].split(","):
      found = [row["arch"] for row in csv.DictReader(lines)]
    else:
      found = [line for line in lines if line.strip()]
    archs += [space.from_string(line) for line in found]
  if not archs:
    raise UserError("no archs given; use --archs 2-0-3 or --archs FILE.")
  return np.stack(archs)


def read_space(name: str, options: str = "{}", classes: int = 0) -> AnySpace:
  """Returns a space as the command line names it.

  Args:
    name: registered, or a Python file with `get_space`.
    options: its arguments, a JSON object.
    classes: outputs of the classifier; 0 keeps the space's.

  Raises:
    UserError: for what cannot be read or does not exist.
  """
  try:
    arguments = json.loads(options)
  except json.JSONDecodeError:
    arguments = None
  if not isinstance(arguments, dict):
    raise UserError(f"--options takes a JSON object, not {options!r}.")
  space = get_space(name, **arguments)
  return space.replace(n_classes=classes) if classes else space


def cost(space: AnySpace, text: str) -> dict:
  """Multiply-adds and parameters of an arch, in all and layer by layer.

  Of a mask, its compact network's, product by product (`mask_layer_rows`), with
  the kept shares of `channels` and `operations`. What its layers lack to the
  whole are parameters of batch norms and of constants in sums.
  """
  arch = space.from_string(text)
  if isinstance(space, BlockSpace):
    graph = block_graph(space, arch)
    return {
      "space": space.name,
      "arch": space.to_string(arch),
      **graph_costs(graph),
      "layers": graph_rows(graph),
    }
  if isinstance(space, MaskSpace):
    costs = {n: int(c[0]) for n, c in mask_costs(space, arch).items()}
    return {
      "space": space.name,
      "arch": space.to_string(arch),
      **costs,
      "kept_channels": float(arch.mean()),
      "kept_operations": float(space.kept_operations(arch)[0]),
      "layers": mask_layer_rows(space, arch),
    }
  costs = {n: int(t(arch[None])[0]) for n, t in cost_tables(space).items()}
  return {
    "space": space.name,
    "arch": space.to_string(arch),
    **costs,
    "layers": layer_rows(space, arch),
  }


def catalogue(what: str) -> dict:
  """Lists what exists.

  Args:
    what: `spaces`, `methods`, `configs` or `data`.

  Returns:
    One JSON object for each, under the name of the list.
  """
  lists = {
    "spaces": _spaces, "methods": _methods, "configs": _configs, "data": _data,
  }  # fmt: skip
  return {what: lists[what]()}


def _spaces() -> list[dict]:
  spaces = [(name, get_space(name)) for name in SPACES]
  return [
    {
      "name": name,
      "layers": getattr(space, "max_layers", space.n_layers),
      "choices": int(space.n_choices.max()),
      "archs": _size(space),
      "image_size": space.image_size,
      "presets": [p for p, _ in space.presets],
    }
    for name, space in spaces
  ]


def _size(space: AnySpace) -> int | str:
  # As a number, 2^11011 has more digits than Python will write.
  masks = isinstance(space, MaskSpace)
  return f"2^{space.n_layers}" if masks else space.size


def _methods() -> list[dict]:
  return [
    {"name": m.name, "paper": m.paper, "fidelity": m.fidelity}
    for m in METHODS.values()
  ]


def _configs() -> list[dict]:
  rows = []
  for path in config_files():
    tree = ast.parse(path.read_text())
    variants = [
      node.name
      for node in tree.body
      if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    about = (ast.get_docstring(tree) or "").splitlines()[:1]
    rows.append(
      {
        "name": f"configs/{path.name}",
        "variants": variants,
        "about": " ".join(about),
      }
    )
  return rows


def _data() -> list[dict]:
  return [
    {"name": name, "about": " ".join((f.__doc__ or "").split("\n")[:1])}
    for name, f in SOURCES.items()
  ]
