"""The statistics of one unit, from the first pass and from its rows above rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from autointerp.feature_records import FeatureStats, TokenActivity, UnitState
from autointerp.features.active_rows import UnitRows
from autointerp.features.active_share import ShareCounter, shared_intervals, six
from autointerp.features.first_pass import UnitPass
from autointerp.features.learning_rows import LearningRows
from autointerp.features.unit_table import DENSE_SHARE, UnitTable
from autointerp.records import Feature, Interval
from autointerp.stats.bootstrap import clopper_pearson

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
N_TOKENS = 10


@dataclass(frozen=True, eq=False)
class StatsReader:
    """Makes `FeatureStats`. `counted`: shares of active rows that are known already (`settle`)."""

    state: UnitPass
    table: UnitTable
    learning: LearningRows
    counter: ShareCounter
    counted: Mapping[Feature, Interval] = field(default_factory=dict)

    def read(self, unit: int, rows: UnitRows | None) -> FeatureStats:
        """Statistics of a unit of the table; without `rows` (dead and dense units) those of the first pass alone.

        With `rows` the share of active ones is counted, and says whether the unit is dense.
        """
        table, state = self.table, self.state
        kept = state.reservoir[int(table.sign[unit] < 0)].ordered(unit).value
        share = self._known_share(unit) if rows is None else self.counter.share(rows)
        known = str(table.state[unit]) if rows is None else "dense" if share.value > DENSE_SHARE else "ok"
        return FeatureStats(
            n_rows=int(state.progress[1]),
            n_docs=int(state.progress[2]),
            density=six(table.density[unit]),
            active_share=share,
            sign=-1 if table.sign[unit] < 0 else 1,
            reference=six(table.reference[unit]),
            maximum=six(table.maximum[unit]),
            mean=six(table.mean[unit] * table.sign[unit]),
            quantiles=tuple(six(q) for q in np.quantile(kept, QUANTILES)) if len(kept) else (),
            state=_state(known),
            top_tokens=() if rows is None else self._top_tokens(rows),
        )

    def _known_share(self, unit: int) -> Interval:
        """A dead unit's is known from all rows, a dense one's was counted or comes from those that all units share."""
        table, state = self.table, self.state
        if (held := self.counted.get(table.feature(unit))) is not None:
            return held
        if table.state[unit] == "dead":
            n = int(state.progress[1])
            return Interval(value=0.0, low=0.0, high=six(clopper_pearson(0, n)[1]), n=n)
        one = np.array([unit])
        low, high = shared_intervals(state, one, table.sign[one], table.reference[one])[:, 0]
        return Interval(value=six(table.active_share[unit]), low=six(low), high=six(high), n=len(state.places))

    def _top_tokens(self, rows: UnitRows) -> tuple[TokenActivity, ...]:
        text = self.learning.here
        part = np.bincount(text.codes[rows.rows], weights=rows.share, minlength=len(text.strings))
        active = np.bincount(text.codes[rows.active], minlength=len(text.strings))
        whole = float(part.sum())
        best = [int(c) for c in np.argsort(-part, kind="stable")[:N_TOKENS] if part[c] > 0]
        return tuple(
            TokenActivity(
                token=text.strings[code],
                part=six(part[code] / whole),
                base_rate=six(text.counts[code] / len(self.learning)),
                active=int(active[code]),
                rows=int(text.counts[code]),
            )
            for code in best
        )


def _state(name: str) -> UnitState:
    return "dead" if name == "dead" else "dense" if name == "dense" else "ok"
