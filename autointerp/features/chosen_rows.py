"""Which rows of a unit an explainer gets to see: top, quantile, random and contrast strata.

A document gives one row a stratum, near-duplicate documents count as one, no row is chosen twice; a stratum that
cannot be filled says so and stays short. All rows are of the explain split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int

from autointerp.feature_records import ACTIVE, FeatureStratum
from autointerp.features.best_of_documents import Entries
from autointerp.features.first_pass import HALF_MAX, UnitPass
from autointerp.features.learning_rows import LearningRows
from autointerp.features.unit_table import UnitTable

N_TOP, N_QUANTILE, N_RANDOM, N_CONTRAST, N_SAME_TOKEN = 12, 6, 6, 8, 5
WANTED: dict[FeatureStratum, int] = {
    "top": N_TOP, "quantile": N_QUANTILE, "random": N_RANDOM, "contrast": N_CONTRAST,
}  # fmt: skip
_TRIED = 64  # rows of a token looked at for one at rest
Row = tuple[int, int, str | None]  # window of the corpus, dst, tier


@dataclass(frozen=True)
class ChosenRow:
    """A row picked for one unit: where it is, and why. What the unit does there is read afterwards."""

    window: int
    dst: int
    stratum: FeatureStratum
    tier: str | None
    weight: float


@dataclass(frozen=True, eq=False)
class Pool:
    """Where rows are chosen from."""

    state: UnitPass
    table: UnitTable
    numbers: Int[np.ndarray, " window"]  # windows of the split, in its order
    cluster: Int[np.ndarray, " all_windows"]
    learning: LearningRows
    seed: int

    def quantile(self, unit: int, a: float) -> float:
        """Of an activation of a unit (its place in the table) among the random rows that all units share."""
        among = self.state.shared[:, unit] * np.float16(self.table.sign[unit])
        own = np.float16(min(max(a, 0.0), HALF_MAX))  # rounded as the others are: a row stands at its own place
        return float(np.count_nonzero(among <= own)) / max(len(among), 1)


@dataclass
class _Selection:
    cluster: Int[np.ndarray, " all_windows"]
    chosen: list[ChosenRow] = field(default_factory=list)
    taken: set[tuple[int, int]] = field(default_factory=set)

    def fill(self, stratum: FeatureStratum, n: int, rows: Iterable[Row]) -> None:
        documents = {int(self.cluster[c.window]) for c in self.chosen if c.stratum == stratum}
        before = len(self.chosen)
        for window, dst, tier in rows:
            if len(self.chosen) - before == n:
                return
            document = int(self.cluster[window])
            if document in documents or (window, dst) in self.taken:
                continue
            documents.add(document)
            self.taken.add((window, dst))
            self.chosen.append(ChosenRow(window, dst, stratum, tier, 1.0))

    def count(self, stratum: FeatureStratum) -> int:
        return sum(c.stratum == stratum for c in self.chosen)


def choose_rows(
    pool: Pool, unit: int, above_rest: Int[np.ndarray, " some"], neighbours: list[int]
) -> tuple[list[ChosenRow], tuple[str, ...]]:
    """The rows of a living unit (its place in the table), and a note for each stratum that stayed short.

    `above_rest`: learning rows on which it is not at rest; `neighbours`: units with like directions, alive.
    """
    side = int(pool.table.sign[unit] < 0)
    selection = _Selection(pool.cluster)
    selection.fill("top", N_TOP, _rows(pool.state.top[side].ordered(unit)))
    for rows in _bins(pool.state.reservoir[side].ordered(unit)):
        selection.fill("quantile", 1, rows)
    places = np.random.default_rng([pool.seed, unit]).permutation(pool.state.places)
    random = zip(pool.numbers[places[:, 0]], places[:, 1], strict=True)
    selection.fill("random", N_RANDOM, ((int(w), int(d), None) for w, d in random))
    weight = float(pool.state.progress[1]) / max(selection.count("random"), 1)
    selection.chosen = [replace(c, weight=weight) if c.stratum == "random" else c for c in selection.chosen]
    _contrast(pool, selection, unit, above_rest, neighbours)
    short = [f"{name}: {selection.count(name)} of {n} rows found" for name, n in WANTED.items()
             if selection.count(name) < n]  # fmt: skip
    return selection.chosen, tuple(short)


def _rows(entries: Entries) -> Iterator[Row]:
    for window, dst in zip(entries.window, entries.dst, strict=True):
        yield int(window), int(dst), None


def _bins(entries: Entries) -> Iterator[Iterator[Row]]:
    """Entries of a reservoir, a sixth of them by activation at a time, each in the order of their draw."""
    rank = np.empty(len(entries.value), np.int64)
    rank[np.argsort(entries.value, kind="stable")] = np.arange(len(entries.value))
    for number in range(N_QUANTILE):
        mine = rank * N_QUANTILE // max(len(rank), 1) == number
        yield _rows(Entries(*(array[mine] for array in entries.arrays().values())))


def _contrast(
    pool: Pool, selection: _Selection, unit: int, above_rest: Int[np.ndarray, " some"], neighbours: list[int]
) -> None:
    """Rows at rest: with the token of a top row first, then where the most alike units are active."""
    resting = np.ones(len(pool.learning), bool)
    resting[above_rest] = False
    tops = [c for c in selection.chosen if c.stratum == "top"]
    same = list(_same_token(pool, tops, resting, np.random.default_rng([pool.seed, unit, 1])))
    near = list(_near(pool, resting, neighbours))
    selection.fill("contrast", N_SAME_TOKEN, same)
    selection.fill("contrast", N_CONTRAST - selection.count("contrast"), near)
    selection.fill("contrast", N_CONTRAST - selection.count("contrast"), same)


def _same_token(pool: Pool, tops: list[ChosenRow], resting: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
    learning = pool.learning
    documents = {int(pool.cluster[c.window]) for c in tops}
    codes = [int(learning.here.codes[row]) for c in tops if (row := learning.find(c.window, c.dst)) is not None]
    queues = []
    for code, _ in Counter(codes).most_common():
        rows = learning.here.rows_of(code)
        rows = rows[resting[rows]]
        queues.append(rng.permutation(rows)[:_TRIED].tolist())
    for turn in range(_TRIED):
        for queue in queues:
            if turn < len(queue):
                row = queue[turn]
                window = int(learning.numbers[learning.window[row]])
                if int(pool.cluster[window]) not in documents:
                    yield window, int(learning.dst[row]), "token"


def _near(pool: Pool, resting: np.ndarray, neighbours: list[int]) -> Iterator[Row]:
    """Active rows of the neighbours that the first pass kept, strongest first, in turn."""
    lists: list[list[tuple[int, int]]] = []
    for other in neighbours:
        side = int(pool.table.sign[other] < 0)
        least = ACTIVE * float(pool.table.reference[other])
        kept = [pool.state.top[side].ordered(other), pool.state.reservoir[side].ordered(other)]
        lists.append([(w, d) for e in kept for (w, d, _), a in zip(_rows(e), e.value, strict=True) if a >= least])
    for turn in range(max((len(some) for some in lists), default=0)):
        for some in lists:
            if turn < len(some):
                row = pool.learning.find(*some[turn])
                if row is not None and resting[row]:
                    yield *some[turn], "neighbour"
