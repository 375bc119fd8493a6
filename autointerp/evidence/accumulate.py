"""Bounded accumulators of the first pass: document means with a streaming bootstrap, row reservoirs, top rows.

All are independent of the order in which documents arrive, up to the last bits of float64 sums; which rows are kept
does not depend on it at all. Unit axis `head`: all heads of the model, flattened layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64, Int, UInt64

from autointerp.stats.bootstrap import poisson_weights

N_RESAMPLES = 256
RESERVOIR_ROWS = 4096
TOP_ROWS = 64
STATISTICS = (
    "sink_mass", "self_mass", "prev_mass", "entropy", "entropy_nats", "max_share", "mean_distance", "low_mass",
)  # fmt: skip
ROW_VALUES = ("activity", "mass", "sink_mass", "entropy", "max_share", "mean_distance")
Arrays = dict[str, np.ndarray]


@dataclass
class DocumentMeans:
    """Means per document, then over documents, with Poisson bootstrap weights per document (Chamandy et al. 2012)."""

    seed: int
    sums: Float64[np.ndarray, "statistic head"]
    counts: Float64[np.ndarray, "statistic head"]
    boot_sums: Float64[np.ndarray, "resample statistic head"]
    boot_counts: Float64[np.ndarray, "resample statistic head"]

    @classmethod
    def empty(cls, n_heads: int, seed: int) -> DocumentMeans:
        shape = (len(STATISTICS), n_heads)
        boot = (N_RESAMPLES, *shape)
        return cls(seed, np.zeros(shape), np.zeros(shape), np.zeros(boot), np.zeros(boot))

    def add(self, document: np.uint64, means: Float[np.ndarray, "statistic head"]) -> None:
        """Add one document's means; NaN where the document has no such row."""
        there = ~np.isnan(means)
        values = np.where(there, means, 0.0)
        weights = poisson_weights(np.array([document], dtype=np.uint64), N_RESAMPLES, self.seed)[0]
        self.sums += values
        self.counts += there
        self.boot_sums += weights[:, None, None] * values
        self.boot_counts += weights[:, None, None] * there

    def mean(self) -> Float[np.ndarray, "statistic head"]:
        return _ratio(self.sums, self.counts)

    def interval(self) -> tuple[Float[np.ndarray, "statistic head"], Float[np.ndarray, "statistic head"]]:
        """Percentile 95 % interval over the resamples."""
        import warnings

        means = _ratio(self.boot_sums, self.boot_counts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a statistic that no document has stays NaN
            low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
        return low, high


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


@dataclass
class Reservoir:
    """The rows with the smallest hashes of each head: a uniform sample that no order of arrival changes."""

    n_heads: int
    threshold: UInt64[np.ndarray, " head"] = field(init=False)
    rows: Arrays = field(init=False)
    pending: list[Arrays] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threshold = np.full(self.n_heads, np.iinfo(np.uint64).max, dtype=np.uint64)
        self.rows = {
            "head": np.zeros(0, np.int32),
            "hash": np.zeros(0, np.uint64),
            "window": np.zeros(0, np.int32),
            "dst": np.zeros(0, np.int16),
            "values": np.zeros((0, len(ROW_VALUES)), np.float32),
        }

    def add(
        self,
        hashes: UInt64[np.ndarray, "head batch dst"],
        rows: np.ndarray,  # Bool [batch dst]
        windows: Int[np.ndarray, " batch"],
        values: list[Float[np.ndarray, "head batch dst"]],
    ) -> None:
        keep = (hashes < self.threshold[:, None, None]) & rows[None]
        head, batch, dst = np.nonzero(keep)
        self.pending.append(
            {
                "head": head.astype(np.int32),
                "hash": hashes[keep],
                "window": windows[batch].astype(np.int32),
                "dst": dst.astype(np.int16),
                "values": np.stack([v[keep] for v in values], axis=1).astype(np.float32),
            }
        )
        if sum(len(p["head"]) for p in self.pending) > self.n_heads * RESERVOIR_ROWS // 2:
            self.compact()

    def compact(self) -> None:
        """Keep the smallest hashes of each head."""
        parts = [self.rows, *self.pending]
        merged = {name: np.concatenate([p[name] for p in parts]) for name in self.rows}
        order = np.lexsort((merged["hash"], merged["head"]))
        head = merged["head"][order]
        first = np.searchsorted(head, np.arange(self.n_heads))
        rank = np.arange(len(head)) - first[head]
        order = order[rank < RESERVOIR_ROWS]
        self.rows = {name: array[order] for name, array in merged.items()}
        self.pending = []
        counts = np.bincount(self.rows["head"], minlength=self.n_heads)
        last = np.searchsorted(self.rows["head"], np.arange(self.n_heads), side="right") - 1
        full = counts >= RESERVOIR_ROWS
        self.threshold[full] = self.rows["hash"][last[full]]

    def of_head(self, head: int) -> Arrays:
        """The kept rows of one head in hash order (after `compact`)."""
        start, stop = np.searchsorted(self.rows["head"], [head, head + 1])
        return {name: array[start:stop] for name, array in self.rows.items()}


@dataclass
class TopRows:
    """The most active row of each document, for the most active documents of each head."""

    n_heads: int
    columns: Arrays = field(init=False)
    pending: list[Arrays] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = {
            "activity": np.full((self.n_heads, 0), -np.inf, np.float32),
            "document": np.zeros((self.n_heads, 0), np.uint64),
            "window": np.zeros((self.n_heads, 0), np.int32),
            "dst": np.zeros((self.n_heads, 0), np.int16),
            "src": np.zeros((self.n_heads, 0), np.int16),
        }

    def add(self, best: Arrays) -> None:
        """One document's best row: arrays `[head]` named as the columns."""
        self.pending.append(best)
        if len(self.pending) >= TOP_ROWS:
            self.compact()

    def compact(self) -> None:
        """Keep the most active; ties by document, window, dst."""
        if not self.pending:
            return
        new = {n: np.stack([p[n] for p in self.pending], axis=1) for n in self.columns}
        merged = {n: np.concatenate([c, new[n].astype(c.dtype)], axis=1) for n, c in self.columns.items()}
        keys = (merged["dst"], merged["window"], merged["document"], -merged["activity"])
        order = np.lexsort(keys, axis=1)[:, :TOP_ROWS]
        self.columns = {n: np.take_along_axis(c, order, axis=1) for n, c in merged.items()}
        self.pending = []
