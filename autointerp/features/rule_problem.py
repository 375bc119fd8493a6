"""What a rule is judged by.

A *problem* is a unit's rows and how much of it is still to be explained. Rows at which the unit is between rest and
activity count for nothing. `within` narrows a search to rows that another part of a conjunction names; `named` are
rows that an alternative names already, joined to every answer by `or`. F1 is always that of the whole rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from autointerp.features.learning_rows import LearningRows
from autointerp.features.token_column import TokenColumn

PRICE = 0.005  # F1 that a further literal must bring
Mask = Bool[np.ndarray, " row"]
Counts = Float[np.ndarray, " code"]


@dataclass(frozen=True, eq=False)
class Rule:
    """A condition, its F1 in the problem that it answers, and the rows that it names (made when they are asked for)."""

    name: str  # of the family, a label of FEATURE_LABELS
    text: str
    f1: float
    make: Callable[[], Mask]
    items: int = 1  # literals, and conditions without one
    detail: dict[str, str | float | int] = field(default_factory=dict)

    @cached_property
    def mask(self) -> Mask:
        return self.make()

    @property
    def worth(self) -> float:
        """F1 less the price of what must be written."""
        return self.f1 - PRICE * self.items


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows where a unit is active (`active`) or between (`between`), ascending; the others are at rest."""

    rows: LearningRows
    active: Int[np.ndarray, " active"]
    between: Int[np.ndarray, " between"]
    within: Mask | None = None
    named: Mask | None = None

    def inside(self, mask: Mask) -> Problem:
        """The search for what to join to `mask` by `and`."""
        return replace(self, within=mask if self.within is None else mask & self.within)

    def beside(self, mask: Mask) -> Problem:
        """The search for what to join to `mask` by `or`."""
        return replace(self, named=mask if self.named is None else mask | self.named)

    def f1(self, tp: Float[np.ndarray, "*rule"], named: Float[np.ndarray, "*rule"]) -> Float[np.ndarray, "*rule"]:
        """F1 of rules that name `named` open rows more, `tp` of them active."""
        tp0, named0 = self._so_far
        return np.asarray(2 * (tp + tp0) / np.maximum(named + named0 + len(self.active), 1))

    def f1_of(self, mask: Mask) -> float:
        """F1 of one rule."""
        tp, named = self.count(mask)
        return float(self.f1(np.array(tp), np.array(named)))

    def count(self, mask: Mask) -> tuple[float, float]:
        """Active rows, and active or resting ones, that a rule names beyond those named already."""
        named = np.count_nonzero(mask if self._open is None else mask & self._open)
        tp = np.count_nonzero(mask[self.open_active])
        return float(tp), float(named - np.count_nonzero(mask[self.open_between]))

    def by_code(self, column: TokenColumn) -> tuple[Counts, Counts]:
        """`count` for each string of a column."""
        if column.name not in self._counts:
            size = len(column.counts)
            tp = np.bincount(column.codes[self.open_active], minlength=size)
            between = np.bincount(column.codes[self.open_between], minlength=size)
            whole = column.counts if self._open is None else np.bincount(column.codes[self._open], minlength=size)
            self._counts[column.name] = tp.astype(np.float64), (whole - between).astype(np.float64)
        return self._counts[column.name]

    @cached_property
    def _counts(self) -> dict[str, tuple[Counts, Counts]]:
        return {}

    @cached_property
    def open_rows(self) -> Mask:
        """Rows that may still be named."""
        return np.ones(len(self.rows), bool) if self._open is None else self._open

    @cached_property
    def open_active(self) -> Int[np.ndarray, " some"]:
        return self.active if self._open is None else self.active[self._open[self.active]]

    @cached_property
    def open_between(self) -> Int[np.ndarray, " some"]:
        return self.between if self._open is None else self.between[self._open[self.between]]

    @cached_property
    def _open(self) -> Mask | None:
        """None for all."""
        if self.within is None:
            return None if self.named is None else ~self.named
        return self.within if self.named is None else self.within & ~self.named

    @cached_property
    def _so_far(self) -> tuple[float, float]:
        if self.named is None:
            return 0.0, 0.0
        tp = np.count_nonzero(self.named[self.active])
        return float(tp), float(np.count_nonzero(self.named) - np.count_nonzero(self.named[self.between]))


def best_of(rules: Iterable[Rule | None]) -> Rule | None:
    """The rule of the greatest worth, the first of equals."""
    return max((rule for rule in rules if rule is not None), key=lambda rule: round(rule.worth, 6), default=None)
