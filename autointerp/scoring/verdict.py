"""The verdict of a head, in one place (scoring_validity rule 26).

| verdict | when |
|---|---|
| unscored | abstained, failed, no items, or fewer than 30 held-out documents (or repeats) with a positive |
| refuted | a null is not beaten, or a rival is better (upper end of the margin below 0) |
| supported | every null beaten, the best rival beaten or the same rule, coverage >= .25 of the claim's domain, and |
|           | causally supported there (rule 12: ablating what the description names does more than ablating others |
|           | like it, carries at least .2 of the head's effect, and has the claimed sign). Where that scorer was not |
|           | asked for: the lower end of the mean-ablation KL at the claimed destinations above 1e-4 nats |
| partly | everything else |

Where a circuit study of the model tested the label (`in_circuit`), the reason ends with what it found; it decides no
verdict.
"""

from __future__ import annotations

from autointerp.circuit_records import CircuitTest
from autointerp.records import Control, Description, Failure, Interval, Judgement, Score, Unscored, Verdict

MIN_COVERAGE = 0.25
MIN_KL = 1e-4  # nats: the least effect with which a unit matters where it is said to act
CAUSAL = "conditional_ablation"
HEADLINES = ("first_token", "predicate", "pointing")  # the first that gave a number is the headline


def judge(
    description: Description | Failure,
    scores: tuple[Score, ...],
    unscored: tuple[Unscored, ...],
    effect: Interval,
    circuit: CircuitTest | None = None,
) -> Judgement:
    """The headline number of a head with its verdict; `effect` is the KL at the claimed destinations."""
    judged = _judged(description, scores, unscored, effect)
    return judged if circuit is None else judged.model_copy(update={"reason": f"{judged.reason}; {circuit.said}"})


def _judged(
    description: Description | Failure, scores: tuple[Score, ...], unscored: tuple[Unscored, ...], effect: Interval
) -> Judgement:
    if isinstance(description, Failure):
        return Judgement(verdict="unscored", reason=f"failed: {description.reason}"[:300])
    if description.abstained:
        return Judgement(verdict="unscored", reason="the explainer abstained")
    headline = next((s for name in HEADLINES for s in scores if s.scorer == name), None)
    if headline is None:
        why = "; ".join(f"{u.scorer}: {u.reason}" for u in unscored) or "no scorer gave a number"
        return Judgement(verdict="unscored", reason=why[:300])
    verdict, reason = _verdict(headline, effect, _causal(headline, scores, unscored))
    margin = _margin(headline)
    coverage = headline.details.get("coverage")
    return Judgement(
        verdict=verdict,
        reason=reason,
        metric=headline.metric,
        domain=headline.domain,
        score=headline.value,
        score_low=headline.low,
        score_high=headline.high,
        chance=headline.chance,
        n_items=headline.n_items,
        n_docs=headline.n_docs,
        margin=None if margin is None else margin.difference,
        margin_low=None if margin is None else margin.low,
        margin_high=None if margin is None else margin.high,
        compared_with=_compared_with(headline, margin),
        coverage=float(coverage) if isinstance(coverage, int | float) else None,
    )


def _verdict(headline: Score, effect: Interval, causal: Score | Unscored | None) -> tuple[Verdict, str]:
    if headline.state == "underpowered":
        n = headline.details.get("documents_with_positive", headline.n_docs)
        return "unscored", f"underpowered: only {n} held-out documents hold a positive"
    lost = [c.name for c in headline.controls if c.kind == "null" and not c.beaten]
    if lost:
        return "refuted", f"not better than {' and '.join(lost)}"
    rivals = [c for c in headline.controls if c.kind == "rival" and not c.same_rule]
    better = [c.name for c in rivals if c.high < 0]
    if better:
        return "refuted", f"{better[0]} predicts better"
    even = [c.name for c in rivals if not c.beaten]
    if even:
        return "partly", f"no better than {even[0]}"
    coverage = headline.details.get("coverage")
    if not isinstance(coverage, int | float):
        return "partly", "coverage is unknown without a predicate"
    if coverage < MIN_COVERAGE:
        return "partly", f"true of a part: covers {100 * coverage:.0f} % of what it does on {headline.domain}"
    against = _no_cause(effect, causal)
    if against:
        return "partly", against
    same = headline.equal_rule
    equal = f"; the same rule as {same}" if same else ""
    return "supported", f"supported, covers {100 * coverage:.0f} %{equal}"


def _causal(headline: Score, scores: tuple[Score, ...], unscored: tuple[Unscored, ...]) -> Score | Unscored | None:
    """The causal test of the headline's domain, or why there is none. A claim on the first position names no pair that
    could be taken out, so it is judged by the effect of the whole head."""
    if headline.scorer == "first_token":
        return None
    found = next((s for s in scores if s.scorer == CAUSAL and s.domain == headline.domain), None)
    return found or next((u for u in unscored if u.scorer == CAUSAL), None)


def _no_cause(effect: Interval, causal: Score | Unscored | None) -> str:
    """Why the model does not depend on what the description names; empty where it does."""
    if isinstance(causal, Unscored):
        return f"no causal test: {causal.reason}"
    if causal is None and effect.n == 0:
        return "no causal test: neither conditional_ablation nor ablation was measured there"
    if causal is None:
        weak = f"it hardly matters there: KL {effect.value:.2g} nats, lower end {effect.low:.2g}"
        return "" if effect.low > MIN_KL else weak
    if causal.details.get("supported") == "yes" and "underpowered" in causal.state:
        return f"the causal test rests on {causal.n_docs} documents only"
    return "" if causal.details.get("supported") == "yes" else f"not causally: {causal.details.get('reason')}"


def _margin(headline: Score) -> Control | None:
    """The closest rival that is another rule; without one, the closest null."""
    rivals = [c for c in headline.controls if c.kind == "rival" and not c.same_rule]
    nulls = [c for c in headline.controls if c.kind == "null"]
    pool = rivals if rivals and not headline.equal_rule else nulls
    return min(pool, key=lambda c: c.difference, default=None)


def _compared_with(headline: Score, margin: Control | None) -> str:
    same = headline.equal_rule
    name = "" if margin is None else margin.name
    return f"{name} (= {same})" if same else name
