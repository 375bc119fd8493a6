"""The result of the "looks at" query: a row a head, the filters, and the ways to show it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from autointerp.tables import Cell, TokenTable

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LooksAtFilter:
    """Least values of the lower 95 % interval ends; the intersection view is `LooksAtTable.intersection`."""

    min_rate: float = 0.9
    min_mass: float = 0.3
    min_margin: float = 0.1

    def passes(self, row: LooksAtRow) -> bool:
        """Whether a head is kept; undefined values are not."""
        return row.ci_low >= self.min_rate and row.mass_ci_low >= self.min_mass and row.margin_ci_low >= self.min_margin


@dataclass(frozen=True)
class LooksAtRow:
    """One head over the prompts (attention_evidence section 7); masses in [0, 1], undefined values NaN.

    `n` usable prompts, `n_excluded` others with reasons in `excluded`; `rate` of prompts in which the source
    set holds the strongest source off the sink, `rate_raw` with the sink kept; `failures` names the others.
    """

    head: str
    layer: int
    index: int
    n: int
    n_excluded: int
    rate: float
    ci_low: float
    ci_high: float
    rate_raw: float
    mass_mean: float
    mass_ci_low: float
    mass_ci_high: float
    multiple_mean: float
    margin_mean: float
    margin_ci_low: float
    margin_ci_high: float
    rank_mean: float
    distractor_mass: float
    contribution_share_mean: float
    failures: tuple[str, ...]
    excluded: tuple[str, ...]

    def cells(self) -> tuple[Cell, ...]:
        """Values in the order of the fields; lists as text."""
        return tuple(
            "; ".join(value) if isinstance(value, tuple) else value
            for value in (getattr(self, field.name) for field in fields(self))
        )


@dataclass(frozen=True)
class LooksAtTable:
    """Heads that pass the filters, best lower end of the rate first; `everything` holds all heads."""

    rows: tuple[LooksAtRow, ...]
    everything: tuple[LooksAtRow, ...]
    title: str

    @classmethod
    def of(cls, rows: Iterable[LooksAtRow], title: str, filters: LooksAtFilter) -> LooksAtTable:
        """Sort and filter."""
        ordered = tuple(sorted(rows, key=_rank))
        return cls((), ordered, title).select(filters)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, filters: LooksAtFilter) -> LooksAtTable:
        """The same query under other filters."""
        return LooksAtTable(tuple(row for row in self.everything if filters.passes(row)), self.everything, self.title)

    def intersection(self) -> LooksAtTable:
        """Heads that succeed in every usable prompt: the ancestor's view."""
        return LooksAtTable(tuple(r for r in self.everything if r.rate == 1), self.everything, self.title)

    def _table(self) -> TokenTable:
        columns = tuple(field.name for field in fields(LooksAtRow))
        title = f"{len(self.rows)} of {len(self.everything)} {self.title}"
        return TokenTable(columns, tuple(r.cells() for r in self.rows), frozenset({"failures", "excluded"}), title)

    def to_dataframe(self) -> pandas.DataFrame:
        """A DataFrame, one row a head."""
        return self._table().to_dataframe()

    def to_csv(self) -> str:
        """CSV text; `failures` and `excluded` escaped like tokens."""
        return self._table().to_csv()

    def to_markdown(self) -> str:
        """A pipe table with its title."""
        return self._table().to_markdown()

    def to_html(self) -> str:
        """A self-contained HTML fragment."""
        return self._table().to_html()

    def _repr_html_(self) -> str:
        return self.to_html()


def _rank(row: LooksAtRow) -> tuple[float, float, int, int]:
    """Best first: lower end of the rate, then mass, then place in the model."""
    rate = -math.inf if math.isnan(row.ci_low) else row.ci_low
    mass = -math.inf if math.isnan(row.mass_mean) else row.mass_mean
    return -rate, -mass, row.layer, row.index
