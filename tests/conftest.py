import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
  """The root of the checkout."""
  return REPO


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
  """Finds a file of the shared folder, or skips the test if it is absent.

  The folder is `<repo>/../shared`, or what `JAXNAS_SHARED` says.
  """
  root = Path(os.environ.get("JAXNAS_SHARED", REPO.parent / "shared"))

  def find(relative: str) -> Path:
    path = root / relative
    if not path.exists():
      pytest.skip(f"no {path}; set JAXNAS_SHARED to the shared folder")
    return path

  return find
