"""Images and labels: sources, three-way split, augmentation, index streams."""

from jaxnas.data.pipeline import Batches, Steps, epoch_order, eval_batches
from jaxnas.data.records import Split
from jaxnas.data.sources import SOURCES, Dataset, load

# The function `augment` stays in its module, whose name it shares.
__all__ = [
  "SOURCES", "Batches", "Dataset", "Split", "Steps", "epoch_order",
  "eval_batches", "load",
]  # fmt: skip
