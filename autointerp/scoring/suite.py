"""Scores of all heads that cost no call: predicates, first-position claims, whole-head ablation.

1. Predicates of all descriptions, the positional rivals, generic descriptions and a seeded pool of donors are decided
   on the select and test rows of each domain; a claim is scored in its own domain, and beside it in the other.
2. Layers are tallied in groups; each head's predicate meets its rivals and nulls on the same document resamples.
3. What the descriptions name is ablated and patched (`causal`), which decides causal support.
4. Every head is mean-ablated on test text; heads that claim repeats on held-out repeats too. The KL at the
   destinations that the claim names decides whether the head matters there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Description, Domain, Failure, Head, Interval, Score, Unscored
from autointerp.scoring.ablation import Effects, ablate_heads
from autointerp.scoring.causal import CONDITIONAL, INSIDE, PATCHING, CausalClaim, CausalScorers, CausalSpec
from autointerp.scoring.direct import direct_effects
from autointerp.scoring.first_token import score_first_token, tally_first_token
from autointerp.scoring.head_values import ExplainMeans
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.predicate_score import Contest, HeadTallies, Overlap, score_predicate
from autointerp.scoring.predicted import GENERIC, POSITIONAL_RIVALS, PredictedPairs, overlap
from autointerp.scoring.probes import PROBE
from autointerp.scoring.retrieval import Retrieval
from autointerp.scoring.tallies import LayerTallies, tally
from autointerp.scoring.token_identity import THRESHOLDS, IdentityPredictions, IdentityTable
from autointerp.stats.bootstrap import Resamples

DONOR_POOL = 24
RETRIEVED = 60  # different predicates whose score is taken on every head
DETECTOR_TEXT = "detector text"
Progress = Callable[[str, int, int], None]


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


@dataclass
class HeadScores:
    """What the suite found for one head."""

    scores: list[Score] = field(default_factory=list)
    unscored: list[Unscored] = field(default_factory=list)
    loss: Interval = field(default_factory=lambda: _nothing())
    kl: Interval = field(default_factory=lambda: _nothing())
    direct: Interval | None = None  # centred logits on the true next token; None where writes cannot be read
    effect: Interval = field(default_factory=lambda: _nothing())  # KL at the claimed destinations


def _nothing() -> Interval:
    nan = float("nan")
    return Interval(value=nan, low=nan, high=nan, n=0)


Outcomes = Mapping[Head, Description | Failure]


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
                _Predicates(self._spec, self._table, domain, self._progress).score(outcomes, rivals, found)
        for head, outcome in outcomes.items():
            if _predicate(outcome) is None and "predicate" in self._spec.scorers:
                found[head].unscored.append(Unscored(scorer="predicate", reason=_why_not(outcome)))
        if self._spec.causal is not None and INSIDE & set(self._spec.scorers):
            for domain in self._spec.held_out.test:
                self._causal(domain, self._spec.causal, outcomes, found)
        if "ablation" in self._spec.scorers:
            self._ablate(outcomes, found)
        return found

    def _causal(self, domain: Domain, inputs: CausalInputs, outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        spec, held_out = self._spec, self._spec.held_out
        every = {head: p for head, o in outcomes.items() if (p := _predicate(o)) is not None}
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
            _some(every, spec.seed, DONOR_POOL),
        )
        results = [scorers.conditional(self._progress)] if CONDITIONAL in spec.scorers else []
        if PATCHING in spec.scorers:
            self._progress(f"patching on {domain}", 0, 0)
            results.append(scorers.patching())
        if PROBE in spec.scorers:
            results.append(scorers.probes(self._progress))
        for result in results:
            for head, score in result.items():
                into: list[Any] = found[head].scores if isinstance(score, Score) else found[head].unscored
                into.append(score)

    def _ablate(self, outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        for domain, held_out in self._spec.ablation.items():
            claimed = {h: o for h, o in outcomes.items() if isinstance(o, Description) and o.domain == domain}
            heads = tuple(sorted(outcomes)) if domain == "text" else tuple(sorted(claimed))
            if not heads:
                continue
            effects = ablate_heads(
                self._spec.model,
                held_out,
                heads,
                self._spec.z_mean,
                self._spec.seed,
                lambda done, of, domain=domain: self._progress(f"ablating heads on {domain}", done, of),  # type: ignore[misc]
            )
            pairs = PredictedPairs(held_out, self._table)
            direct = direct_effects(self._spec.model, held_out, self._spec.z_mean) if domain == "text" else None
            for head in heads:
                if isinstance(direct, Mapping):
                    found[head].direct = direct[head]
                if domain == "text":
                    found[head].loss, found[head].kl = effects.mean(head, "loss"), effects.mean(head, "kl")
                if head in claimed:
                    found[head].effect = self._effect(effects, head, claimed[head], pairs)

    def _effect(self, effects: Effects, head: Head, description: Description, pairs: PredictedPairs) -> Interval:
        predicate = _predicate(description)
        return effects.mean(head, "kl", None if predicate is None else pairs.destinations(predicate))


def _predicate(outcome: Description | Failure) -> str | None:
    return None if isinstance(outcome, Failure) or outcome.abstained else outcome.predicate


def _why_not(outcome: Description | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"the description failed ({outcome.stage})"
    return "the explainer abstained" if outcome.abstained else "the description has no predicate"


class _Predicates:
    """Predicate scores of one domain."""

    def __init__(self, spec: SuiteSpec, table: TokenTable, domain: Domain, progress: Progress) -> None:
        self._spec, self._domain, self._progress = spec, domain, progress
        self._select = PredictedPairs(spec.held_out.select[domain], table)
        self._test = PredictedPairs(spec.held_out.test[domain], table)
        self._resamples = Resamples.of(self._test.held_out.n_documents, spec.seed)
        self._identity: tuple[IdentityPredictions | None, IdentityPredictions | None] = (None, None)
        if spec.identity is not None:
            self._identity = spec.identity.on(self._select.held_out), spec.identity.on(self._test.held_out)

    def score(self, outcomes: Outcomes, rivals: Outcomes, found: dict[Head, HeadScores]) -> None:
        claims = {head: p for head, o in outcomes.items() if (p := _predicate(o)) is not None}
        resting = {head for head, p in claims.items() if self._test.only_sink(p)}
        self._first_token(sorted(resting), outcomes, found)
        others = {head: p for head, p in claims.items() if head not in resting}
        if not others:
            return
        texts = {head: p for head, o in rivals.items() if (p := _predicate(o)) is not None}
        pool = _some(others, self._spec.seed, DONOR_POOL)
        everywhere = _some(others, self._spec.seed, RETRIEVED)
        lists = {
            layer: list(dict.fromkeys([*_names(layer, others, texts, pool), *everywhere]))
            for layer in range(self._spec.model.n_layers)
        }
        retrieval = Retrieval(everywhere)
        selects, tests = (
            tally(
                self._spec.model,
                pairs.held_out,
                lambda n, pairs=pairs: pairs.masks(lists[n]),  # type: ignore[misc]
                self._spec.batch_size,
                identity,
            )
            for pairs, identity in zip((self._select, self._test), self._identity, strict=True)
        )
        for select, test in zip(selects, tests, strict=True):
            self._layer((select, test), lists[test.layer], (others, texts, pool), outcomes, found)
            retrieval.add(test, lists[test.layer])
            self._progress(f"scoring predicates on {self._domain}", test.layer + 1, self._spec.model.n_layers)
        for head, predicate in others.items():
            found[head].scores = [
                s.model_copy(update={"details": s.details | retrieval.place(head, predicate)})
                if s.domain == self._domain and s.scorer.startswith("predicate")
                else s
                for s in found[head].scores
            ]

    def _layer(
        self,
        tallies: tuple[LayerTallies, LayerTallies],
        names: list[str],
        sources: tuple[dict[Head, str], dict[Head, str], list[str]],
        outcomes: Outcomes,
        found: dict[Head, HeadScores],
    ) -> None:
        claims, texts, pool = sources
        select, test = tallies
        heads = [head for head in claims if head.layer == test.layer]
        if not heads:
            return
        overlaps = Overlap(overlap(self._select.masks(names)), overlap(self._test.masks(names)))
        for head in heads:
            contest = self._with_identity(_contest(claims[head], texts.get(head), pool, names), head, names)
            splits = HeadTallies(select, head.index), HeadTallies(test, head.index)
            score = score_predicate(*splits, contest, overlaps, self._resamples, self._domain)
            _file(score, outcomes[head], self._domain, found[head])

    def _with_identity(self, contest: Contest, head: Head, names: list[str]) -> Contest:
        predictions = self._identity[1]
        if predictions is None:
            return contest
        return replace(
            contest,
            identity=tuple(range(len(names), len(names) + len(THRESHOLDS))),
            identity_mask=lambda number: predictions.mask(head.layer, head.index, THRESHOLDS[number]),
            own_mask=self._test.mask(names[contest.own]),
        )

    def _first_token(self, heads: list[Head], outcomes: Outcomes, found: dict[Head, HeadScores]) -> None:
        if not heads:
            return
        sums = tally_first_token(self._spec.model, self._test.held_out, self._spec.batch_size)
        for head in heads:
            score = score_first_token(sums, head, self._resamples, self._domain)
            _file(score, outcomes[head], self._domain, found[head])


def _file(score: Score | Unscored, outcome: Description | Failure, domain: Domain, into: HeadScores) -> None:
    """The score on the claim's own domain is the headline; the other domain's stands beside it under its own name."""
    own = isinstance(outcome, Description) and outcome.domain == domain
    if isinstance(score, Score):
        into.scores.append(score if own else score.model_copy(update={"scorer": f"{score.scorer} on {domain}"}))
    else:
        name = score.scorer if own else f"{score.scorer} on {domain}"
        into.unscored.append(score.model_copy(update={"scorer": name}))


def _some(claims: Mapping[Head, str], seed: int, limit: int) -> list[str]:
    """Different predicates of the run, at most `limit`, in seeded order."""
    unique = sorted(set(claims.values()))
    order = np.random.default_rng(seed).permutation(len(unique))
    return [unique[i] for i in order[:limit]]


def _names(layer: int, claims: dict[Head, str], texts: dict[Head, str], pool: list[str]) -> list[str]:
    """All predicates that heads of a layer are compared with, each once."""
    own = [p for head, p in sorted(claims.items()) if head.layer == layer]
    detector = [p for head, p in sorted(texts.items()) if head.layer == layer]
    return list(dict.fromkeys([*own, *detector, *POSITIONAL_RIVALS.values(), *GENERIC.values(), *pool]))


def _contest(own: str, text: str | None, pool: list[str], names: list[str]) -> Contest:
    index = {name: i for i, name in enumerate(names)}
    return Contest(
        own=index[own],
        rivals={name: index[p] for name, p in POSITIONAL_RIVALS.items()},
        others={} if text is None else {DETECTOR_TEXT: index[text]},
        donors=tuple(index[p] for p in pool if p != own),
        generic=tuple(index[p] for p in GENERIC.values() if p != own),
    )


Mask = Bool[np.ndarray, "window pos"]
