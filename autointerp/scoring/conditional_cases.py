"""Which rows of a head are run, and with which z, to test a description by ablation (scoring_validity rule 12).

1. Pair level: one predicted pair at a time (P) against one pair that is not predicted (Q), over pairs with at least
   .02 of their row's contribution; matched on attention and write norm (deciles of P), distance and frequency of the
   destination's token. Matched pairs are drawn with a chance that follows P's contribution.
2. Destination level: destinations for which the description names a source (D1) against those for which it names none
   (D0), matched on token frequency, position and the model's entropy; the head's z there becomes its mean.
3. Share: rows drawn from D1 and from the rest, with all predicted or all pairs off the sink ablated.
4. Sign: rows in which a predicted source has at least .3 of the contribution, all predicted pairs ablated; the logit of
   that source's token is followed.
Rows are drawn document by document, so that few rows stand for many documents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from autointerp.evidence.buckets import bucket_of
from autointerp.scoring.destinations import DestinationKinds, always_active
from autointerp.scoring.head_values import HeadValues, RowFacts
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.matching import Kind, balance, match, quantile_classes
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW

MIN_PAIRS = 10
PAIRS_A_CLASS = 50
ROUNDED = 3  # digits of logarithms: what differs by rounding only is equal
MOSTLY_UNMATCHED = 0.5
DECILES = 10


@dataclass(frozen=True, eq=False)
class Cases:
    """Rows of one condition, the head's z there, and the token whose logit is followed (-1: none)."""

    window: Int[np.ndarray, " case"]
    dst: Int[np.ndarray, " case"]
    z: Float32[np.ndarray, "case d_head"]
    token: Int[np.ndarray, " case"]

    def __len__(self) -> int:
        return len(self.dst)


class Design(Protocol):
    """How the effect of a description was compared: what was matched, and how much of the domain it stands for.

    `strata`: rows of the domain with and without what the description names. `unmatched`: the part of the first kind
    that found nothing like it.
    """

    @property
    def strata(self) -> tuple[int, int]: ...
    @property
    def mass_share(self) -> float: ...
    @property
    def unmatched(self) -> float: ...
    @property
    def unmatched_mass(self) -> float: ...
    @property
    def always_active(self) -> bool: ...
    @property
    def has_pairs(self) -> bool: ...
    @property
    def matched_pairs(self) -> bool: ...
    @property
    def matched_destinations(self) -> bool: ...
    @property
    def pair_balance(self) -> dict[str, float]: ...
    @property
    def destination_balance(self) -> dict[str, float]: ...


@dataclass(frozen=True, eq=False)
class Plan:
    """The conditions of one description on one head, and how well they were matched.

    `cases` by name: `pair_1` `pair_0` (with `_resample`), `destination_1` `destination_0`, `share_part` `share_whole`
    `rest_whole`, `sign`. `strata`: rows of the domain with and without a predicted source. `always_active`: where a
    source is named at all (not too early in the row), it is for (nearly) every destination.
    """

    cases: dict[str, Cases]
    strata: tuple[int, int]
    mass_share: float
    unmatched: float
    unmatched_mass: float
    always_active: bool = False
    pair_balance: dict[str, float] = field(default_factory=dict)
    destination_balance: dict[str, float] = field(default_factory=dict)
    has_pairs: bool = True

    @property
    def matched_pairs(self) -> bool:
        return len(self.cases["pair_1"]) >= MIN_PAIRS and max(self.unmatched, self.unmatched_mass) <= MOSTLY_UNMATCHED

    @property
    def matched_destinations(self) -> bool:
        return len(self.cases["destination_1"]) >= MIN_PAIRS and not self.always_active


def spread(
    documents: Int[np.ndarray, " case"],
    n: int,
    rng: np.random.Generator,
    weights: Float[np.ndarray, " case"] | None = None,
) -> Int[np.ndarray, " drawn"]:
    """At most n cases, a first one of every document before any second one; within a document with a chance that
    follows the weights. Ascending."""
    keys = rng.exponential(size=len(documents)) / (1.0 if weights is None else np.maximum(weights, 1e-30))
    order = np.lexsort((keys, documents))
    starts = np.flatnonzero(np.r_[True, np.diff(documents[order]) > 0]) if len(order) else np.zeros(0, np.int64)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    tie = rng.random(len(order))
    return np.sort(order[np.lexsort((tie, rank))[:n]])


class Planner:
    """Plans descriptions for one head; everything follows from the seed and the head."""

    def __init__(self, values: HeadValues, held_out: HeldOutRows, facts: RowFacts, seed: int, rows: int) -> None:
        self._values, self._held_out, self._facts, self._rows = values, held_out, facts, rows
        self._seed = [seed, values.head.layer, values.head.index]
        self._shares, self._contributions = values.shares(), values.contributions()
        self._kinds = DestinationKinds(held_out, facts)

    def plan(self, mask: Bool[np.ndarray, "window dst src"], *, signed: bool, draws: int, share_rows: int) -> Plan:
        """`signed`: follow the attended source's token; `draws` of other documents' values for each pair;
        `share_rows` a condition of the share (KL has heavy tails: a share needs more rows than a difference)."""
        rngs = [np.random.default_rng([*self._seed, design]) for design in range(4)]
        cases, facts = self._pairs(mask, draws, rngs[0])
        active = mask.any(-1) & self._held_out.rows
        destinations, destination_balance = self._destinations(active, rngs[1])
        cases |= destinations | self._shares_of(mask, active, share_rows, rngs[2])
        if signed:
            cases["sign"] = self._sign(mask, rngs[3])
        total = float(self._contributions.sum())
        return Plan(
            cases,
            (int(active.sum()), int((self._held_out.rows & ~active).sum())),
            float(self._contributions[mask].sum()) / total if total > 0 else float("nan"),
            facts["unmatched"],
            facts["unmatched_mass"],
            always_active(self._held_out.rows, active),
            {k: v for k, v in facts.items() if not k.startswith("unmatched")},
            destination_balance,
        )

    def _pairs(
        self, mask: Bool[np.ndarray, "window dst src"], draws: int, rng: np.random.Generator
    ) -> tuple[dict[str, Cases], dict[str, float]]:
        window, dst, src = np.nonzero(self._shares >= THETA_LOW)
        predicted = mask[window, dst, src]
        ends = [(window[side], dst[side], src[side]) for side in (predicted, ~predicted)]
        kinds = [self._pair_kind(*end, reference=ends[0]) for end in ends]
        found = match(kinds[0], kinds[1], rng)
        moved = self._contributions[ends[0]]
        kept = spread(self._held_out.documents[ends[0][0][found.first]], self._rows, rng, moved[found.first])
        cases: dict[str, Cases] = {}
        for name, end, chosen in (("pair_1", ends[0], found.first[kept]), ("pair_0", ends[1], found.second[kept])):
            place = (end[0][chosen], end[1][chosen], end[2][chosen])
            cases[name] = self._single(*place)
            if draws:
                cases[f"{name}_resample"] = self._resampled(*place, draws=draws, rng=rng)
        n, mass = len(ends[0][0]), float(moved.sum())
        matched_mass = float(moved[found.first].sum())
        facts = {
            "unmatched": 1 - len(found) / n if n else 1.0,
            "unmatched_mass": 1 - matched_mass / mass if mass > 0 else 1.0,
        }
        return cases, facts | balance(kinds[0], kinds[1], found)

    def _pair_kind(
        self,
        window: Int[np.ndarray, " pair"],
        dst: Int[np.ndarray, " pair"],
        src: Int[np.ndarray, " pair"],
        reference: tuple[Int[np.ndarray, " other"], ...],
    ) -> Kind:
        def logs(w: np.ndarray, d: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, ...]:
            attention, norm = self._values.attention[w, d, s], self._values.norms[w, s]
            found = (np.log(np.maximum(a.astype(np.float64), 1e-12)) for a in (attention, norm))
            return tuple(np.round(a, ROUNDED) for a in found)

        attention, norm = logs(window, dst, src)
        edges = logs(*reference)
        deciles = min(DECILES, max(2, len(edges[0]) // PAIRS_A_CLASS))  # fewer classes where pairs are few
        classes = {
            "attention": quantile_classes(attention, edges[0], deciles),
            "write norm": quantile_classes(norm, edges[1], deciles),
            "distance": bucket_of(dst - src),
            "frequency": self._kinds.frequency[window, dst],
        }
        count = self._facts.count[window, dst]
        values = {
            "attention": attention,
            "write norm": norm,
            "distance": np.log1p(dst - src),
            "frequency": np.log(count),
        }
        return Kind(classes, values)

    def _single(self, window: np.ndarray, dst: np.ndarray, src: np.ndarray) -> Cases:
        removed = src[:, None] == np.arange(self._held_out.ids.shape[1])
        return _cases(window, dst, self._values.without(window, dst, removed))

    def _resampled(
        self, window: np.ndarray, dst: np.ndarray, src: np.ndarray, draws: int, rng: np.random.Generator
    ) -> Cases:
        """Every pair `draws` times, with the value of a source at a like distance of another document."""
        window, dst, src = (np.repeat(a, draws) for a in (window, dst, src))
        removed = src[:, None] == np.arange(self._held_out.ids.shape[1])
        other = np.stack([self._foreign(*place, rng) for place in zip(window, dst, src, strict=True)] or [np.zeros(0)])
        other = other.reshape(len(dst), -1) if len(dst) else np.zeros((0, self._values.v.shape[-1]))
        return _cases(window, dst, self._values.without(window, dst, removed, other.astype(np.float32)))

    def _foreign(self, window: int, dst: int, src: int, rng: np.random.Generator) -> Float32[np.ndarray, " d_head"]:
        held = self._held_out
        near = bucket_of(np.maximum(dst - np.arange(dst + 1), 0)) == bucket_of(np.array([dst - src]))[0]
        able = held.sources[:, : dst + 1] & near & (held.documents != held.documents[window])[:, None]
        windows, sources = np.nonzero(able)
        if not len(windows):
            return np.asarray(self._values.v_mean[bucket_of(np.array([dst - src]))[0]])
        pick = int(rng.integers(len(windows)))
        return np.asarray(self._values.v[windows[pick], sources[pick]])

    def _destinations(
        self, active: Bool[np.ndarray, "window dst"], rng: np.random.Generator
    ) -> tuple[dict[str, Cases], dict[str, float]]:
        ends = [np.nonzero(active), np.nonzero(self._held_out.rows & ~active)]
        kinds = [self._kinds.kind(*end) for end in ends]
        found = match(kinds[0], kinds[1], rng)
        first = found.first
        if always_active(self._held_out.rows, active):  # nothing to compare with: any of the active rows
            first = np.arange(len(ends[0][0]))
        kept = spread(self._held_out.documents[ends[0][0][first]], self._rows, rng)
        chosen = [first[kept], found.second[kept] if len(found) and first is found.first else np.zeros(0, np.int64)]
        cases = {
            f"destination_{side}": self._mean_ablated(end[0][pick], end[1][pick])
            for side, end, pick in zip((1, 0), ends, chosen, strict=True)
        }
        return cases, balance(kinds[0], kinds[1], found)

    def _mean_ablated(self, window: np.ndarray, dst: np.ndarray) -> Cases:
        return _cases(window, dst, np.repeat(self._values.z_mean[None], len(dst), axis=0))

    def _shares_of(
        self,
        mask: Bool[np.ndarray, "window dst src"],
        active: Bool[np.ndarray, "window dst"],
        n: int,
        rng: np.random.Generator,
    ) -> dict[str, Cases]:
        def drawn(rows: Bool[np.ndarray, "window dst"]) -> tuple[np.ndarray, np.ndarray]:
            window, dst = np.nonzero(rows)
            kept = spread(self._held_out.documents[window], n, rng)
            return window[kept], dst[kept]

        described, rest = drawn(active), drawn(self._held_out.rows & ~active)
        return {
            "share_part": _cases(*described, self._values.without(*described, mask[described])),
            "share_whole": _cases(*described, self._whole(*described)),
            "rest_whole": _cases(*rest, self._whole(*rest)),
        }

    def _whole(self, window: np.ndarray, dst: np.ndarray) -> Float32[np.ndarray, "row d_head"]:
        everything = np.ones((len(dst), self._held_out.ids.shape[1]), dtype=bool)
        return self._values.without(window, dst, everything)

    def _sign(self, mask: Bool[np.ndarray, "window dst src"], rng: np.random.Generator) -> Cases:
        predicted = self._shares * mask
        window, dst = np.nonzero(predicted.max(-1) >= THETA_HIGH)
        kept = spread(self._held_out.documents[window], self._rows, rng)
        window, dst = window[kept], dst[kept]
        token = self._held_out.ids[window, predicted[window, dst].argmax(-1)].astype(np.int64)
        return Cases(window, dst, self._values.without(window, dst, mask[window, dst]), token)


def _cases(window: np.ndarray, dst: np.ndarray, z: Float32[np.ndarray, "case d_head"]) -> Cases:
    return Cases(window, dst, z, np.full(len(dst), -1, np.int64))
