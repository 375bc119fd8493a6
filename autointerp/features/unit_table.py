"""What the first pass says of every unit: an array a quantity, over all units of all sites in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int

from autointerp.features.active_share import active_shares
from autointerp.features.best_of_documents import Entries
from autointerp.features.first_pass import UnitPass
from autointerp.model import UnitSite
from autointerp.records import Feature

DEAD_RANGE = 1e-6
DENSE_SHARE = 0.5


@dataclass(frozen=True)
class UnitTable:
    """Arrays over all units. `mean` is that of the raw activation; the others are of `a = sign * activation`.

    `density`: share of rows with a > 0. `active_share`: share of active rows, estimated (`active_share`) until it is
    counted (`counted`). `reference`: mean of the 16 highest document maxima of a. `state`: `ok`, `dead` (never above 0;
    a neuron: a range under 1e-6) or `dense` (active on more than half of the rows).
    """

    kind: np.ndarray  # of str
    layer: Int[np.ndarray, " unit"]
    index: Int[np.ndarray, " unit"]
    density: Float64[np.ndarray, " unit"]
    active_share: Float64[np.ndarray, " unit"]
    maximum: Float64[np.ndarray, " unit"]
    reference: Float64[np.ndarray, " unit"]
    mean: Float64[np.ndarray, " unit"]
    sign: Int[np.ndarray, " unit"]
    state: np.ndarray  # of str

    def __len__(self) -> int:
        return len(self.index)

    def counted(self, shares: Mapping[Feature, float]) -> UnitTable:
        """With the counted shares of active rows of units that are not dead in place of the estimates."""
        active, state = self.active_share.copy(), self.state.astype("<U5")
        for feature, share in shares.items():
            active[self.row(feature)] = share
            state[self.row(feature)] = "dense" if share > DENSE_SHARE else "ok"
        return replace(self, active_share=active, state=state)

    def feature(self, unit: int) -> Feature:
        return Feature(kind=self.kind[unit].item(), layer=int(self.layer[unit]), index=int(self.index[unit]))

    def row(self, feature: Feature) -> int:
        """Where a unit stands in the arrays. Raises KeyError for a unit that was not read."""
        return self._rows[feature.kind, feature.layer, feature.index]

    @cached_property
    def _rows(self) -> dict[tuple[str, int, int], int]:
        names = zip(self.kind.tolist(), self.layer.tolist(), self.index.tolist(), strict=True)
        return {name: number for number, name in enumerate(names)}


def unit_table(state: UnitPass, sites: Sequence[UnitSite]) -> UnitTable:
    """The table of a finished first pass over `sites`."""
    n_rows = max(int(state.progress[1]), 1)
    units = np.arange(len(state.sums))
    sign = signs(state)
    side = (sign < 0).astype(np.int64)
    density = state.rows_above[side, units] / n_rows
    reference = np.stack([_means(top.entries) for top in state.top])[side, units]
    maximum = np.where(sign > 0, state.extremes[1], -state.extremes[0]).astype(np.float64)
    kind = np.concatenate([np.repeat(site.kind, site.n_units) for site in sites])
    spread = state.extremes[1].astype(np.float64) - state.extremes[0]
    dead = (density == 0) | ((kind == "neuron") & ~(spread >= DEAD_RANGE))
    active = active_shares(state, sign, reference, density)
    return UnitTable(
        kind=kind,
        layer=np.concatenate([np.full(site.n_units, site.layer) for site in sites]),
        index=np.concatenate([np.arange(site.n_units) for site in sites]),
        density=density,
        active_share=np.where(dead, 0.0, active),
        maximum=np.where(np.isfinite(maximum), maximum, 0.0),
        reference=reference,
        mean=state.sums / n_rows,
        sign=sign,
        state=np.where(dead, "dead", np.where(active > DENSE_SHARE, "dense", "ok")),
    )


def signs(state: UnitPass) -> Int[np.ndarray, " unit"]:
    """-1 for a neuron whose 16 strongest document extremes are negative on average, and larger there than those of
    the positive side; 1 for all others."""
    if state.n_sides == 1:
        return np.ones(len(state.sums), np.int64)
    both = np.concatenate([state.top[0].entries.value, -state.top[1].entries.value], axis=1)
    empty = np.concatenate([top.entries.key == 0 for top in state.top], axis=1)
    both = np.where(empty, 0.0, both)
    strongest = np.argsort(-np.abs(both), axis=1, kind="stable")[:, : state.top[0].entries.key.shape[1]]
    negative = np.take_along_axis(both, strongest, 1).mean(1) < 0
    larger = _means(state.top[1].entries) > _means(state.top[0].entries)
    return np.where(negative & larger, -1, 1)


def _means(entries: Entries) -> Float64[np.ndarray, " unit"]:
    there = entries.key > 0
    return np.asarray((entries.value.astype(np.float64) * there).sum(1) / np.maximum(there.sum(1), 1))
