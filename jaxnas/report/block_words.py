"""What numbers of a block search are called: never one accuracy for another."""

from jaxnas.report.load import Run

_NAMES = {
  "interpreter": "supernet accuracy",
  "children": "accuracy after a short training",
  "table": "accuracy of the table",
}


def evaluation(run: Run) -> str:
  """Where the search's accuracies come from; empty without a search."""
  if run.config.blocks.block:
    return ""
  return run.searched.get("evaluation") or run.config.blocks.evaluation


def accuracy_heading(run: Run) -> str:
  """The same for the narrow head of a column, under text that says more."""
  supernet = evaluation(run) == "interpreter"
  return "supernet accuracy" if supernet else "accuracy"


def accuracy_name(run: Run) -> str:
  """What the search's accuracies are called."""
  return _NAMES.get(evaluation(run), "accuracy")
