"""Scores of neurons and latents that cost no call.

1. Predicates of all descriptions against nulls and rivals (`feature_predicates`).
2. The unit at its mean where the description says that it is active, against rows like these where it says that it
   rests: this decides causal support (`feature_conditional`).
3. The unit's direction added to rows where it rests: do the tokens that it is said to promote rise? (`steering`)
4. The unit at its mean everywhere: loss and KL a token (`feature_ablation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from autointerp.evidence.collect import first_windows
from autointerp.features.activations import Units
from autointerp.model import LanguageModel
from autointerp.predicate import TokenTable
from autointerp.records import Description, Failure, Feature, Interval, Score, Unscored
from autointerp.scoring.contest import TWIN
from autointerp.scoring.feature_ablation import ablate_units
from autointerp.scoring.feature_conditional import SCORER as CONDITIONAL
from autointerp.scoring.feature_conditional import FeatureClaim, FeatureConditional
from autointerp.scoring.feature_predicates import (
    DONORS,
    KEPT_CELLS,
    FeaturePredicateScorers,
    FeaturePredicateSpec,
    Outcomes,
)
from autointerp.scoring.feature_predicates import SCORER as PREDICATE
from autointerp.scoring.feature_rivals import WRONG
from autointerp.scoring.feature_rows import NamedRows, Reading, UnitFacts
from autointerp.scoring.head_values import RowFacts
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.predicates import Progress
from autointerp.scoring.predicted import predicate_of, some_predicates
from autointerp.scoring.random_weights import Twin
from autointerp.scoring.steering import SCORER as STEERING
from autointerp.scoring.steering import Steering, SteeringSpec, resting_rows
from autointerp.scoring.token_identity import ExplainRows
from autointerp.scoring.unit_outcomes import Field, Vocabulary

ABLATION = "ablation"
ENTROPY_CELLS = 2_000_000_000  # positions times vocabulary whose next-token entropy is taken
CAUSAL_WINDOWS = (96, 400, 1000)
MANY_UNITS = 200
STEERED_WINDOWS = (48, 144)  # of select and of test
NOTHING = Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=0)


@dataclass(frozen=True, eq=False)
class FeatureSuiteSpec:
    """What scoring needs besides the descriptions.

    `facts`: mean, reference and sign of every unit that is scored, and of those in `alike`, which names for each the
    units most like it (tier T2). `select`, `test`: held-out windows of text; `explain`: windows for rivals that learn.
    """

    model: LanguageModel
    units: Units
    facts: Mapping[Feature, UnitFacts]
    select: HeldOutRows
    test: HeldOutRows
    explain: ExplainRows
    seed: int
    batch_size: int = 8
    scorers: tuple[str, ...] = (PREDICATE,)
    twin: Twin | None = None
    alike: Mapping[Feature, Sequence[Feature]] = field(default_factory=dict)


@dataclass
class FeatureScores:
    """What the suite found for one unit."""

    scores: list[Score] = field(default_factory=list)
    unscored: list[Unscored] = field(default_factory=list)
    loss: Interval = NOTHING  # nats a token, the unit at its mean everywhere
    kl: Interval = NOTHING
    effect: Interval = NOTHING  # KL at the claimed positions

    def add(self, found: Score | Unscored) -> None:
        if isinstance(found, Score):
            self.scores.append(found)
        else:
            self.unscored.append(found)


class FeatureSuite:
    """Scores descriptions; one instance a run."""

    def __init__(self, spec: FeatureSuiteSpec, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self._table = TokenTable.from_strings(spec.model.strings, spec.model.special_ids)
        self._vocabulary = Vocabulary(spec.model)
        self._reading = Reading(spec.model, spec.units, spec.facts, spec.batch_size)
        self._predicates = FeaturePredicateScorers(
            FeaturePredicateSpec(
                self._reading, spec.select, spec.test, spec.explain, self._table, spec.seed, spec.twin, spec.alike
            ),
            progress,
        )

    def score(self, outcomes: Outcomes, rivals: Outcomes) -> dict[Feature, FeatureScores]:
        """`rivals` are the detector explainer's descriptions where another explainer wrote `outcomes`."""
        wanted, found = self._spec.scorers, {feature: FeatureScores() for feature in outcomes}
        claims, lost = self._predicates.readable(outcomes)
        if PREDICATE in wanted:
            _file(self._predicates.score(claims, rivals), found)
        if STEERING in wanted:
            _file(self._steer(outcomes), found)
        if ABLATION in wanted:
            self._ablate(outcomes, claims, found)
        if CONDITIONAL in wanted:
            self._conditional(outcomes, claims, found)
        for feature, outcome in outcomes.items():
            why = lost[feature].reason if feature in lost else why_not(outcome)
            there = {s.scorer for s in found[feature].scores} | {u.scorer for u in found[feature].unscored}
            for scorer in (PREDICATE, CONDITIONAL, STEERING):
                if scorer in wanted and scorer not in there:
                    found[feature].add(Unscored(scorer=scorer, reason=why))
        return found

    def _groups(self, features: Sequence[Feature], *splits: HeldOutRows) -> Iterator[tuple[Feature, ...]]:
        """Units whose shares on these rows fit in memory."""
        size = max(1, KEPT_CELLS // max(1, sum(rows.ids.size for rows in splits)))
        yield from (tuple(features[start : start + size]) for start in range(0, len(features), size))

    def _conditional(
        self, outcomes: Outcomes, claims: Mapping[Feature, str], found: dict[Feature, FeatureScores]
    ) -> None:
        """Ablation at the rows that the descriptions name."""
        spec = self._spec
        if not claims:
            return
        rows = self._causal_rows(len(claims))
        facts = RowFacts.of(spec.model, rows, spec.batch_size)
        scale = float(np.clip(MANY_UNITS / len(claims), 0.5, 1))
        scorer = FeatureConditional(Field(spec.model, spec.units, rows, facts), spec.facts, spec.seed, scale)
        named, shuffled = NamedRows(rows, self._table), Shuffle(self._predicates.select, claims, spec.seed)
        done = 0
        for some in self._groups(sorted(claims), rows):
            self._progress("ablating units at named rows", done, len(claims))

            def claim_of(feature: Feature) -> FeatureClaim:
                said, other = outcomes[feature], shuffled.of(claims[feature])
                claimed = self._vocabulary.claimed(said) if isinstance(said, Description) else None
                mask = None if other is None else named.mask(other)
                return FeatureClaim(named.mask(claims[feature]), mask, claimed)

            for feature, result in scorer.score(some, self._reading.shares(some, rows), claim_of).items():
                found[feature].add(result.score)
                if result.effect.n:
                    found[feature].effect = result.effect
            done += len(some)
        self._progress("ablating units at named rows", done, len(claims))

    def _causal_rows(self, n_units: int) -> HeldOutRows:
        """As many test windows as may be unembedded whole; fewer for many units, whose rows then share places."""
        test, model = self._spec.test, self._spec.model
        few, many, most = CAUSAL_WINDOWS
        most = int(np.clip(most * MANY_UNITS // n_units, many, most))
        n = int(np.clip(ENTROPY_CELLS // (test.ids.shape[1] * model.d_vocab), few, most))
        return test.take(first_windows(test.documents, n))

    def _steer(self, outcomes: Outcomes) -> dict[Feature, Score | Unscored]:
        spec = self._spec
        said = {f: o for f, o in sorted(outcomes.items()) if isinstance(o, Description) and not o.abstained}
        claimed = {feature: self._vocabulary.claimed(outcome) for feature, outcome in said.items()}
        select, test = (
            rows.take(first_windows(rows.documents, n))
            for rows, n in zip((spec.select, spec.test), STEERED_WINDOWS, strict=True)
        )
        steering = Steering(SteeringSpec(self._reading, select, test, claimed, spec.seed))
        found: dict[Feature, Score | Unscored] = {}
        for some in self._groups(sorted(said), select, test):
            self._progress("steering units", len(found), len(said))
            resting = {rows.split: resting_rows(self._reading.shares(some, rows)) for rows in (select, test)}
            found |= steering.score(some, resting)
        return found

    def _ablate(self, outcomes: Outcomes, claims: Mapping[Feature, str], found: dict[Feature, FeatureScores]) -> None:
        """The whole unit at its mean."""
        spec, named = self._spec, list[NamedRows]()

        def mask(feature: Feature, rows: HeldOutRows) -> Bool[np.ndarray, "window pos"] | None:
            if not named:
                named.append(NamedRows(rows, self._table))
            return named[0].mask(claims[feature]) if feature in claims else None

        ablated = ablate_units(self._reading, sorted(outcomes), spec.test, mask, spec.seed, self._progress)
        for feature, result in ablated.items():
            scores = found[feature]
            scores.loss, scores.kl, scores.effect = result.loss, result.kl, result.effect


class Shuffle:
    """Another unit's description in the place of a unit's own: one that names other rows on select."""

    def __init__(self, select: NamedRows, claims: Mapping[Feature, str], seed: int) -> None:
        self._donors = [*some_predicates(claims, seed, DONORS), *WRONG.values()]
        self._masks = select.masks(self._donors)
        self._select = select

    def of(self, predicate: str) -> str | None:
        """The first donor that overlaps with less than half; None where all are alike."""
        own = self._select.mask(predicate)
        for donor, mask in zip(self._donors, self._masks, strict=True):
            both = int((own & mask).sum())
            if mask.any() and both < TWIN * (int(own.sum()) + int(mask.sum()) - both):
                return donor
        return None


def _file(results: Mapping[Feature, Score | Unscored], found: dict[Feature, FeatureScores]) -> None:
    for feature, score in results.items():
        found[feature].add(score)


def why_not(outcome: Description | Failure) -> str:
    """Why a description gives nothing to score."""
    if isinstance(outcome, Failure):
        return f"the description failed ({outcome.stage})"
    if outcome.abstained:
        return "the explainer abstained"
    return "the description has no predicate" if predicate_of(outcome) is None else "its predicate cannot be read"
