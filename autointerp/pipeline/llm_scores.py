"""Scorers that ask the language model, for all units of a run: their items, their controls, and the order of asking.

Items are chosen before any description is known. A seeded fifth of the units (at least ten) runs the controls that
cost calls: other units' descriptions, and a guess of the LLM that saw no evidence (scoring_validity rule 10).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from autointerp.config import RunConfig
from autointerp.errors import ModelError
from autointerp.evidence.collect import Progress
from autointerp.model import LanguageModel
from autointerp.pipeline.describing import Pace, U, run_together
from autointerp.records import Description, Domain, Failure, Feature, Head, Score, Unit, Unscored
from autointerp.scoring.activity import row_states
from autointerp.scoring.asking import Asked, Asker, Controls, Question, Reading
from autointerp.scoring.detection import Detector
from autointerp.scoring.detection_items import DetectionItem, choose_detection_items
from autointerp.scoring.effect import Effect, EffectItems
from autointerp.scoring.effect_rows import CandidatePool, effect_rows
from autointerp.scoring.effect_sign import claimed_effect, effect_without_llm
from autointerp.scoring.feature_llm import FEATURE_LLM_SCORERS
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.no_evidence import describe_without_evidence
from autointerp.scoring.other_descriptions import NO_EVIDENCE, donors_of, nulls, wrong_descriptions
from autointerp.scoring.pointing import Pointer
from autointerp.scoring.pointing_items import PointingItem, choose_items
from autointerp.scoring.predicted import GENERIC
from autointerp.scoring.suite import HeldOut

LLM_SCORERS = ("pointing", "detection", "effect")
K = TypeVar("K", Head, Feature, contravariant=True)
CONTROL_SHARE, MIN_CONTROLS = 0.2, 10
ORDER_SHARE = 0.1
ByScorer = dict[str, Score | Unscored]
Scored = dict[Head, ByScorer]


@dataclass(frozen=True)
class ScorerItems:
    """The held-out items of one domain; empty for a scorer that is not wanted."""

    rows: HeldOutRows
    pointing: Mapping[Head, Sequence[PointingItem]]
    detection: Mapping[Head, Sequence[DetectionItem]]
    effect: Mapping[Head, EffectItems]

    def of(self, scorer: str, head: Head) -> Any:
        found: Mapping[Head, Any] = getattr(self, scorer)
        return found[head]


Items = Mapping[Domain, ScorerItems]


def scorer_items(
    config: RunConfig, model: LanguageModel, held_out: HeldOut, heads: Sequence[Head], batch_size: int
) -> dict[Domain, ScorerItems]:
    """Items of all heads in every domain; without an LLM only those that need none."""
    asked = set(config.scorers) & set(LLM_SCORERS) if config.explainer == "llm" else set(config.scorers) & {"effect"}
    found: dict[Domain, ScorerItems] = {}
    for domain, rows in held_out.test.items():
        pointing = choose_items(model, rows, heads, config.seed, batch_size) if "pointing" in asked else {}
        detection: Mapping[Head, Sequence[DetectionItem]] = {}
        effect: Mapping[Head, EffectItems] = {}
        if asked & {"detection", "effect"}:
            states = row_states(model, held_out.select[domain], rows, heads, batch_size)
            if "detection" in asked:
                detection = choose_detection_items(rows, states, config.seed)
            if "effect" in asked:
                pool = CandidatePool.of(model, [held_out.select["text"], held_out.test["text"]])
                try:
                    effect = effect_rows(model, rows, states, pool, config.seed, batch_size)
                except ModelError as error:
                    effect = dict.fromkeys(heads, Unscored(scorer="effect", reason=str(error)))
        found[domain] = ScorerItems(rows, pointing, detection, effect)
    return found


class Scorer(Protocol):
    """Scores one description with the language model."""

    async def score(self, unit: Unit, description: Description, controls: Controls, items: Any) -> Score | Unscored:
        """A number with its controls, or why there is none."""
        ...

    def lacks(self, items: Any) -> Unscored | None:
        """Why these items give no score, whatever is said of them."""
        ...

    def asked(self, items: Any) -> Sequence[Any]:
        """Those of the items that are asked about."""
        ...

    def question(self, unit: Unit, description: Description, items: Any) -> Question[Any]:
        """What the first call asks."""
        ...

    @property
    def calls(self) -> int:
        """How many askings of the items a value is the mean of."""
        ...

    async def read(self, unit: Unit, description: Description, items: Any, asked: Asked) -> Reading | Failure:
        """What one asking of the items gives."""
        ...

    def score_of(self, reading: Reading, items: Any) -> Score:
        """The score of one reading, with the null that costs no call as its first control."""
        ...


class Desk(Protocol[K]):
    """The held-out items of one domain, and the wanted scorers that ask about them."""

    def scorers(self, asker: Asker) -> Mapping[str, Scorer]:
        """The scorers by name, in the order of asking."""
        ...

    def items(self, scorer: str, unit: K) -> Any:
        """What a scorer asks about a unit."""
        ...


@dataclass(frozen=True)
class HeadDesk:
    """The desk of heads in one domain."""

    config: RunConfig
    strings: Sequence[str]
    held: ScorerItems

    def scorers(self, asker: Asker) -> Mapping[str, Scorer]:
        rows = self.held.rows
        known: dict[str, Scorer] = {
            "pointing": Pointer(asker, self.strings, rows),
            "detection": Detector(asker, self.strings, rows),
            "effect": Effect(asker, self.strings, rows),
        }
        return {name: known[name] for name in LLM_SCORERS if name in self.config.scorers}

    def items(self, scorer: str, unit: Head) -> Any:
        return self.held.of(scorer, unit)


def head_desks(config: RunConfig, strings: Sequence[str], items: Items) -> dict[Domain, HeadDesk]:
    """The desks of all domains."""
    return {domain: HeadDesk(config, strings, held) for domain, held in items.items()}


@dataclass(frozen=True)
class LlmScoring(Generic[U]):
    """Everything that asking about all units needs. `controls`: the nulls of a unit by scorer, given the guess that
    was made without evidence; `guess_template` asks for that guess."""

    config: RunConfig
    asker: Asker
    units: Sequence[U]
    desks: Mapping[Domain, Desk[U]]
    described: Mapping[U, Description]
    pace: Pace
    controls: Callable[[U, str, Description | Failure | None], Controls]
    guess_template: str = "no_evidence"

    @property
    def names(self) -> list[str]:
        """The scorers that ask, in order."""
        return list(dict.fromkeys(name for desk in self.desks.values() for name in desk.scorers(self.asker)))


async def score_with_llm(scoring: LlmScoring[U], into: dict[U, ByScorer], progress: Progress) -> list[str]:
    """Fills `into` as it goes, so that what was paid for is kept; returns notes for the user."""
    described = scoring.described
    controlled = control_units(scoring.units, scoring.config.seed)
    by_domain = {domain: desk.scorers(scoring.asker) for domain, desk in scoring.desks.items()}
    names = scoring.names
    guess = None
    if names and controlled & set(described):
        guess = await describe_without_evidence(scoring.asker, scoring.guess_template)

    async def one(unit: U, name: str) -> None:
        domain = described[unit].domain
        scored = into.setdefault(unit, {})
        if domain not in by_domain:
            scored[name] = Unscored(scorer=name, reason=f"no held-out rows of {domain}")
            return
        items = scoring.desks[domain].items(name, unit)
        controls = scoring.controls(unit, name, guess) if unit in controlled else {}
        scored[name] = await by_domain[domain][name].score(unit, described[unit], controls, items)
        progress("asking for scores", sum(map(len, into.values())), len(described) * len(names))

    await run_together([partial(one, unit, name) for unit in described for name in names], scoring.pace)
    return [f"no control {NO_EVIDENCE!r}: {guess.reason}"] if isinstance(guess, Failure) else []


def score_signs(config: RunConfig, items: Items, outcomes: Mapping[Head, Description | Failure], into: Scored) -> None:
    """The effect score that needs no LLM, for descriptions whose labels say what becomes of the attended token."""
    if "effect" not in config.scorers:
        return
    for head, outcome in outcomes.items():
        if isinstance(outcome, Failure) or outcome.abstained or claimed_effect(outcome) is None:
            continue
        if outcome.domain in items:
            rows = items[outcome.domain].effect[head]
            into.setdefault(head, {})["effect_sign"] = effect_without_llm(outcome, rows, outcome.domain, config.seed)


def scores_of(
    config: RunConfig, outcome: Description | Failure, scored: Mapping[str, Score | Unscored]
) -> list[Score | Unscored]:
    """What was scored of a unit, and an Unscored for each wanted scorer that was never asked about it."""
    if isinstance(outcome, Failure):
        return list(scored.values())
    asks = config.explainer == "llm"
    why = "the run stopped before it was asked" if asks else "no language model in this run"
    why = "the explainer abstained" if outcome.abstained else why
    asking = FEATURE_LLM_SCORERS if config.units else LLM_SCORERS
    missing = [name for name in asking if name in config.scorers and name not in scored]
    return [*scored.values(), *(Unscored(scorer=name, reason=why) for name in missing)]


def control_units(units: Sequence[U], seed: int) -> set[U]:
    """The seeded fifth of the units (at least ten) on which controls that cost calls are run."""
    return set(_drawn(units, seed, max(MIN_CONTROLS, round(CONTROL_SHARE * len(units)))))


def order_units(units: Sequence[U], seed: int, able: Container[U] | None = None) -> frozenset[U]:
    """The seeded tenth of the units (at least one) that are asked again in other orders (scoring_validity rules 9 and
    18), drawn among those `able` to be scored."""
    order = [u for u in _drawn(units, seed, len(units)) if able is None or u in able]
    return frozenset(order[: max(1, round(ORDER_SHARE * len(units)))])


def _drawn(units: Sequence[U], seed: int, n: int) -> list[U]:
    order = np.random.default_rng(seed).permutation(len(units))
    return [units[i] for i in order[: min(n, len(units))]]


def controls_of(
    head: Head, scorer: str, described: Mapping[Head, Description], guess: Description | Failure | None, seed: int
) -> dict[str, list[Description]]:
    """The nulls of one head: other descriptions, and the guess without evidence (left out where there was none)."""
    donors = donor_descriptions(head, described, seed, effect=scorer == "effect")
    return nulls(donors, generic_descriptions(head, seed), guess)


def donor_descriptions(
    head: Head, described: Mapping[Head, Description], seed: int, *, effect: bool = False
) -> list[Description]:
    """Other heads' descriptions for the shuffled control, since twins are no null: of other labels; for claims about
    the effect of other effects."""
    own = described[head]

    def differs(other: Description) -> bool:
        if effect:
            same = claimed_effect(other) == claimed_effect(own) is not None
            return bool(other.writes.strip()) and other.writes != own.writes and not same
        return other.label != own.label and other.looks_at != own.looks_at

    return donors_of(head, described, differs, seed)


def generic_descriptions(head: Head, seed: int) -> list[Description]:
    """The product's fixed wrong descriptions, for runs with too few others to shuffle."""
    return wrong_descriptions(head, {name: name for name in GENERIC}, "Every token attends to {}.", seed)
