"""Scores of all heads that cost no call.

1. Predicates of all descriptions in every domain (`predicates`): a claim is scored in its own domain, and beside it in
   the other.
2. What the descriptions name is ablated and patched (`causal`), which decides causal support.
3. Every head is mean-ablated on test text; heads that claim repeats on held-out repeats too. The KL at the
   destinations that the claim names decides whether the head matters there, where no causal scorer was asked for.
4. Direct and total effect of every head on the true next token (`direct`, `backup`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int

from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Description, Domain, Failure, GroupEffect, Head, Interval, Score, Unscored
from autointerp.scoring.ablation import Effects, ablate_heads
from autointerp.scoring.backup import RemovedHeads, TotalAndDirect, remove_heads
from autointerp.scoring.causal import CONDITIONAL, INSIDE, PATCHING, CausalClaim, CausalScorers, CausalSpec
from autointerp.scoring.direct import direct_effects
from autointerp.scoring.groups import group_of
from autointerp.scoring.head_values import ExplainMeans
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.memo import Memo, NoMemo
from autointerp.scoring.predicates import Outcomes, PredicateScorers, PredicateSpec, Progress
from autointerp.scoring.predicted import DONOR_POOL, PredictedPairs, predicate_of, some_predicates
from autointerp.scoring.probes import PROBE
from autointerp.scoring.random_weights import Twin
from autointerp.scoring.token_identity import IdentityTable


@dataclass(frozen=True)
class HeldOut:
    """Rows to score on, by domain: select and test."""

    select: Mapping[Domain, HeldOutRows]
    test: Mapping[Domain, HeldOutRows]


@dataclass(frozen=True)
class CausalInputs:
    """From the explain split: means that replace what is removed, ordinary ids for edits."""

    means: ExplainMeans
    pool: Int[np.ndarray, " id"]


@dataclass(frozen=True)
class SuiteSpec:
    """What scoring needs besides the descriptions."""

    model: LanguageModel
    held_out: HeldOut
    ablation: Mapping[Domain, HeldOutRows]
    z_mean: Float64[np.ndarray, "layer head d_head"]
    seed: int
    batch_size: int = 8
    scorers: tuple[str, ...] = ("predicate", "ablation")
    identity: IdentityTable | None = None  # learned on the explain split
    causal: CausalInputs | None = None
    twin: Twin | None = None  # a model of the same shape with random weights: a null
    memo: Memo = field(default_factory=NoMemo, repr=False, compare=False)  # shared by runs that describe anew


@dataclass
class HeadScores:
    """What the suite found for one head."""

    scores: list[Score] = field(default_factory=list)
    unscored: list[Unscored] = field(default_factory=list)
    loss: Interval = field(default_factory=lambda: _nothing())
    kl: Interval = field(default_factory=lambda: _nothing())
    direct: Interval | None = None  # centred logits on the true next token; None where writes cannot be read
    total: TotalAndDirect | None = None
    group: GroupEffect | None = None  # of a head that is backed up, removed together with those described like it
    effect: Interval = field(default_factory=lambda: _nothing())  # KL at the claimed destinations


def _nothing() -> Interval:
    nan = float("nan")
    return Interval(value=nan, low=nan, high=nan, n=0)


class Suite:
    """Scores descriptions; one instance a run."""

    def __init__(self, spec: SuiteSpec, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self._table = TokenTable.from_strings(spec.model.strings, spec.model.special_ids)

    def score(self, outcomes: Outcomes, rivals: Outcomes) -> dict[Head, HeadScores]:
        """`rivals` are the detector explainer's descriptions where another explainer wrote `outcomes`."""
        found = {head: HeadScores() for head in outcomes}
        if "predicate" in self._spec.scorers:
            for domain in self._spec.held_out.test:
                _file(self._predicates(domain).score(outcomes, rivals), found)
        for head, outcome in outcomes.items():
            if predicate_of(outcome) is None and "predicate" in self._spec.scorers:
                found[head].unscored.append(Unscored(scorer="predicate", reason=_why_not(outcome)))
        if self._spec.causal is not None and INSIDE & set(self._spec.scorers):
            for domain in self._spec.held_out.test:
                self._causal(domain, self._spec.causal, outcomes, found)
            self._say_why(outcomes, found)
        if "ablation" in self._spec.scorers:
            self._ablate(outcomes, found)
        return found

    def _predicates(self, domain: Domain) -> PredicateScorers:
        spec = self._spec
        rows = spec.held_out.select[domain], spec.held_out.test[domain]
        return PredicateScorers(
            PredicateSpec(
                spec.model, *rows, self._table, spec.identity, spec.seed, spec.batch_size, spec.twin, spec.memo
            ),
            self._progress,
        )

    def _causal(self, domain: Domain, inputs: CausalInputs, outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        spec, held_out = self._spec, self._spec.held_out
        every = {head: p for head, o in outcomes.items() if (p := predicate_of(o)) is not None}
        claims = {
            head: CausalClaim(every[head], outcome.label)
            for head, outcome in outcomes.items()
            if head in every and isinstance(outcome, Description) and outcome.domain == domain
        }
        scorers = CausalScorers(
            CausalSpec(
                spec.model,
                held_out.select[domain],
                held_out.test[domain],
                inputs.means,
                inputs.pool,
                self._table,
                spec.seed,
                spec.batch_size,
            ),
            claims,
            some_predicates(every, spec.seed, DONOR_POOL),
        )
        results = [scorers.conditional(self._progress)] if CONDITIONAL in spec.scorers else []
        if PATCHING in spec.scorers:
            self._progress(f"patching on {domain}", 0, 0)
            results.append(scorers.patching())
        if PROBE in spec.scorers:
            results.append(scorers.probes(self._progress))
        for result in results:
            _file(result, found)

    def _say_why(self, outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        """A reason wherever a scorer that looks inside the head had nothing to work on."""
        for head, outcome in outcomes.items():
            there = {s.scorer for s in found[head].scores} | {u.scorer for u in found[head].unscored}
            why = _why_not(outcome) if predicate_of(outcome) is None else "it names no pair off the first position"
            for name in sorted(INSIDE & set(self._spec.scorers) - there):
                found[head].unscored.append(Unscored(scorer=name, reason=why))

    def _ablate(self, outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        for domain, held_out in self._spec.ablation.items():
            claimed = {h: o for h, o in outcomes.items() if isinstance(o, Description) and o.domain == domain}
            heads = tuple(sorted(outcomes)) if domain == "text" else tuple(sorted(claimed))
            if not heads:
                continue
            effects = self._ablated(domain, held_out, heads)
            pairs = PredictedPairs(held_out, self._table)
            if domain == "text":
                self._next_token(held_out, outcomes, found)
            for head in heads:
                if domain == "text":
                    found[head].loss, found[head].kl = effects.mean(head, "loss"), effects.mean(head, "kl")
                if head in claimed:
                    found[head].effect = self._effect(effects, head, claimed[head], pairs)

    def _ablated(self, domain: Domain, held_out: HeldOutRows, heads: tuple[Head, ...]) -> Effects:
        spec = self._spec

        def progress(done: int, of: int) -> None:
            self._progress(f"ablating heads on {domain}", done, of)

        def ablated() -> Effects:
            return ablate_heads(spec.model, held_out, heads, spec.z_mean, spec.seed, progress)

        return spec.memo.get(("ablated", domain, heads), ablated)

    def _next_token(self, held_out: HeldOutRows, outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        """Direct effect over all rows, total and direct effect on a sample of them; nothing where writes cannot be
        read as logits, which the evidence of every head says."""
        spec, heads = self._spec, tuple(sorted(outcomes))
        direct = spec.memo.get("direct", lambda: direct_effects(spec.model, held_out, spec.z_mean))
        if isinstance(direct, Unscored):
            return
        removed = spec.memo.get(
            ("removed", heads), lambda: remove_heads(spec.model, held_out, heads, spec.z_mean, spec.seed)
        )
        for head in outcomes:
            found[head].direct, found[head].total = direct[head], removed.of(head)
        for head, effect in _groups(removed, outcomes, found).items():
            found[head].group = effect

    def _effect(self, effects: Effects, head: Head, description: Description, pairs: PredictedPairs) -> Interval:
        predicate = predicate_of(description)
        return effects.mean(head, "kl", None if predicate is None else pairs.destinations(predicate))


def _groups(removed: RemovedHeads, outcomes: Outcomes, found: dict[Head, HeadScores]) -> dict[Head, GroupEffect]:
    """What the heads like a backed-up one do together; each group is removed once."""
    backed_up = [head for head, scores in found.items() if scores.total is not None and scores.total.backed_up]
    groups = {head: group for head in backed_up if (group := group_of(head, outcomes)) is not None}
    together = {group: removed.together(group) for group in dict.fromkeys(groups.values())}
    return {head: removed.group_effect(head, group, together[group]) for head, group in groups.items()}


def _file(results: Mapping[Head, Score | Unscored], found: dict[Head, HeadScores]) -> None:
    for head, score in results.items():
        if isinstance(score, Score):
            found[head].scores.append(score)
        else:
            found[head].unscored.append(score)


def _why_not(outcome: Description | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"the description failed ({outcome.stage})"
    return "the explainer abstained" if outcome.abstained else "the description has no predicate"
