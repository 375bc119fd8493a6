"""Which rows an explainer gets to see: top, quantile, random and contrast strata (attention_evidence section 4).

All candidates come from the first pass over the explain split. A document gives one row per stratum, near-duplicate
documents count as one, no row is chosen twice; a stratum that cannot be filled says so and stays short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from autointerp.evidence.accumulate import ROW_VALUES, Arrays
from autointerp.evidence.first_pass import FirstPass
from autointerp.records import Stratum

N_TOP, N_PER_BIN, N_RANDOM, N_CONTRAST = 8, 2, 6, 6
WANTED: dict[Stratum, int] = {"top": N_TOP, "quantile": 4 * N_PER_BIN, "random": N_RANDOM, "contrast": N_CONTRAST}
REST_MASS = 0.05
_ACTIVITY, _MASS = ROW_VALUES.index("activity"), ROW_VALUES.index("mass")


@dataclass(frozen=True)
class ChosenRow:
    """A row picked for one head: where it is, and why."""

    window: int
    dst: int
    stratum: Stratum
    tier: str | None
    weight: float
    activity: float
    quantile: float  # of its activity among the head's sampled rows, in [0, 1]


@dataclass(frozen=True)
class WindowTable:
    """What selection needs to know of each window: ids, and the near-duplicate cluster of its document."""

    ids: Int[np.ndarray, "window pos"]
    cluster: Int[np.ndarray, " window"]


@dataclass
class _Selection:
    table: WindowTable
    activities: Float[np.ndarray, " sample"]  # ascending
    chosen: list[ChosenRow] = field(default_factory=list)
    taken: set[tuple[int, int]] = field(default_factory=set)

    def fill(self, stratum: Stratum, n: int, rows: Iterable[tuple[int, int, float, str | None]]) -> None:
        """Take the first `n` rows `(window, dst, activity, tier)` from documents not yet in this stratum."""
        documents = {int(self.table.cluster[c.window]) for c in self.chosen if c.stratum == stratum}
        before = len(self.chosen)
        for window, dst, activity, tier in rows:
            if len(self.chosen) - before == n:
                return
            document = int(self.table.cluster[window])
            if document in documents or (window, dst) in self.taken:
                continue
            documents.add(document)
            self.taken.add((window, dst))
            quantile = float(np.searchsorted(self.activities, activity, side="right")) / max(len(self.activities), 1)
            self.chosen.append(ChosenRow(window, dst, stratum, tier, 1.0, activity, quantile))

    def notes(self) -> list[str]:
        """One line for each stratum that stayed short."""
        found = Counter(c.stratum for c in self.chosen)
        return [f"{name}: {found[name]} of {n} rows found" for name, n in WANTED.items() if found[name] < n]


def select_rows(state: FirstPass, head: int, table: WindowTable) -> tuple[list[ChosenRow], list[str]]:
    """The rows of one head (flat index), and a note for each stratum that stayed short."""
    sample = state.reservoir.of_head(head)
    activity = sample["values"][:, _ACTIVITY]
    selection = _Selection(table, np.sort(activity))
    selection.fill("top", N_TOP, _top(state.top.columns, head, table))
    _quantiles(selection, sample, activity)
    selection.fill("random", N_RANDOM, _plain(sample, np.arange(len(activity))))
    _weigh_random(selection, float(state.progress[1]))
    selection.fill("contrast", N_CONTRAST, _contrast(selection, sample))
    return selection.chosen, selection.notes()


def _top(columns: Arrays, head: int, table: WindowTable) -> Iterator[tuple[int, int, float, None]]:
    """Most active first, at most two rows a (dst token, top src token)."""
    pairs: Counter[tuple[int, int]] = Counter()
    clusters: set[int] = set()  # a near-duplicate must not use up what its pair of tokens may have
    for i in range(columns["activity"].shape[1]):
        window, dst, src = (int(columns[name][head, i]) for name in ("window", "dst", "src"))
        activity = float(columns["activity"][head, i])
        pair = (int(table.ids[window, dst]), int(table.ids[window, src]))
        cluster = int(table.cluster[window])
        if activity > 0 and pairs[pair] < 2 and cluster not in clusters:
            pairs[pair] += 1
            clusters.add(cluster)
            yield window, dst, activity, None


def _quantiles(selection: _Selection, sample: Arrays, activity: Float[np.ndarray, " sample"]) -> None:
    """Two rows from each quarter of the active rows, in hash order."""
    active = np.flatnonzero(activity > 0)
    if not len(active):
        return
    edges = np.quantile(activity[active], [0.25, 0.5, 0.75])
    bins = np.searchsorted(edges, activity[active], side="right")
    for number in range(4):
        selection.fill("quantile", N_PER_BIN, _plain(sample, active[bins == number]))


def _weigh_random(selection: _Selection, rows: float) -> None:
    """Each random row stands for the rows of the split over the random rows found: fewer than asked where documents
    ran out."""
    found = max(sum(c.stratum == "random" for c in selection.chosen), 1)
    selection.chosen = [replace(c, weight=rows / found) if c.stratum == "random" else c for c in selection.chosen]


def _plain(sample: Arrays, order: Int[np.ndarray, " row"]) -> Iterator[tuple[int, int, float, None]]:
    for i in order:
        yield int(sample["window"][i]), int(sample["dst"][i]), float(sample["values"][i, _ACTIVITY]), None


def _contrast(selection: _Selection, sample: Arrays) -> list[tuple[int, int, float, str]]:
    """Rows where the head rests: same destination token as a chosen active row first, then same previous token."""
    activity, mass = sample["values"][:, _ACTIVITY], sample["values"][:, _MASS]
    limit = np.quantile(activity, 0.1) if len(activity) else 0.0
    resting = np.flatnonzero((mass < REST_MASS) | (activity < limit))
    ids = selection.table.ids
    active = [c for c in selection.chosen if c.stratum in ("top", "quantile")]
    tokens = {int(ids[c.window, c.dst]) for c in active}
    before = {int(ids[c.window, c.dst - 1]) for c in active}
    tiers: dict[str, list[tuple[int, int, float, str]]] = {"A": [], "B": [], "C": []}
    for i in resting:
        window, dst = int(sample["window"][i]), int(sample["dst"][i])
        tier = "A" if int(ids[window, dst]) in tokens else "B" if int(ids[window, dst - 1]) in before else "C"
        tiers[tier].append((window, dst, float(activity[i]), tier))
    return tiers["A"] + tiers["B"] + tiers["C"]
