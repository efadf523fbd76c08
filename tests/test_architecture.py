"""The house: imports point down, dependencies stay where they are wrapped."""

import ast
import sys
from pathlib import Path

import pytest

FLOORS = {
  "errors": 0, "arch": 0,
  "config": 1, "checkpoint": 1, "sharding": 1, "writer": 1,
  "memory": 1, "compilations": 1, "profiling": 1, "hosts": 1, "watch": 1,
  "spaces": 1, "costs": 1,
  "nets": 2, "data": 2, "predictors": 2, "tables": 2,
  "training": 3, "scoring": 3, "search": 3,
  "methods": 4, "report": 4, "bench": 4,
  "experiment": 5, "table_search": 5, "catalogue": 5, "compare": 5,
  "prepare": 5, "estimate": 5,
  "cli": 6, "printing": 6, "__main__": 6,
}  # fmt: skip

# (importer, imported) on one floor, each with its reason.
SIDEWAYS = {
  ("arch", "errors"),  # every file may say no
  ("costs", "spaces"),  # costs are derived from the space's data
  ("costs", "writer"),  # a latency table is a CSV file
  (
    "spaces",
    "config",
  ),  # get_space("file.py") loads a user's file as configs do
  ("hosts", "watch"),  # hosts that work together look after each other
  ("writer", "hosts"),  # host 0 writes, and tells what it reads
  ("checkpoint", "hosts"),  # hosts agree on the checkpoint that they restore
  ("checkpoint", "writer"),  # the sums of a checkpoint are written atomically
  ("sharding", "config"),  # MeshConfig describes the mesh that it builds
  ("compare", "experiment"),  # each arm is an ordinary experiment
  ("compare", "table_search"),  # or an ordinary search of a table
  ("cli", "printing"),  # the text form of what a command found
  ("__main__", "cli"),  # python -m jaxnas
}

# The search must run on any objective, so it never sees a network.
NEVER = {"search": {"nets", "training", "scoring", "data"}}

# Dependencies that only one place may know; None allows no place at all.
WRAPPED = {
  "orbax": "checkpoint",  # its API moves under us at 1.0
  "grain": "data",  # an extra
  "jraph": "predictors",  # unmaintained
  "torch": None,
  "tests": None,
  "configs": None,
}

MAX_LINES = 400
LONG = {
  "cli.py": "the flags of every command, as its help shows them",
  "config.py": "one schema of every option, and how to set one",
  "experiment/paths.py": "the only composer: all stages in reading order",
  "search/segments.py": "one searcher: all phases in reading order",
  "nets/paths.py": "the supernet: one module whose parts share the routing",
}

# Packages of jaxnas that share a name with the standard library, none so far.
SHADOWS: set[str] = set()


def imports(source: str, module: str) -> list[tuple[int, str]]:
  """Lists `(line, dotted name)` of all imports, inside functions too.

  `from jaxnas import costs` and `from . import costs` count as imports of
  `jaxnas.costs`. Names given to `import_module` as text count as well.
  """
  found = []
  package = module.split(".")
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [(node.lineno, a.name) for a in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        base = ".".join(filter(None, [*package[: -node.level], base]))
      found.append((node.lineno, base))
      found += [(node.lineno, f"{base}.{a.name}") for a in node.names]
    elif (
      isinstance(node, ast.Call)
      and ast.unparse(node.func).split(".")[-1]
      in ("import_module", "__import__")
      and node.args
      and isinstance(node.args[0], ast.Constant)
    ):
      found.append((node.lineno, str(node.args[0].value)))
  return found


def offences(source: str, path: str) -> list[str]:
  """Says which imports of one file break the house's rules.

  Args:
    source: text of the file.
    path: its place below `jaxnas/`, with slashes.
  """
  # Relative imports count from the package, `__init__.py` being its own.
  module = "jaxnas." + path.removesuffix(".py").replace("/", ".")
  room = path.split("/")[0].removesuffix(".py")
  if room == "__init__":
    room = None
  elif room not in FLOORS:
    return [f"{path}: no floor is set for {room!r}"]
  bad = []
  for line, name in imports(source, module):
    top, *rest = name.split(".")
    where = f"{path}:{line} imports {name}"
    if top in WRAPPED and room != WRAPPED[top]:
      bad.append(f"{where}, allowed in {WRAPPED[top]} only")
    if top != "jaxnas" or not rest:
      continue
    other = rest[0]
    if room is None:
      bad.append(f"{where}; jaxnas/__init__.py stays free of imports")
    elif other in NEVER.get(room, ()):
      bad.append(f"{where}, which {room} must never see")
    elif other not in FLOORS:
      if other != "__version__":
        bad.append(f"{where}, which has no floor")
    elif other == room or (room, other) in SIDEWAYS:
      continue
    elif FLOORS[other] >= FLOORS[room]:
      bad.append(f"{where}: floor {FLOORS[room]} -> {FLOORS[other]}")
  return bad


@pytest.fixture(scope="module")
def modules(repo) -> dict[str, Path]:
  root = repo / "jaxnas"
  return {
    p.relative_to(root).as_posix(): p
    for p in sorted(root.rglob("*.py"))
    if "_configs" not in p.parts
  }


def test_every_import_points_down(modules):
  assert "costs/table.py" in modules
  bad = [
    b for name, p in modules.items() for b in offences(p.read_text(), name)
  ]
  assert not bad, "\n".join(bad)


def test_every_sideways_exception_is_used(modules):
  used = {
    (name.split("/")[0].removesuffix(".py"), i.split(".")[1])
    for name, p in modules.items()
    for _, i in imports(p.read_text(), "jaxnas." + name.removesuffix(".py"))
    if i.startswith("jaxnas.")
  }
  assert used >= SIDEWAYS


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("errors.py", "from jaxnas import arch"),
    ("spaces/base.py", "from jaxnas.costs import Budget"),
    ("config.py", "import jaxnas.spaces.base as b"),
    ("costs/table.py", "def f():\n  from jaxnas.nets import layers\n"),
    ("costs/table.py", "class A:\n  import jaxnas.training.loop\n"),
    ("costs/table.py", "from ..nets import layers"),
    ("costs/table.py", "from .. import nets"),
    (
      "costs/table.py",
      "import importlib\nimportlib.import_module('jaxnas.cli')",
    ),
    ("search/base.py", "from jaxnas.nets import PathSupernet"),
    ("search/base.py", "if True:\n  from jaxnas import scoring"),
    ("search/base.py", "from jaxnas.training.step import Step"),
    ("training/loop.py", "from jaxnas.scoring import Scorer"),
    ("training/loop.py", "import jaxnas.search"),
    ("methods/fairnas.py", "from jaxnas.report import load"),
    ("experiment/paths.py", "from jaxnas import cli"),
    ("nets/paths.py", "import torch.nn"),
    ("nets/paths.py", "from tests import tiny"),
    ("cli.py", "from configs.digits_fairnas import get_config"),
    ("writer.py", "import orbax.checkpoint as ocp"),
    ("nets/blocks.py", "from jraph import GraphsTuple"),
    ("methods/gcn.py", "import jraph"),
    ("misc.py", "import os"),
    ("report/page.py", "from jaxnas.utils import x"),
    ("__init__.py", "from jaxnas.spaces import Space"),
  ],
)
def test_a_planted_bad_import_is_found(path, source):
  assert len(offences(source, path)) >= 1


@pytest.mark.parametrize(
  ("path", "source"),
  [
    ("checkpoint.py", "import orbax.checkpoint as ocp"),
    ("predictors/gcn.py", "import jraph\nfrom jaxnas.spaces import Space"),
    ("search/base.py", "from jaxnas.predictors import ridge"),
    ("search/base.py", "from jaxnas import arch as arch_lib"),
    ("costs/budget.py", "from jaxnas.costs.table import CostTable"),
    ("costs/budget.py", "from .table import CostTable"),
    ("costs/__init__.py", "from .table import CostTable"),
    ("costs/budget.py", "from ..spaces import Space"),
    ("experiment/base.py", "from jaxnas import __version__"),
    ("cli.py", "from jaxnas.report import load\nimport torchvision_free"),
    ("__main__.py", "from jaxnas.cli import main"),
  ],
)
def test_a_good_import_passes(path, source):
  assert offences(source, path) == []


def test_modules_are_short_and_described(modules):
  bad = []
  for name, path in modules.items():
    text = path.read_text()
    if text.count("\n") > MAX_LINES and name not in LONG:
      bad.append(f"{name} has {text.count(chr(10))} lines")
    if not ast.get_docstring(ast.parse(text)):
      bad.append(f"{name} has no docstring")
  assert not bad, bad


def test_no_module_shadows_the_standard_library(modules):
  tops = {name.split("/")[0].removesuffix(".py") for name in modules}
  taken = tops & (set(sys.stdlib_module_names) - {"__main__"})
  assert taken <= SHADOWS
