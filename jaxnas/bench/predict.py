"""`bench predict`: fitting a predictor, and predicting all of a segment."""

import dataclasses
import functools
import logging

import numpy as np

from jaxnas.bench.options import PredictOptions
from jaxnas.bench.timing import (
  check_counts,
  clock,
  first_call,
  interleave,
  machine,
  spread,
)
from jaxnas.config import PredictorConfig
from jaxnas.errors import UserError
from jaxnas.predictors import make_predictor

log = logging.getLogger("jaxnas")

MOST = 1 << 22  # sub-archs


def bench_predict(options: PredictOptions) -> dict:
  """Times every predictor on the same labels and the same segment.

  Returns:
    JSON object: the options, `machine`, `archs` (sub-archs of the segment) and
    `rows`. A row has the `kind`, its `fit_seconds` and `fit_setup`, the median
    `seconds` to predict all sub-archs with the smallest and the largest,
    `archs_per_second` likewise, and `setup`, the tracing and compiling of the
    first call, which is not in them.

  Raises:
    UserError: for a number out of range.
  """
  o = options
  check_counts(repeats=o.repeats, ensemble=o.ensemble, nodes=o.nodes)
  check_counts(least=0, seed=o.seed)
  check_counts(least=2, choices=o.choices)
  check_counts(least=4, labels=o.labels)
  size = o.choices**o.nodes
  if size > MOST:
    raise UserError(
      f"--choices {o.choices} and --nodes {o.nodes} make {size:,} sub-archs; at"
      f" most {MOST:,}."
    )
  n_choices = np.full(o.nodes, o.choices, np.int32)
  rng = np.random.default_rng(o.seed)
  archs = rng.integers(0, o.choices, (o.labels, o.nodes), np.int32)
  shares = rng.normal(size=(o.nodes, o.choices))
  labels = shares[np.arange(o.nodes), archs].sum(1) + rng.normal(size=o.labels)
  every = np.indices(n_choices, np.int32).reshape(o.nodes, -1).T
  runs, rows = {}, {}
  for kind in o.kinds:
    log.info("bench predict: %s", kind)
    config = PredictorConfig(kind=kind, ensemble=o.ensemble)
    fit = functools.partial(
      make_predictor(config).fit, n_choices, archs, labels, o.seed
    )
    fitted, first_fit = first_call(fit)
    seconds, _ = clock(fit)
    runs[kind] = functools.partial(fitted.predict, every)
    _, first = first_call(runs[kind])
    rows[kind] = {
      "kind": kind,
      "fit_seconds": seconds,
      "fit_setup": first_fit.setup(seconds),
      "setup": first,
    }
  taken = interleave(runs, o.repeats)
  for kind, row in rows.items():
    row["seconds"] = spread(taken[kind])
    row["archs_per_second"] = spread([size / s for s in taken[kind]])
    row["setup"] = row["setup"].setup(row["seconds"]["median"])
  fields = dataclasses.asdict(o)
  del fields["json"]
  return {
    "bench": "predict",
    **fields,
    "space": f"{o.choices}^{o.nodes}",
    "archs": size,
    "machine": machine(),
    "rows": list(rows.values()),
  }
