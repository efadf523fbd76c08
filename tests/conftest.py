import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jaxnas.memory import drop_programs

REPO = Path(__file__).resolve().parents[1]


# Files that take longest. Begun first, they leave no worker alone at the end.
LONGEST = (
  "test_experiment.py", "test_notebooks.py", "test_hosts.py", "test_dcnas.py",
  "test_pgnas.py", "test_irlas.py", "test_eight_devices.py", "test_step.py",
  "test_masked_step.py", "test_engines.py", "test_cli.py", "test_gcn.py",
  "test_notebooks_methods.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts the tests of the longest files first, otherwise in their order."""
  order = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def repo() -> Path:
  """The root of the checkout."""
  return REPO


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
  """Finds a data file, or a folder of them, or skips the test without it.

  The folder is `<repo>/../shared/data`, or what `JAXNAS_DATA` says.
  """
  root = Path(os.environ.get("JAXNAS_DATA", REPO.parent / "shared" / "data"))

  def find(name: str) -> Path:
    path = root / name
    if not path.exists():
      pytest.skip(f"no {path}; set JAXNAS_DATA to the folder of the data sets")
    return path

  return find


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps() -> Iterator[None]:
  """Drops compiled programs in time: a crash of XLA would end the suite."""
  yield
  drop_programs()


@pytest.fixture(scope="session")
def xla_cache(tmp_path_factory) -> dict[str, str]:
  """Environment in which processes share what they compile."""
  return {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }


@pytest.fixture(scope="module")
def compiled_once(xla_cache) -> Iterator[None]:
  """Shares that cache with this process, and sets it for those it starts."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  names = {key: key.lower() for key in xla_cache}
  before = {key: getattr(jax.config, name) for key, name in names.items()}
  kept = {key: os.environ.get(key) for key in names}
  values = [xla_cache["JAX_COMPILATION_CACHE_DIR"], 0.0, -1]
  for name, value in zip(names.values(), values, strict=True):
    jax.config.update(name, value)
  os.environ.update(xla_cache)
  compilation_cache.reset_cache()
  yield
  for key, name in names.items():
    jax.config.update(name, before[key])
    if kept[key] is None:
      del os.environ[key]
    else:
      os.environ[key] = kept[key]
  compilation_cache.reset_cache()
