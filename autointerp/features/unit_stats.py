"""The statistics of one unit, from the first pass and from its rows above rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from autointerp.feature_records import FeatureStats, TokenActivity, UnitState
from autointerp.features.active_rows import UnitRows
from autointerp.features.first_pass import UnitPass
from autointerp.features.learning_rows import LearningRows
from autointerp.features.unit_table import UnitTable
from autointerp.records import Interval
from autointerp.stats.bootstrap import Resamples, ratio_interval

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
N_TOKENS, N_RESAMPLES, _MAX_CLUSTERS = 10, 500, 1000


@dataclass(frozen=True, eq=False)
class StatsReader:
    """Makes `FeatureStats`; the resamples of documents are shared by all units."""

    state: UnitPass
    table: UnitTable
    learning: LearningRows
    seed: int
    resamples: Resamples
    rows_of: Float64[np.ndarray, " cluster"]
    cluster: np.ndarray  # of each window of the learning rows

    @classmethod
    def of(cls, state: UnitPass, table: UnitTable, learning: LearningRows, seed: int) -> StatsReader:
        """Documents beyond `_MAX_CLUSTERS` are joined into that many clusters."""
        n = max(min(learning.n_documents, _MAX_CLUSTERS), 1)
        cluster = learning.documents % n
        rows = np.bincount(cluster[learning.window], minlength=n).astype(np.float64)
        return cls(state, table, learning, seed, Resamples.of(n, seed, N_RESAMPLES), rows, cluster)

    def read(self, unit: int, rows: UnitRows | None) -> FeatureStats:
        """Statistics of a unit of the table; without `rows` (dead and dense units) those of the first pass alone."""
        table, state = self.table, self.state
        kept = state.reservoir[int(table.sign[unit] < 0)].ordered(unit).value
        return FeatureStats(
            n_rows=int(state.progress[1]),
            n_docs=int(state.progress[2]),
            density=_six(table.density[unit]),
            active_share=self._estimated_share(unit) if rows is None else self._active_share(rows),
            sign=-1 if table.sign[unit] < 0 else 1,
            reference=_six(table.reference[unit]),
            maximum=_six(table.maximum[unit]),
            mean=_six(table.mean[unit] * table.sign[unit]),
            quantiles=tuple(_six(q) for q in np.quantile(kept, QUANTILES)) if len(kept) else (),
            state=_state(str(table.state[unit])),
            top_tokens=() if rows is None else self._top_tokens(rows),
        )

    def _estimated_share(self, unit: int) -> Interval:
        """A dead unit's is known from all rows, a dense one's from those that all units share."""
        n = int(self.state.progress[1]) if self.table.state[unit] == "dead" else len(self.state.places)
        return Interval(value=_six(self.table.active_share[unit]), low=float("nan"), high=float("nan"), n=n)

    def _active_share(self, rows: UnitRows) -> Interval:
        mine = self.cluster[self.learning.window[rows.active]]
        active = np.bincount(mine, minlength=len(self.rows_of)).astype(np.float64)
        found = ratio_interval(active, self.rows_of, self.resamples)
        return Interval(value=_six(found.value), low=_six(found.low), high=_six(found.high), n=len(self.learning))

    def _top_tokens(self, rows: UnitRows) -> tuple[TokenActivity, ...]:
        text = self.learning.here
        part = np.bincount(text.codes[rows.rows], weights=rows.share, minlength=len(text.strings))
        active = np.bincount(text.codes[rows.active], minlength=len(text.strings))
        whole = float(part.sum())
        best = [int(c) for c in np.argsort(-part, kind="stable")[:N_TOKENS] if part[c] > 0]
        return tuple(
            TokenActivity(
                token=text.strings[code],
                part=_six(part[code] / whole),
                base_rate=_six(text.counts[code] / len(self.learning)),
                active=int(active[code]),
                rows=int(text.counts[code]),
            )
            for code in best
        )


def _state(name: str) -> UnitState:
    return "dead" if name == "dead" else "dense" if name == "dense" else "ok"


def _six(value: float) -> float:
    return float(f"{value:.6g}")
