"""Predicate scores of all heads of one domain.

1. Predicates of all descriptions, the positional rivals, generic descriptions and a seeded pool of donors are decided
   on the select and test rows; a claim on the first position alone is scored with the sink, under its own name.
2. Layers are tallied in groups; each head's predicate meets its rivals and nulls on the same document resamples.
3. Each predicate is scored on the same rows and head of a model with random weights too: a null.
4. Claims about this domain get tier T3, pairs with one token changed (`edited_pairs`).
5. Some predicates of the run are scored on every head: where a head stands among all (`retrieval`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Description, Domain, Failure, Head, Score, Unscored
from autointerp.scoring.edited_pairs import EditedPairs, ordinary_ids
from autointerp.scoring.first_token import score_first_token, tally_first_token
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.memo import Memo, NoMemo
from autointerp.scoring.predicate_score import Contest, HeadTallies, Overlap, Sums, score_predicate
from autointerp.scoring.predicted import (
    DONOR_POOL,
    GENERIC,
    POSITIONAL_RIVALS,
    PredictedPairs,
    overlap,
    predicate_of,
    some_predicates,
)
from autointerp.scoring.random_weights import MISSING, Twin
from autointerp.scoring.retrieval import Retrieval
from autointerp.scoring.tallies import LayerTallies, tally
from autointerp.scoring.token_identity import THRESHOLDS, IdentityPredictions, IdentityTable
from autointerp.stats.bootstrap import Resamples

RETRIEVED = 60  # different predicates whose score is taken on every head
DETECTOR_TEXT = "detector text"
Outcomes = Mapping[Head, Description | Failure]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PredicateSpec:
    """What predicate scores of one domain need; `identity` was learned on the explain split."""

    model: LanguageModel
    select: HeldOutRows
    test: HeldOutRows
    table: TokenTable
    identity: IdentityTable | None
    seed: int
    batch_size: int
    twin: Twin | None = None  # of the same shape, with random weights
    memo: Memo = field(default_factory=NoMemo, repr=False, compare=False)


class PredicateScorers:
    """Predicate scores of one domain."""

    def __init__(self, spec: PredicateSpec, progress: Progress) -> None:
        self._spec, self._domain, self._progress = spec, spec.test.domain, progress
        self._select = PredictedPairs(spec.select, spec.table)
        self._test = PredictedPairs(spec.test, spec.table)
        self._resamples = Resamples.of(self._test.held_out.n_documents, spec.seed)
        ids = ordinary_ids(spec.select, spec.model.special_ids)
        self._edited = EditedPairs(spec.model, self._test, spec.table, ids, spec.seed, spec.batch_size, spec.memo)
        self._identity: tuple[IdentityPredictions | None, IdentityPredictions | None] = (None, None)
        if spec.identity is not None:
            self._identity = spec.identity.on(self._select.held_out), spec.identity.on(self._test.held_out)

    def score(self, outcomes: Outcomes, rivals: Outcomes) -> dict[Head, Score | Unscored]:
        """The score of every description with a predicate. Under its own name where the claim is about this domain:
        that is the headline; else the domain stands in the name of the scorer."""
        found = self._scored(outcomes, rivals)
        if isinstance(self._spec.twin, Unscored):
            found = {head: _noted(score, self._spec.twin) for head, score in found.items()}
        return {head: _named(score, outcomes[head], self._domain) for head, score in found.items()}

    def _scored(self, outcomes: Outcomes, rivals: Outcomes) -> dict[Head, Score | Unscored]:
        claims = {head: p for head, o in outcomes.items() if (p := predicate_of(o)) is not None}
        resting = {head for head, p in claims.items() if self._test.only_sink(p)}
        found = self._first_token(sorted(resting))
        others = {head: p for head, p in claims.items() if head not in resting}
        if not others:
            return found
        texts = {head: p for head, o in rivals.items() if (p := predicate_of(o)) is not None}
        own = {head for head, o in outcomes.items() if isinstance(o, Description) and o.domain == self._domain}
        pool = some_predicates(others, self._spec.seed, DONOR_POOL)
        everywhere = some_predicates(others, self._spec.seed, RETRIEVED)
        lists = {
            layer: list(dict.fromkeys([*_names(layer, others, texts, pool), *everywhere]))
            for layer in range(self._spec.model.n_layers)
        }
        retrieval = Retrieval(everywhere)
        selects = self._tallies(self._select, self._identity[0], lists)
        tests = self._tallies(self._test, self._identity[1], lists)
        for select, test, random in zip(selects, tests, self._on_twin(others), strict=True):
            layer = self._layer((select, test), lists[test.layer], (others, texts, pool), random)
            found |= layer | self._edited.with_tier({h: layer[h] for h in layer if h in own}, test, others)
            retrieval.add(test, lists[test.layer])
            self._progress(f"scoring predicates on {self._domain}", test.layer + 1, self._spec.model.n_layers)
        for head, predicate in others.items():
            score = found[head]
            if isinstance(score, Score):
                details = score.details | retrieval.place(head, predicate)
                found[head] = score.model_copy(update={"details": details})
        return found

    def _tallies(
        self, pairs: PredictedPairs, identity: IdentityPredictions | None, lists: Mapping[int, list[str]]
    ) -> Iterator[LayerTallies]:
        return tally(self._spec.model, pairs.held_out, lambda n: pairs.masks(lists[n]), self._spec.batch_size, identity)

    def _layer(
        self,
        tallies: tuple[LayerTallies, LayerTallies],
        names: list[str],
        sources: tuple[dict[Head, str], dict[Head, str], list[str]],
        random: dict[Head, Sums],
    ) -> dict[Head, Score | Unscored]:
        claims, texts, pool = sources
        select, test = tallies
        heads = [head for head in claims if head.layer == test.layer]
        if not heads:
            return {}
        found: dict[Head, Score | Unscored] = {}
        overlaps = Overlap(overlap(self._select.masks(names)), overlap(self._test.masks(names)))
        for head in heads:
            contest = replace(_contest(claims[head], texts.get(head), pool, names), random=random.get(head))
            contest = self._with_identity(contest, head, names)
            splits = HeadTallies(select, head.index), HeadTallies(test, head.index)
            found[head] = score_predicate(*splits, contest, overlaps, self._resamples, self._domain)
        return found

    def _on_twin(self, claims: dict[Head, str]) -> Iterator[dict[Head, Sums]]:
        """By layer, the sums of each head's own predicate on the model with random weights; empty without one."""
        twin, rows = self._spec.twin, self._test.held_out
        if not isinstance(twin, LanguageModel):
            yield from ({} for _ in range(self._spec.model.n_layers))
            return
        names = {n: list(dict.fromkeys(p for h, p in claims.items() if h.layer == n)) for n in range(twin.n_layers)}
        nothing = np.zeros((0, *rows.ids.shape, rows.ids.shape[1]), dtype=bool)

        def masks(layer: int) -> np.ndarray:
            return self._test.masks(names[layer]) if names[layer] else nothing

        for found in tally(twin, rows, masks, self._spec.batch_size):
            heads = [head for head in claims if head.layer == found.layer]
            yield {h: HeadTallies(found, h.index).of(names[found.layer].index(claims[h])) for h in heads}

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

    def _first_token(self, heads: list[Head]) -> dict[Head, Score | Unscored]:
        if not heads:
            return {}
        rows, batch, twin = self._test.held_out, self._spec.batch_size, self._spec.twin
        sums = tally_first_token(self._spec.model, rows, batch)
        random = tally_first_token(twin, rows, batch) if isinstance(twin, LanguageModel) else None
        return {head: score_first_token(sums, head, self._resamples, self._domain, random) for head in heads}


def _noted(score: Score | Unscored, twin: Unscored) -> Score | Unscored:
    """A score that says why the random-weights null is missing."""
    if isinstance(score, Unscored):
        return score
    return score.model_copy(update={"details": score.details | {MISSING: twin.reason}})


def _named(score: Score | Unscored, outcome: Description | Failure, domain: Domain) -> Score | Unscored:
    if isinstance(outcome, Description) and outcome.domain == domain:
        return score
    return score.model_copy(update={"scorer": f"{score.scorer} on {domain}"})


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
