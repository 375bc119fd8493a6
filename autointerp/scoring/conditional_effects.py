"""From outcomes of ablated rows to effects with intervals, the rule of causal support, and a record.

All means are over cases, all intervals over the same resamples of documents, so differences are paired. The share is
stratified: rows with and without a predicted source weigh as much as there are of them in the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from autointerp.records import Control, Interval, Score
from autointerp.scoring.conditional_cases import Design, Plan
from autointerp.scoring.controls import compared
from autointerp.scoring.verdict import MIN_KL
from autointerp.stats.bootstrap import Resamples, interval

MIN_SHARE = 0.2
# Not MIN_KL: a difference of matched cases has 0 as its null and only rounding (nats) to fear. Where there is nothing
# to compare with, E_1 stands alone; a KL is never below 0, so there it has to be large enough to matter.
ROUNDING = 1e-6
MIN_EFFECT = 1e-9  # nats over all rows: below, the head does nothing that could be shared out
MIN_DOCUMENTS = 30
Draws = Float64[np.ndarray, " resample"]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Per case: its document, KL (nats), log p(next) lost (nats), centred logit of the followed token lost."""

    documents: Int[np.ndarray, " case"]
    kl: Float64[np.ndarray, " case"]
    next: Float64[np.ndarray, " case"]
    logit: Float64[np.ndarray, " case"]

    @classmethod
    def empty(cls) -> Outcomes:
        return cls(np.zeros(0, np.int64), *(np.zeros(0) for _ in range(3)))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number with its resampled values."""

    value: float
    draws: Draws
    n: int
    n_docs: int = 0

    def interval(self) -> Interval:
        low, high = interval(self.draws) if np.isfinite(self.value) else (float("nan"), float("nan"))
        return Interval(value=self.value, low=low, high=high, n=self.n)


@dataclass(frozen=True, eq=False)
class Contrast:
    """Effect at described cases (E_1) against matched others (E_0; nothing in `always_active`), nats."""

    e_1: Estimate
    e_0: Estimate | None
    next_1: float
    next_0: float

    @property
    def difference(self) -> Estimate:
        if self.e_0 is None:
            return self.e_1
        return Estimate(
            self.e_1.value - self.e_0.value, self.e_1.draws - self.e_0.draws, self.e_1.n + self.e_0.n, self.e_1.n_docs
        )

    @property
    def ratio(self) -> float:
        """E_1 / E_0 where E_0 is above 0 by its interval, else NaN."""
        return self.e_1.value / self.e_0.value if self.e_0 is not None and self.e_0.interval().low > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class DescriptionEffects:
    """What ablation says of one description on one unit."""

    plan: Design
    contrasts: dict[str, Contrast]  # pair, pair_resample, destination; those that could be made
    share: Estimate
    share_described: float
    claimed_sign: int
    sign: Estimate | None

    @property
    def design(self) -> str:
        """The deciding design, empty where none could be made."""
        return next((name for name in ("pair", "destination") if name in self.contrasts), "")

    @property
    def states(self) -> tuple[str, ...]:
        found = () if self.plan.matched_pairs or not self.plan.has_pairs else ("no_matched_pairs",)
        if self.plan.always_active:
            return (*found, "always_active")
        return found if self.plan.matched_destinations else (*found, "no_matched_destinations")


def description_effects(
    plan: Plan, outcomes: Mapping[str, Outcomes], claimed_sign: int, resamples: Resamples
) -> DescriptionEffects:
    """Effects of one description from the outcomes of its plan's cases."""
    contrasts: dict[str, Contrast] = {}
    if plan.matched_pairs:
        contrasts["pair"] = contrast_of(outcomes["pair_1"], outcomes["pair_0"], resamples)
        if "pair_1_resample" in outcomes:
            named = outcomes["pair_1_resample"], outcomes["pair_0_resample"]
            contrasts["pair_resample"] = contrast_of(*named, resamples)
    if plan.always_active:
        contrasts["destination"] = contrast_of(outcomes["destination_1"], None, resamples)
    elif plan.matched_destinations:
        contrasts["destination"] = contrast_of(outcomes["destination_1"], outcomes["destination_0"], resamples)
    part, whole, rest = (mean_of(outcomes[n], "kl", resamples) for n in ("share_part", "share_whole", "rest_whole"))
    sign = sign_of(outcomes["sign"], claimed_sign, resamples) if "sign" in outcomes else None
    described = part.value / whole.value if whole.value > MIN_EFFECT else float("nan")
    return DescriptionEffects(plan, contrasts, share_of(part, whole, rest, plan.strata), described, claimed_sign, sign)


def causally_supported(effects: DescriptionEffects) -> tuple[bool, str]:
    """Rule 12's "causally supported", with the reason: the interval of the deciding difference is above 0 and rounding
    (E_1 above 1e-4 nats in `always_active`), the share of the unit's effect is at least .2, and a claimed sign is right
    in more than half of the cases by the lower end of its interval."""
    design = effects.design
    if not design:
        return False, "nothing that the description names has others like it to compare with"
    alone = design == "destination" and effects.plan.always_active
    difference, share = effects.contrasts[design].difference.interval(), effects.share.interval().value
    if not difference.low > (MIN_KL if alone else ROUNDING):
        what = f"it hardly matters where the description says that it acts, KL {difference.value:.2g} nats"
        compared = f"no more effect than at matched {design}s, difference {difference.value:.2g} nats"
        return False, f"{what if alone else compared}, lower end {difference.low:.2g}"
    if not share >= MIN_SHARE:
        return False, f"what the description names carries {share:.2f} of the whole effect, under {MIN_SHARE}"
    if effects.claimed_sign:
        sign = None if effects.sign is None else effects.sign.interval()
        if sign is None or not sign.low > 0.5:
            seen = "could not be seen" if sign is None else f"is right in {sign.value:.2f} of {sign.n} cases"
            return False, f"the claimed sign {seen}"
    why = "it is said to act everywhere, and it matters" if alone else f"more effect than at matched {design}s"
    return True, f"{why}: {difference.value:.2g} nats, lower end {difference.low:.2g}; share {share:.2f}"


@dataclass(frozen=True, eq=False)
class ConditionalResult:
    """The description's effects and those of a shuffled one."""

    own: DescriptionEffects
    shuffled: DescriptionEffects | None

    @property
    def supported(self) -> bool:
        return causally_supported(self.own)[0]

    def score(self, domain: str) -> Score:
        """As a record: the deciding difference in nats; `details` are flat."""
        supported, reason = causally_supported(self.own)
        contrast = self.own.contrasts.get(self.own.design)
        nothing = Estimate(float("nan"), np.zeros(0), 0)
        difference = nothing if contrast is None else contrast.difference
        found = difference.interval()
        states = (*self.own.states, *(("underpowered",) if difference.n_docs < MIN_DOCUMENTS else ()))
        strata = self.own.plan.strata
        return Score(
            scorer="conditional_ablation", metric="kl_difference", domain=domain, value=found.value, low=found.low,
            high=found.high, n_items=difference.n, n_docs=difference.n_docs,
            prevalence=strata[0] / max(sum(strata), 1), chance=0.0, controls=self._controls(),
            state=", ".join(states),
            details={"supported": "yes" if supported else "no", "reason": reason, "design": self.own.design}
            | _details(self.own, "") | ({} if self.shuffled is None else self._shuffled_details()),
        )  # fmt: skip

    def _shuffled_details(self) -> dict[str, float | int | str | None]:
        assert self.shuffled is not None
        supported, reason = causally_supported(self.shuffled)
        named: dict[str, float | int | str | None] = {
            "shuffled_supported": "yes" if supported else "no", "shuffled_reason": reason,
            "shuffled_design": self.shuffled.design,
        }  # fmt: skip
        return named | _details(self.shuffled, "shuffled_")

    def _controls(self) -> tuple[Control, ...]:
        if self.shuffled is None:
            return ()
        found = [_control("shuffled explanation, share", self.own.share, self.shuffled.share)]
        design = self.own.design
        if design in self.shuffled.contrasts and not (design == "destination" and self._everywhere()):
            ends = (self.own.contrasts[design].difference, self.shuffled.contrasts[design].difference)
            found.append(_control(f"shuffled explanation, {design}s", *ends))
        return tuple(found)

    def _everywhere(self) -> bool:
        """A difference and a plain effect are not comparable."""
        return self.own.plan.always_active or (self.shuffled is not None and self.shuffled.plan.always_active)


def _control(name: str, own: Estimate, other: Estimate) -> Control:
    return compared(name, own.value, other.value, own.draws - other.draws)


def mean_of(outcomes: Outcomes, what: str, resamples: Resamples) -> Estimate:
    values = getattr(outcomes, what)
    there = ~np.isnan(values)
    documents, values = outcomes.documents[there], values[there]
    n_docs = resamples.counts.shape[1]
    sums, numbers = np.bincount(documents, values, n_docs), np.bincount(documents, minlength=n_docs).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (resamples.counts @ sums) / (resamples.counts @ numbers)
    value = float(values.mean()) if len(values) else float("nan")
    return Estimate(value, draws, len(values), int((numbers > 0).sum()))


def contrast_of(one: Outcomes, other: Outcomes | None, resamples: Resamples) -> Contrast:
    ends = [
        None if o is None else (mean_of(o, "kl", resamples), mean_of(o, "next", resamples).value) for o in (one, other)
    ]
    assert ends[0] is not None
    zero = (None, float("nan")) if ends[1] is None else ends[1]
    return Contrast(ends[0][0], zero[0], ends[0][1], zero[1])


def share_of(part: Estimate, whole: Estimate, rest: Estimate, strata: tuple[int, int]) -> Estimate:
    """E(predicted pairs ablated) / E(all pairs off the sink ablated) over all rows of the domain."""
    with np.errstate(invalid="ignore", divide="ignore"):
        above = strata[0] * np.r_[part.value, part.draws]
        beyond = strata[1] * np.r_[rest.value, rest.draws] if strata[1] and rest.n else 0.0
        below = strata[0] * np.r_[whole.value, whole.draws] + beyond
        found = np.where(below > MIN_EFFECT * sum(strata), above / below, np.nan)
    return Estimate(float(found[0]), found[1:], part.n + rest.n)


def sign_of(outcomes: Outcomes, claimed: int, resamples: Resamples) -> Estimate | None:
    """Share of cases whose attended token gains (claimed +1) or loses (-1) logit by the predicted pairs."""
    if not len(outcomes.logit):
        return None
    right = (np.sign(outcomes.logit) == claimed).astype(float)
    return mean_of(Outcomes(outcomes.documents, right, right, right), "kl", resamples)


def _details(effects: DescriptionEffects, prefix: str) -> dict[str, float | int | str | None]:
    plan = effects.plan
    found: dict[str, float | int | str | None] = {}
    for name, contrast in effects.contrasts.items():
        ends = {"E1": contrast.e_1, "difference": contrast.difference} | (
            {} if contrast.e_0 is None else {"E0": contrast.e_0}
        )
        for end, estimate in ends.items():
            found |= _flat(f"{name}_{end}", estimate)
        found |= {f"{name}_ratio": contrast.ratio, f"{name}_next_1": contrast.next_1, f"{name}_next_0": contrast.next_0}
        found[f"{name}_n"] = contrast.e_1.n
    found |= _flat("share", effects.share)
    found |= {
        "share_described": effects.share_described, "mass_share": plan.mass_share, "unmatched_pairs": plan.unmatched,
        "unmatched_mass": plan.unmatched_mass, "rows_described": plan.strata[0], "rows_rest": plan.strata[1],
    }  # fmt: skip
    if effects.sign is not None:
        found |= _flat("sign", effects.sign) | {"sign_n": effects.sign.n}
    for name, table in (("pair", plan.pair_balance), ("destination", plan.destination_balance)):
        found |= {f"{name}_balance_{variable.replace(' ', '_')}": gap for variable, gap in table.items()}
    return {prefix + name: value for name, value in found.items()}


def _flat(name: str, estimate: Estimate) -> dict[str, float | int | str | None]:
    found = estimate.interval()
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
