"""Which rows of a neuron or latent are run to test a description by ablation (scoring_validity rule 12).

D1 are rows that the description names, D0 others matched with them; the share is drawn from three strata: named rows,
rows that are not named where the unit is above rest, and the remaining rows. Rows are drawn document by document.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int

from autointerp.feature_records import ACTIVE, RESTING
from autointerp.scoring.conditional_cases import MIN_PAIRS, spread
from autointerp.scoring.destinations import DestinationKinds, always_active, match_nearly
from autointerp.scoring.matching import balance

ROWS = 40  # rows of a condition
NAMED, ABOVE, AT_REST = 80, 60, 30  # rows of each stratum of the share
CANDIDATES = {"named": 3 * ROWS, "other": 6_000}  # rows that may be matched


@dataclass(frozen=True, eq=False)
class RowMatch:
    """What D1 and D0 were matched on, the part of D1 that found nothing, standardised differences of means."""

    on: str = ""
    unmatched: float = 1.0
    balance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """The conditions of one description of one unit: rows by name, `strata` of the share (named; not named and above
    rest; the others)."""

    cases: dict[str, tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]]
    sizes: tuple[int, int, int]
    mass_share: float
    always_active: bool
    match: RowMatch
    pair_balance: dict[str, float] = field(default_factory=dict)
    has_pairs: bool = False
    matched_pairs: bool = False

    @property
    def strata(self) -> tuple[int, int]:
        return self.sizes[0], self.sizes[1] + self.sizes[2]

    @property
    def unmatched(self) -> float:
        return self.match.unmatched

    @property
    def unmatched_mass(self) -> float:
        return self.match.unmatched

    @property
    def destination_balance(self) -> dict[str, float]:
        return self.match.balance

    @property
    def matched_destinations(self) -> bool:
        return len(self.cases["destination_1"][0]) >= MIN_PAIRS and not self.always_active


class FeaturePlanner:
    """Chooses rows for descriptions of one unit."""

    def __init__(
        self,
        rows: Bool[np.ndarray, "window pos"],
        kinds: DestinationKinds,
        documents: Int[np.ndarray, " window"],
        share: Float32[np.ndarray, "window pos"],
    ) -> None:
        self._rows, self._kinds, self._documents, self._share = rows, kinds, documents, share
        self._above = rows & (share > RESTING)

    def plan(
        self, named: Bool[np.ndarray, "window pos"], rng: np.random.Generator, *, signed: bool, scale: float = 1.0
    ) -> FeaturePlan:
        """`scale`: of the numbers of rows of the share."""
        always = always_active(self._rows, named)
        strata = named, self._above & ~named, self._rows & ~named & ~self._above
        cases, matched = self._destinations(named, rng, always=always)
        wanted = (("named", NAMED), ("above", ABOVE), ("rest", AT_REST))
        for (name, n), stratum in zip(wanted, strata, strict=True):
            cases[name] = self._some(stratum, int(n * scale), rng)
        if signed:
            cases["sign"] = self._some(named & (self._share >= ACTIVE), ROWS, rng)
        mass = np.where(self._above, self._share, 0)
        total = float(mass.sum())
        return FeaturePlan(
            cases,
            (int(named.sum()), int(strata[1].sum()), int(strata[2].sum())),
            float(mass[named].sum()) / total if total > 0 else float("nan"),
            always,
            matched,
        )

    def _destinations(
        self, named: Bool[np.ndarray, "window pos"], rng: np.random.Generator, *, always: bool
    ) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], RowMatch]:
        """D1 and D0, and how they were matched."""
        if always:
            nothing = np.zeros(0, np.int64)
            return {"destination_1": self._some(named, ROWS, rng), "destination_0": (nothing, nothing)}, RowMatch()
        ends = [
            self._some(named, CANDIDATES["named"], rng),
            self._any(self._rows & ~named, CANDIDATES["other"], rng),
        ]
        kinds = [self._kinds.kind(*end) for end in ends]
        matched, said = match_nearly(kinds[0], kinds[1], rng)
        kept = spread(self._documents[ends[0][0][matched.first]], ROWS, rng)
        cases = {
            f"destination_{side}": (end[0][chosen[kept]], end[1][chosen[kept]])
            for side, end, chosen in ((1, ends[0], matched.first), (0, ends[1], matched.second))
        }
        unmatched = 1 - len(matched) / max(len(ends[0][0]), 1)
        return cases, RowMatch(said, unmatched, balance(kinds[0], kinds[1], matched))

    def _some(
        self, wanted: Bool[np.ndarray, "window pos"], n: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """At most n rows of as many documents as possible."""
        window, dst = self._any(wanted, 20 * n, rng)
        kept = spread(self._documents[window], n, rng)
        return window[kept], dst[kept]

    def _any(
        self, wanted: Bool[np.ndarray, "window pos"], n: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """At most n rows, each with the same chance."""
        flat = np.flatnonzero(wanted)
        if len(flat) > n:
            flat = np.sort(rng.choice(flat, n, replace=False))
        window, dst = np.divmod(flat, wanted.shape[1])
        return window, dst
