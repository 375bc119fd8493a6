"""A table of effects: one row a cell, with its mean, uncertainty and test over prompts.

The interval is a percentile bootstrap over prompts (1000 resamples, the same for all cells), p a sign-flip permutation
test of a mean of 0, q its Benjamini-Hochberg adjustment over the cells that were tested. A cell without a causal path
is NaN in every number and 0 in n; it is never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from autointerp.circuits.measures import LEAST_DENOMINATOR, Effects
from autointerp.model.sign_flips import sign_flip_p
from autointerp.records import Head
from autointerp.stats.bootstrap import Resamples, benjamini_hochberg
from autointerp.tables import TokenTable

LEVEL = 0.05
NUMBERS = ("mean", "se", "low", "high", "p", "q")
_RATIO_FLOOR = 1e-12


@dataclass(frozen=True, order=True)
class Cell:
    """What was patched: a layer, a head (-1: none or all), a position by role (empty: all)."""

    layer: int
    head: int = -1
    position: str = ""

    def __str__(self) -> str:
        where = str(Head(layer=self.layer, index=self.head)) if self.head >= 0 else f"L{self.layer}"
        return f"{where} {self.position}".strip()


@dataclass(frozen=True, eq=False)
class CellTable:
    """Statistics of each cell, in the order of `cells`. `settings`: everything that was chosen, by name."""

    cells: tuple[Cell, ...]
    n: np.ndarray
    numbers: Mapping[str, Float64[np.ndarray, " cell"]]
    values: Float64[np.ndarray, "cell prompt"]
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # what to call the cells, where not by layer and head

    @property
    def mean(self) -> Float64[np.ndarray, " cell"]:
        return self.numbers["mean"]

    @property
    def flagged(self) -> np.ndarray:
        """Cells whose mean differs from 0 at a false discovery rate of 5 %."""
        return np.asarray(np.nan_to_num(self.numbers["q"], nan=1.0) <= LEVEL)

    def name(self, number: int) -> str:
        return self.labels[number] if self.labels else str(self.cells[number])

    def strongest(self, n: int) -> list[int]:
        """Numbers of the cells with the largest means by size, NaN last and left out."""
        size = np.abs(self.mean)
        order = np.argsort(-np.nan_to_num(size, nan=-1.0), kind="stable")
        return [int(c) for c in order[:n] if np.isfinite(size[c])]

    def to_table(self) -> TokenTable:
        """Tidy form: settings, then one row a cell; NaN is empty."""
        columns = (*self.settings, "layer", "head", "position", "cell", "n", *NUMBERS, "flag")
        flagged = self.flagged
        rows = []
        for number, cell in enumerate(self.cells):
            place = (cell.layer, cell.head if cell.head >= 0 else None, cell.position or "all", self.name(number))
            found = (float(self.numbers[name][number]) for name in NUMBERS)
            rows.append((*self.settings.values(), *place, int(self.n[number]), *found, int(flagged[number])))
        return TokenTable(columns, tuple(rows))


def cell_table(
    cells: Sequence[Cell],
    effects: Effects,
    settings: Mapping[str, str | int | float],
    seed: int = 0,
    labels: Sequence[str] = (),
) -> CellTable:
    """Statistics of `effects [cell prompt]`; NaN entries are left out of their cell."""
    values, below, notes = effects.values, effects.denominators, list(effects.notes)
    if below is not None and settings.get("ratio") == "mean_of_ratios":
        small = np.abs(below) < LEAST_DENOMINATOR
        if small.any():
            notes.append(f"{int(small.sum())} of {len(small)} prompts have a denominator below {LEAST_DENOMINATOR}")
        values, below = np.where(small, np.nan, values / np.where(small, 1.0, below)), None
    numbers = _statistics(values, below, seed)
    numbers["q"] = benjamini_hochberg(numbers["p"])
    n = (~np.isnan(values)).sum(1)
    return CellTable(tuple(cells), n, numbers, values, dict(settings), tuple(notes), tuple(labels))


def _statistics(
    values: Float64[np.ndarray, "cell prompt"], below: Float64[np.ndarray, " prompt"] | None, seed: int
) -> dict[str, Float64[np.ndarray, " cell"]]:
    there = ~np.isnan(values)
    known = np.where(there, values, 0.0).T
    weight = there.T * (1.0 if below is None else below[:, None])
    draws_of = Resamples.of(len(known), seed)
    empty = ~there.any(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(empty, np.nan, known.sum(0) / weight.sum(0))
        draws = draws_of.totals(known) / draws_of.totals(weight)
        deviation = np.where(there, values - mean[:, None], 0.0)
        n = there.sum(1)
        spread = np.sqrt((deviation**2).sum(1) / (n - 1) / n)
    draws = np.where(np.isfinite(draws), draws, np.nan)
    low, high = np.full((2, len(values)), np.nan)
    for cell in np.flatnonzero(~empty):
        drawn = draws[:, cell][~np.isnan(draws[:, cell])]
        low[cell], high[cell] = np.quantile(drawn, [0.025, 0.975])
        if below is not None:
            spread[cell] = drawn.std()  # of a ratio of means
    spread[(n < 2) & (below is None)] = np.nan
    return {"mean": mean, "se": spread, "low": low, "high": high, "p": sign_flip_p(values, seed)}
