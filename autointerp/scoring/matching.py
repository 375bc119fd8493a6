"""Matching cases of two kinds one to one, without replacement (scoring_validity rule 12).

1. Two cases may meet only where all their classes (deciles, buckets) are equal.
2. Within such a cell every case of the first kind, in seeded order, takes the nearest free case of the second: the
   smallest sum of squared differences in standard deviations, with no variable further than CALIPER.
3. What remains of the first kind is unmatched; the caller drops and counts it.

`balance` says how far apart the means of the matched kinds are, in standard deviations: below .1 is balanced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Real

from autointerp.errors import BadInput

CALIPER = 0.25  # standard deviations of both kinds together, per variable
BALANCED = 0.1


@dataclass(frozen=True, eq=False)
class Kind:
    """Cases of one kind, by name of the variable: `classes` must be equal, `values` must be near."""

    classes: Mapping[str, Int[np.ndarray, " case"]]
    values: Mapping[str, Float64[np.ndarray, " case"]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


@dataclass(frozen=True, eq=False)
class Matched:
    """Pair i is case `first[i]` of the first kind with case `second[i]` of the second; ascending by `first`."""

    first: Int[np.ndarray, " pair"]
    second: Int[np.ndarray, " pair"]

    def __len__(self) -> int:
        return len(self.first)


def match(first: Kind, second: Kind, rng: np.random.Generator, caliper: float = CALIPER) -> Matched:
    """Match cases of `first` with cases of `second`; raises BadInput where their variables differ."""
    if list(first.classes) != list(second.classes) or list(first.values) != list(second.values):
        raise BadInput(f"cases with {[*first.classes, *first.values]} and {[*second.classes, *second.values]} differ.")
    one, other = _places(first, second)
    cells, members = _cells(first, second)
    free = np.ones(len(second), dtype=bool)
    pairs: list[tuple[int, int]] = []
    for case in rng.permutation(len(first)):
        near = members.get(int(cells[case]))
        if near is None:
            continue
        gaps = np.abs(other[near] - one[case])
        able = free[near] & (gaps <= caliper).all(1)
        if able.any():
            chosen = near[np.where(able, (gaps**2).sum(1), np.inf).argmin()]
            free[chosen] = False
            pairs.append((int(case), int(chosen)))
    found = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return Matched(found[:, 0], found[:, 1])


def quantile_classes(
    values: Real[np.ndarray, " case"], reference: Real[np.ndarray, " other"], n: int
) -> Int[np.ndarray, " case"]:
    """Number of each value's n-quantile class; the edges are quantiles of `reference`. Equal edges give one class."""
    edges = np.unique(np.quantile(reference, np.arange(1, n) / n)) if len(reference) else np.zeros(0)
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def balance(first: Kind, second: Kind, matched: Matched) -> dict[str, float]:
    """Standardised difference of means of each variable over the matched cases: (m1 - m2) / sqrt((s1^2 + s2^2) / 2),
    where the s are the standard deviations before matching; 0 where nothing varies, NaN without a pair."""
    found: dict[str, float] = {}
    for name in first.values:
        one, other = first.values[name], second.values[name]
        if not len(matched):
            found[name] = float("nan")
            continue
        spread = float(np.sqrt((one.var() + other.var()) / 2))
        gap = float(one[matched.first].mean() - other[matched.second].mean())
        found[name] = gap / spread if spread > 0 else 0.0
    return found


def _places(
    first: Kind, second: Kind
) -> tuple[Float64[np.ndarray, "case variable"], Float64[np.ndarray, "b variable"]]:
    """Values in standard deviations of both kinds together."""
    one, other = (np.stack(list(kind.values.values()), -1) for kind in (first, second))
    spread = np.concatenate([one, other]).std(0) if len(one) + len(other) else np.ones(one.shape[1])
    scale = np.where(spread > 0, spread, 1.0)
    return one / scale, other / scale


def _cells(first: Kind, second: Kind) -> tuple[Int[np.ndarray, " case"], dict[int, Int[np.ndarray, " member"]]]:
    """The cell of each case of the first kind, and the cases of the second in each cell."""
    n = len(first)
    if not first.classes:
        return np.zeros(n, np.int64), {0: np.arange(len(second))}
    cells = np.zeros(n + len(second), np.int64)
    for name in first.classes:
        column = np.unique(np.concatenate([first.classes[name], second.classes[name]]), return_inverse=True)[1]
        cells = np.unique(cells * (len(cells) + 1) + column.reshape(-1), return_inverse=True)[1].reshape(-1)
    order = np.argsort(cells[n:], kind="stable")
    numbers, starts = np.unique(cells[n:][order], return_index=True)
    return cells[:n], dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
