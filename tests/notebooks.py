"""Runs a notebook of `colab/` from top to bottom, as its reader would."""

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from jaxnas.writer import read_json

# What a space of four layers and three choices needs to compile in seconds; all
# notebooks on paths share it, and so what they compile.
SPACE = """
from jaxnas.spaces import Conv, Layer, MBConv, Space


def get_space():
  choices = MBConv(1, 1), MBConv(1, 3), MBConv(2, 3)
  return Space(
    name="tiny", image_size=8, image_channels=1, n_classes=10,
    stem=(Layer((Conv(3),), 6, 2),), layers=(Layer(choices, 6),) * 4,
  )
"""
TINY = ("space.name=tiny_space.py", "data.limit=256", "retrain.epochs=1")
SUPERNET = ("train.epochs=1", "score.calibration_images=64")


@dataclasses.dataclass(frozen=True)
class Executed:
  """What a reader sees of a notebook, and where its files are.

  Attributes:
    text: everything printed, and the last values of cells.
    shown: how often each type of output was displayed, such as `image/png`.
    folder: where the notebook ran.
    workdir: of its experiment.
    notebook: with its outputs.
  """

  text: str
  shown: Counter
  folder: Path
  workdir: Path
  notebook: nbformat.NotebookNode

  def file(self, name: str) -> Any:
    """Content of a JSON file of the work directory."""
    return read_json(self.workdir / name)

  def pictures(self, kind: str) -> list[str]:
    """What was displayed as a type, such as `image/svg+xml`, in order."""
    return [
      output["data"][kind]
      for cell in self.notebook.cells
      for output in cell.get("outputs", ())
      if kind in output.get("data", {})
    ]

  def found(self, pattern: str) -> tuple[str, ...]:
    """Groups of the only place in the text where a pattern matches."""
    (match,) = re.finditer(pattern, self.text)
    return match.groups()


def execute(path: Path, folder: Path, env: dict, *smaller: str) -> Executed:
  """Executes a notebook in a folder, on its quicktest variant.

  Args:
    path: the notebook, which must hold no outputs.
    folder: where its kernel starts.
    env: further environment, such as that of a shared compilation cache.
    *smaller: overrides of its config.
  """
  (folder / "tiny_space.py").write_text(SPACE)
  workdir = folder / "run"
  notebook = nbformat.read(path, 4)
  assert not any(cell.get("outputs") for cell in notebook.cells)
  choices = {
    "JAXNAS_VARIANT": "quicktest",
    "JAXNAS_WORKDIR": str(workdir),
    "JAXNAS_SET": " ".join(smaller),
  }
  client = NotebookClient(notebook, timeout=300, kernel_name="python3")
  client.execute(cwd=str(folder), env={**os.environ, **env, **choices})
  text, shown = [], Counter()
  for cell in notebook.cells:
    for output in cell.get("outputs", ()):
      data = output.get("data", {})
      text.append(output.get("text") or data.get("text/plain", ""))
      shown.update(list(data))
  return Executed("\n".join(text), shown, folder, workdir, notebook)
