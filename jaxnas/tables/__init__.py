"""Benchmark tables as objectives: known networks, no training."""

from jaxnas.tables.base import RowCost, Table
from jaxnas.tables.load import load_table

__all__ = ["RowCost", "Table", "load_table"]
