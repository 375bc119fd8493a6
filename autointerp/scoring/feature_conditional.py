"""Explanation-conditioned ablation of neurons and latents: does the model depend on the unit just where the description
says that it is active? (scoring_validity rule 12, destination level)

1. D1: rows that the description names; D0: others, matched on token frequency, position and the model's entropy. The
   unit's activation is replaced by its mean over the explain split, at that row alone.
2. Outcomes there: KL(original || ablated) and log p(next) lost, nats; where tokens are claimed, their centred logit
   with the unit minus without, in rows that are named and in which the unit is active.
3. Share: of the effect of the unit over all rows, the part in named rows; rows that are not named are drawn apart
   where the unit is above rest and where it rests, and each stratum weighs as many rows as there are.
4. The same with another unit's description is the control; `conditional_effects` holds the rule of causal support.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

from autointerp.records import Feature, Interval, Score, Unscored
from autointerp.scoring.conditional_effects import (
    ConditionalResult,
    DescriptionEffects,
    Estimate,
    Outcomes,
    contrast_of,
    mean_of,
    share_of,
    sign_of,
)
from autointerp.scoring.destinations import DestinationKinds
from autointerp.scoring.feature_plans import FeaturePlan, FeaturePlanner
from autointerp.scoring.feature_rows import UnitFacts, scored
from autointerp.scoring.unit_outcomes import Claimed, Field, UnitCases, run_unit_cases
from autointerp.stats.bootstrap import Resamples

SCORER = "conditional_ablation"
WAITING = 150_000  # rows planned before they run together
Estimates = Mapping[str, Outcomes]


@dataclass(frozen=True, eq=False)
class FeatureClaim:
    """A description as this scorer needs it: the rows that it names, those of another unit's description (None: no
    such control), the tokens that it says are raised or lowered."""

    named: Bool[np.ndarray, "window pos"]
    shuffled: Bool[np.ndarray, "window pos"] | None
    claimed: Claimed | None


@dataclass(frozen=True, eq=False)
class FeatureResult:
    """The score, and the KL at named rows."""

    score: Score | Unscored
    effect: Interval


class FeatureConditional:
    """Ablations of all units of a run on the same rows."""

    def __init__(self, place: Field, facts: Mapping[Feature, UnitFacts], seed: int, scale: float = 1.0) -> None:
        """`scale`: of the numbers of rows that the share is taken over, below 1 where units are many."""
        self._field, self._facts, self._seed, self._scale = place, facts, seed, scale
        self._kinds = DestinationKinds(place.held_out, place.facts)
        self._rows = scored(place.held_out)
        self._resamples = Resamples.of(place.held_out.n_documents, seed)

    def score(
        self,
        features: Sequence[Feature],
        shares: Float32[np.ndarray, "feature window pos"],
        claim_of: Callable[[Feature], FeatureClaim],
    ) -> dict[Feature, FeatureResult]:
        """Results of some units; `shares` at all rows, negative ones kept."""
        found: dict[Feature, FeatureResult] = {}
        waiting: dict[tuple[Feature, str], tuple[FeaturePlan, Claimed | None]] = {}
        cases: list[UnitCases] = []
        for number, feature in enumerate(features):
            plans = self._plans(feature, shares[number], claim_of(feature))
            if not plans:
                why = Unscored(scorer=SCORER, reason="the description names no held-out row")
                found[feature] = FeatureResult(why, mean_of(Outcomes.empty(), "kl", self._resamples).interval())
                continue
            waiting |= plans
            cases.append(self._cases(feature, shares[number], [plan for plan, _ in plans.values()]))
            if sum(map(len, cases)) > WAITING:
                found |= self._run(waiting, cases)
                waiting, cases = {}, []
        return found | self._run(waiting, cases)

    def _plans(
        self, feature: Feature, share: Float32[np.ndarray, "window pos"], claim: FeatureClaim
    ) -> dict[tuple[Feature, str], tuple[FeaturePlan, Claimed | None]]:
        if not claim.named.any():
            return {}
        planner = FeaturePlanner(self._rows, self._kinds, self._field.held_out.documents, share)
        signed = claim.claimed is not None and len(claim.claimed) > 0
        rng = np.random.default_rng([self._seed, feature.layer, feature.index])
        own = planner.plan(claim.named, rng, signed=signed, scale=self._scale)
        found = {(feature, "own"): (own, claim.claimed if signed else None)}
        if claim.shuffled is not None and claim.shuffled.any():
            found[feature, "shuffled"] = planner.plan(claim.shuffled, rng, signed=False, scale=self._scale / 2), None
        return found

    def _cases(
        self, feature: Feature, share: Float32[np.ndarray, "window pos"], plans: Sequence[FeaturePlan]
    ) -> UnitCases:
        """Every row of the plans once, with what takes the unit to its mean there."""
        size = share.shape[1]
        flat = np.unique(np.concatenate([w * size + d for plan in plans for w, d in plan.cases.values()]))
        window, dst = np.divmod(flat, size)
        facts = self._facts[feature]
        raw = share[window, dst] * facts.share_size
        return UnitCases(feature, window, dst, (facts.mean - raw).astype(np.float32))

    def _run(
        self,
        plans: Mapping[tuple[Feature, str], tuple[FeaturePlan, Claimed | None]],
        cases: Sequence[UnitCases],
    ) -> dict[Feature, FeatureResult]:
        claims = {feature: claim for (feature, _), (_, claim) in plans.items() if claim is not None}
        outcomes = run_unit_cases(self._field, cases, claims)
        size = self._rows.shape[1]
        effects: dict[tuple[Feature, str], DescriptionEffects] = {}
        means: dict[Feature, Interval] = {}
        for part, outcome in zip(cases, outcomes, strict=True):
            places = part.window * size + part.dst
            for kind in ("own", "shuffled"):
                if (part.feature, kind) in plans:
                    plan, claim = plans[part.feature, kind]
                    picked = {
                        name: _take(outcome, np.searchsorted(places, w * size + d))
                        for name, (w, d) in plan.cases.items()
                    }
                    effects[part.feature, kind] = _effects(plan, picked, claim, self._resamples)
                    if kind == "own":
                        means[part.feature] = mean_of(picked["named"], "kl", self._resamples).interval()
        return {
            feature: FeatureResult(
                _score(effects[feature, "own"], effects.get((feature, "shuffled")), self._field), mean
            )
            for feature, mean in means.items()
        }


def _effects(plan: FeaturePlan, outcomes: Estimates, claim: Claimed | None, resamples: Resamples) -> DescriptionEffects:
    contrasts = {}
    if plan.always_active or plan.matched_destinations:
        other = None if plan.always_active else outcomes["destination_0"]
        contrasts["destination"] = contrast_of(outcomes["destination_1"], other, resamples)
    named, above, rest = (mean_of(outcomes[name], "kl", resamples) for name in ("named", "above", "rest"))
    share = share_of(named, named, _joined((above, rest), plan.sizes[1:]), plan.strata)
    sign = None if claim is None else sign_of(outcomes["sign"], 1, resamples)
    return DescriptionEffects(plan, contrasts, share, 1.0, 0 if claim is None else 1, sign)


def _joined(parts: tuple[Estimate, Estimate], sizes: tuple[int, int]) -> Estimate:
    """The mean over two strata, each weighing as many rows as there are; one without rows weighs nothing."""
    there = [(part, size) for part, size in zip(parts, sizes, strict=True) if size and part.n]
    total = sum(size for _, size in there)
    value = sum(part.value * size for part, size in there) / max(total, 1)
    draws = sum((np.nan_to_num(part.draws) * size for part, size in there), np.zeros(len(parts[0].draws)))
    return Estimate(value, draws / max(total, 1), sum(part.n for part in parts))


def _take(outcomes: Outcomes, rows: Int[np.ndarray, " row"]) -> Outcomes:
    return Outcomes(outcomes.documents[rows], outcomes.kl[rows], outcomes.next[rows], outcomes.logit[rows])


def _score(own: DescriptionEffects, shuffled: DescriptionEffects | None, place: Field) -> Score:
    """As of heads, but for what only pairs have."""
    score = ConditionalResult(own, shuffled).score(place.held_out.domain)
    dropped = ("share_described", "unmatched_mass")
    assert isinstance(own.plan, FeaturePlan)
    details = {"matched_on": own.plan.match.on} | {
        name.replace("unmatched_pairs", "unmatched_rows"): value
        for name, value in score.details.items()
        if not name.endswith(dropped)
    }
    return score.model_copy(update={"details": details})
