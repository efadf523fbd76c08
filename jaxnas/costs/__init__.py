"""What an arch costs: multiply-adds, parameters, and budgets on them."""

from jaxnas.costs.budget import Budget
from jaxnas.costs.table import (
  CostTable,
  cost_tables,
  count_op,
  format_count,
  layer_rows,
  squeeze_width,
  supernet_params,
)

__all__ = [
  "Budget", "CostTable", "cost_tables", "count_op", "format_count",
  "layer_rows", "squeeze_width", "supernet_params",
]  # fmt: skip
