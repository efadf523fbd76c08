"""Segment-wise search: score samples, fit a predictor, predict everything.

    for each segment (7 cells; later ones: a super-cell and 6):       # paper
      S    <- uniform samples, scored by the objective
      f    <- predictor fitted to (choices, score)
      T    <- the best M of *all* sub-archs by f, scored once more      # ours
      super-cell <- the best 6 of T by the mean of f and score
    winner <- the best of the last T

The procedure is that of Chen et al., arXiv 2004.08423 (caption of figure 2);
sample counts, the completion of cells outside the segment, the second scoring
and everything else in `SegmentsConfig` are ours.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, CostTable
from jaxnas.errors import RunError, UserError, unknown
from jaxnas.predictors import Fitted, make_predictor
from jaxnas.search import base, mutators
from jaxnas.search.supercell import (
  Listing,
  Segment,
  best_rows,
  segment_bounds,
  spread_out,
)
from jaxnas.spaces import ListedSpace, Space

# Sub-archs of one segment that are predicted and kept at once.
MOST_PREDICTED = 2**22


@dataclasses.dataclass(frozen=True)
class SegmentSearch:
  """The segment-wise search.

  Every score of an arch that begins as a choice of the super-cell does is a
  label, whichever segment it was asked for. Scores of archs with equal nodes
  are averaged.

  Attributes:
    space: the space; a listed one is a single segment of its rows.
    budget: bounds that every proposed arch keeps.
    config: constants, `segments` and `predictor` among them; the first of its
      objectives is predicted.
    costs: by name; one of them makes the cost bins.
  """

  space: Space | ListedSpace
  budget: Budget
  config: SearchConfig
  costs: Mapping[str, CostTable]

  def __post_init__(self) -> None:
    s = self.config.segments
    for name, least in (
      ("first", 1), ("later", 2), ("top_k", 1), ("samples", 4),
      ("candidates", 1), ("completions", 1), ("rescore", 1), ("refits", 1),
      ("min_distance", 0), ("cost_bins", 1), ("refine", 0), ("batch", 1),
    ):  # fmt: skip
      base.check_at_least(f"search.segments.{name}", getattr(s, name), least)
    if s.top_k > s.candidates:
      raise UserError(
        f"search.segments.top_k is {s.top_k}; at most the number of"
        f" search.segments.candidates, {s.candidates}."
      )
    if s.cost_bins > s.top_k:
      raise UserError(
        f"search.segments.cost_bins is {s.cost_bins}; at most"
        f" search.segments.top_k, {s.top_k}."
      )
    if s.cost_bins > 1 and s.cost not in self.costs:
      raise unknown("cost in search.segments.cost", s.cost, self.costs)
    for start, stop in self.bounds:
      size = math.prod(self.space.n_choices[start:stop].tolist())
      size *= s.top_k if start else 1
      if not self.is_listed and size > MOST_PREDICTED:
        raise UserError(
          f"layers {start} to {stop - 1} form a segment of {size:,} sub-archs;"
          f" at most {MOST_PREDICTED:,} can be predicted. Lower"
          " search.segments.first or search.segments.later."
        )

  @classmethod
  def from_config(
    cls,
    config: SearchConfig,
    space: Space,
    budget: Budget,
    costs: Mapping[str, CostTable],
  ) -> "SegmentSearch":
    """Builds the searcher from a config."""
    return cls(space, budget, config, costs)

  @property
  def is_listed(self) -> bool:
    """Whether the space is a list of archs."""
    return isinstance(self.space, ListedSpace)

  @property
  def objectives(self) -> tuple[str, ...]:
    """See `Searcher.objectives`."""
    return self.config.objectives

  @functools.cached_property
  def bounds(self) -> list[tuple]:
    """`(start, stop)` of each segment."""
    if self.is_listed:
      return [(0, self.space.n_layers)]
    s = self.config.segments
    return segment_bounds(self.space.n_layers, s.first, s.later)

  @property
  def rounds(self) -> int:
    """Most rounds that the search can take."""
    s = self.config.segments
    sampling = -(-s.samples * self._completions // s.batch)
    each = -(-s.candidates // s.refits) * s.rescore
    again = s.refits * -(-each // s.batch)
    return len(self.bounds) * (sampling + again) + -(-s.refine // s.batch)

  # The contract ------------------------------------------------------------

  def init(self, seed: int) -> base.State:
    """See `Searcher.init`.

    Returns:
      The state, with `segment`, `phase` (`samples`, `candidates`, `refine` or
      `done`), `queue` (archs still to be scored), `candidates` (nodes and
      their predictions), `log` (which part of the archive was asked in which
      phase), `kept` (super-cells) and at the end `winner`.
    """
    state = base.new_state(
      seed, segment=0, phase="samples", refit=0, queue=[],
      candidates={"nodes": [], "predicted": []}, log=[], kept=[], winner=None,
    )  # fmt: skip
    self._sample(state)
    return state

  def ask(self, state: base.State, n: int | None = None) -> np.ndarray:
    """See `Searcher.ask`; fewer than a batch at the end of a phase."""
    size = self.config.segments.batch if n is None else n
    rows = np.array(state["queue"][:size], np.int32)
    return rows.reshape(-1, self.space.n_layers)

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`; fits and predicts at the end of a phase."""
    new = base.advance(state, self, archs, metrics)
    told = {tuple(a) for a in np.asarray(archs).tolist()}
    new["queue"] = [a for a in state["queue"] if tuple(a) not in told]
    while not new["queue"] and new["phase"] != "done":
      self._go_on(new)
    return new

  # What a finished search knows ---------------------------------------------

  def segment(self, state: base.State, number: int | None = None) -> Segment:
    """Returns a segment, by default the present one.

    Args:
      state: a state of this searcher.
      number: of a segment that has begun.
    """
    number = state["segment"] if number is None else number
    start, stop = self.bounds[number]
    # A first segment has no super-cell, or one that stands for nothing.
    kept = state["kept"][number - 1] if number else [[]]
    expand = np.array(kept, np.int32)
    cells = self.space.n_choices[start:stop]
    if self.is_listed:
      rows = self.space.rows
      rows = rows[self.budget.allows(rows)]
      return Listing(start, stop, expand, cells, rows)
    return Segment(start, stop, expand, cells)

  def labels(
    self,
    state: base.State,
    number: int,
    begin: int = 0,
    end: int | None = None,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the labels of a segment.

    Args:
      state: a state of this searcher.
      number: of the segment.
      begin: leaves out the archs before this position in the archive.
      end: leaves out those from this position on.

    Returns:
      Distinct nodes `int32[m, nodes]`, their mean scores `float64[m]`, and the
      number of scores in each mean, `int64[m]`.
    """
    archs = base.archive_archs(state, self.space)[begin:end]
    values = base.utilities(state["archive"]["metrics"], self.objectives[:1])
    nodes, rows = self.segment(state, number).nodes_of(archs)
    values = values[begin:end, 0][rows]
    good = np.isfinite(values)
    distinct, group, count = np.unique(
      nodes[good], axis=0, return_inverse=True, return_counts=True
    )
    total = np.bincount(group.reshape(-1), values[good], len(distinct))
    return distinct, total / count, count

  def fit(self, state: base.State, number: int) -> Fitted:
    """Fits the predictor to all labels of a segment.

    Raises:
      RunError: if too few archs have finite scores.
    """
    nodes, values, count = self.labels(state, number)
    if len(nodes) < 4:
      raise RunError(
        f"only {len(nodes)} archs of segment {number} have a finite"
        f" {self.objectives[0]}; a predictor needs at least 4."
      )
    predictor = make_predictor(self.config.predictor)
    n_choices = self.segment(state, number).n_choices
    return predictor.fit(
      n_choices, nodes, values, state["seed"] + number, 1 / np.sqrt(count)
    )

  def table(self, state: base.State) -> dict[str, np.ndarray]:
    """Predicts every arch of the last segment.

    Args:
      state: of a finished search.

    Returns:
      `archs` `int32[m, L]`, `predicted` and `spread` `float64[m]`. They answer
      any budget without another score (the paper's look-up).
    """
    last = len(self.bounds) - 1
    nodes = self.segment(state, last).all_nodes()
    mean, spread = self.fit(state, last).predict(nodes)
    archs = self.segment(state, last).expanded(nodes)
    _, sign = base.parse_objective(self.objectives[0])
    return {"archs": archs, "predicted": sign * mean, "spread": spread}

  # Phases ------------------------------------------------------------------

  @property
  def _completions(self) -> int:
    s = self.config.segments
    return s.completions if s.completion == "average" else 1

  def _rng(self, state) -> np.random.Generator:
    return np.random.default_rng([state["seed"], state["round"], 1])

  def _go_on(self, state) -> None:
    s = self.config.segments
    if state["phase"] == "samples":
      state["phase"] = "candidates"
      self._choose(state)
    elif state["phase"] == "candidates" and state["refit"] < s.refits:
      self._choose(state)
    elif state["phase"] == "candidates":
      self._keep(state)
    else:
      self._refine(state)

  def _log(self, state) -> None:
    state["log"] = [
      *state["log"],
      {
        "segment": state["segment"],
        "phase": state["phase"],
        "begin": len(state["archive"]["archs"]),
        "asked": len(state["queue"]),
      },
    ]

  def _queue(self, state, archs: np.ndarray) -> None:
    """Queues what has no score yet, in an order that shares prefixes."""
    seen = {tuple(a) for a in state["archive"]["archs"]}
    distinct = np.unique(archs, axis=0).tolist()
    state["queue"] = [a for a in distinct if tuple(a) not in seen]
    self._log(state)

  def _sample(self, state) -> None:
    s, rng = self.config.segments, self._rng(state)
    if self.is_listed:
      seen = base.archive_archs(state, self.space)
      self._queue(state, self.budget.draw(rng, s.samples, seen))
      return
    segment = self.segment(state)
    heads = segment.expand[self._legal(segment.expand)]
    heads = heads[rng.integers(len(heads), size=s.samples)]
    archs = self.budget.complete(rng, heads)
    prefixes = np.repeat(archs[:, : segment.stop], self._completions, 0)
    self._queue(state, self._completed(rng, prefixes))

  def _legal(self, prefixes: np.ndarray) -> np.ndarray:
    """Which prefixes some arch within the budget begins with."""
    if prefixes.shape[1] == self.space.n_layers:
      return self.budget.allows(prefixes)
    return self.budget.can_complete(prefixes)

  def _completed(self, rng, prefixes: np.ndarray) -> np.ndarray:
    """Archs within the budget that begin with the prefixes."""
    if prefixes.shape[1] == self.space.n_layers:
      return prefixes
    if self.config.segments.completion != "fixed":
      return self.budget.complete(rng, prefixes)
    archs = self._cheapest(prefixes)
    over = ~self.budget.allows(archs)  # of several bounds, one may not hold
    archs[over] = self.budget.complete(rng, prefixes[over])
    return archs

  def _cheapest(self, prefixes: np.ndarray) -> np.ndarray:
    """Archs that go on with the cheapest choices."""
    names = [name for name, _ in self.budget.limits]
    cost = self.costs[(names or [self.config.segments.cost])[0]]
    rest = [
      int(np.argmin(row[:k]))
      for row, k in zip(cost.table, cost.n_choices, strict=True)
    ][prefixes.shape[1] :]
    tail = np.tile(np.array(rest, np.int32), (len(prefixes), 1))
    return np.concatenate([prefixes, tail], 1).astype(np.int32)

  def _bins(self, prefixes: np.ndarray) -> np.ndarray:
    """The cost bin of each sub-arch, between the least and the largest."""
    s = self.config.segments
    if s.cost_bins == 1 or not len(prefixes):
      return np.zeros(len(prefixes), np.int64)
    archs = prefixes
    if prefixes.shape[1] < self.space.n_layers:
      archs = self._cheapest(prefixes)
    cost = np.asarray(self.costs[s.cost](archs), np.float64)
    edges = np.linspace(cost.min(), cost.max(), s.cost_bins + 1)[1:-1]
    return np.searchsorted(edges, cost)

  def _choose(self, state) -> None:
    """Predicts all and queues the best, of every cost bin alike."""
    s, rng = self.config.segments, self._rng(state)
    state["refit"] += 1
    segment = self.segment(state)
    nodes = segment.all_nodes()
    prefixes = segment.expanded(nodes)
    legal = self._legal(prefixes)
    nodes, prefixes = nodes[legal], prefixes[legal]
    predicted, _ = self.fit(state, state["segment"]).predict(nodes)
    new = ~_among(nodes, state["candidates"]["nodes"])
    unscored = np.ones(len(nodes), bool)
    if segment.stop == self.space.n_layers:  # no completion to vary
      unscored = ~_among(prefixes, state["archive"]["archs"])
    bins = self._bins(prefixes)
    each = -(-s.candidates // (s.refits * s.cost_bins))
    rows = np.concatenate(
      [
        best_rows(predicted, np.flatnonzero(new & (bins == b)), unscored, each)
        for b in range(s.cost_bins)
      ]
    )
    state["candidates"] = {
      "nodes": state["candidates"]["nodes"] + nodes[rows].tolist(),
      "predicted": state["candidates"]["predicted"] + predicted[rows].tolist(),
    }
    again = np.repeat(prefixes[rows], s.rescore, 0)
    self._queue(state, self._completed(rng, again))

  def _ranked(self, state) -> np.ndarray:
    """Candidates by the mean of prediction and score, best first, expanded."""
    segment = self.segment(state)
    nodes, values, _ = self.labels(state, state["segment"])
    found = dict(zip(map(tuple, nodes.tolist()), values.tolist(), strict=True))
    picked = np.array(state["candidates"]["nodes"], np.int32)
    predicted = np.array(state["candidates"]["predicted"])
    observed = np.array([found.get(tuple(a), -np.inf) for a in picked.tolist()])
    score = (predicted + observed) / 2
    order = np.argsort(-score, kind="stable")
    order = order[np.isfinite(score[order])]
    return segment.expanded(picked[order])

  def _keep(self, state) -> None:
    """Ends a segment: a super-cell, or the winner."""
    s = self.config.segments
    prefixes = self._ranked(state)
    if not len(prefixes):
      raise RunError(
        f"no candidate of segment {state['segment']} has a finite"
        f" {self.objectives[0]}."
      )
    rows = spread_out(
      prefixes, self._bins(prefixes), s.top_k, s.cost_bins, s.min_distance
    )
    state["kept"] = [*state["kept"], prefixes[rows].tolist()]
    state["candidates"] = {"nodes": [], "predicted": []}
    state["refit"] = 0
    if state["segment"] + 1 < len(self.bounds):
      state["segment"] += 1
      state["phase"] = "samples"
      self._sample(state)
      return
    state["winner"] = prefixes[0].tolist()
    state["phase"] = "refine"
    self._refine(state)

  def _refine(self, state) -> None:
    """Evolution around the best archs found, one batch at a time (ours)."""
    s, rng = self.config.segments, self._rng(state)
    archs = base.archive_archs(state, self.space)
    values = base.utilities(state["archive"]["metrics"], self.objectives[:1])
    values = np.nan_to_num(values[:, 0], nan=-np.inf)
    spent = sum(
      row["asked"] for row in state["log"] if row["phase"] == "refine"
    )
    parents = archs[
      np.argsort(-values, kind="stable")[: self.config.population]
    ]

    def propose() -> np.ndarray:
      rivals = rng.integers(len(parents), size=self.config.tournament)
      return mutators.uniform(
        rng, parents[rivals.min()], self.space.n_choices,
        self.config.mutation_rate,
      )  # fmt: skip

    n = min(s.batch, s.refine - spent)
    if n > 0:
      children = base.breed_unseen(rng, self.budget, archs, n, propose)
      self._queue(state, children)
      if state["queue"]:
        return
    best = int(np.argmax(values))
    at = archs.tolist().index(state["winner"])
    if spent and values[best] > values[at]:
      state["winner"] = archs[best].tolist()
    state["phase"] = "done"


def _among(rows: np.ndarray, some: list) -> np.ndarray:
  """Which of the rows are among some others, `bool[m]`."""
  found = {tuple(a) for a in some}
  return np.array([tuple(a) in found for a in rows.tolist()], bool)
