"""Detection: an LLM reads the description and says where in held-out contexts the unit is active.

1. Items: up to 20 destinations of the test split of the claim's domain, measured to be active or at rest
   (`detection_items`), each with one marked token.
2. One call for all items, in seeded order. With log-probabilities e = p(yes) / (p(yes) + p(no)); without them, e is
   the mean of three calls with other orders. A seeded tenth of the heads is asked more often (`judging`).
3. AUPRC of e against active, with F1 at .5 and Pearson beside it; document bootstrap. Nulls: the same answers
   shuffled over the items, and on a seeded part of the heads other descriptions on the same items.

Pearson is against activity on a sample that is not representative of text: it is a detail, not a headline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from autointerp.llm import Answer
from autointerp.records import Control, Description, Failure, Score, Unit, Unscored
from autointerp.scoring.answers import answers_schema, read_answers, yes_probabilities
from autointerp.scoring.asking import Asked, Asker, Controls, Question, Reading, answer_controls, in_parts
from autointerp.scoring.controls import compared
from autointerp.scoring.detection_items import MIN_EACH, N_ITEMS, DetectionItem
from autointerp.scoring.held_out import HeldOutRows
from autointerp.stats.agreement import items_error, mean_difference
from autointerp.stats.bootstrap import (
    Estimate,
    Resamples,
    confusion_counts,
    f1_interval,
    interval,
    pearson_interval,
    pearson_sums,
)
from autointerp.stats.metrics import auprc

BEFORE = 100  # tokens of context
MAX_TOKENS, TOP_LOGPROBS = 400, 5
SHUFFLES = 20
THRESHOLD = 0.5


@dataclass(frozen=True)
class _Said:
    """e of one item in one call, and whether it is a bare yes or no."""

    e: float
    hard: bool


@dataclass(frozen=True)
class Answers:
    """e of every item by call; `hard` items of the first call had no probability."""

    calls: Float[np.ndarray, "call item"]
    hard: int

    @property
    def e(self) -> Float[np.ndarray, " item"]:
        return np.asarray(self.calls.mean(0))


@dataclass(frozen=True)
class Detector:
    """Asks the LLM; all settings change replies."""

    TEMPLATE: ClassVar[str] = "detection"
    UNIT: ClassVar[str] = "head"

    asker: Asker
    strings: Sequence[str]
    held_out: HeldOutRows

    async def score(
        self, unit: Unit, description: Description, controls: Controls, items: Sequence[DetectionItem]
    ) -> Score | Unscored:
        """AUPRC of one description on its items; `controls` are other descriptions by name."""
        lacking = self.lacks(items)
        if lacking is not None:
            return lacking
        answers = await self._answers(unit, description, items, "detection")
        if isinstance(answers, Failure):
            return Unscored(scorer="detection", reason=answers.reason)
        others = await answer_controls(controls, lambda d: self._answers(unit, d, items, "detection control"))
        if isinstance(others, Failure):
            return Unscored(scorer="detection", reason=others.reason)
        return _Scoring(items, self.asker.seed).score(answers, others, self.held_out.domain)

    @property
    def calls(self) -> int:
        """How many askings of the items the value is the mean of."""
        return self.asker.repeats

    async def read(
        self, unit: Unit, description: Description, items: Sequence[DetectionItem], asked: Asked
    ) -> Reading | Failure:
        """One asking of the items; e is p(yes)."""
        once = partial(self._call, unit, description, asked.purpose, asked.repeat)
        found = await in_parts(items, once, asked.size)
        if isinstance(found, Failure):
            return found
        e = np.array([said.e for said in found])
        return Reading(e, (e >= THRESHOLD).astype(np.int64), len(items))

    def score_of(self, reading: Reading, items: Sequence[DetectionItem]) -> Score:
        """The score of one reading, with the null that costs no call."""
        answers = Answers(reading.e[None], int(np.isin(reading.e, (0, 1)).sum()))
        return _Scoring(items, self.asker.seed).score(answers, {}, self.held_out.domain)

    def asked(self, items: Sequence[DetectionItem]) -> Sequence[DetectionItem]:
        """Those of the items that are asked about."""
        return items

    def lacks(self, items: Sequence[DetectionItem]) -> Unscored | None:
        """Why these items give no score, whatever is said of them."""
        reason = _too_few(items, self.UNIT)
        return Unscored(scorer="detection", reason=reason) if reason else None

    async def _answers(
        self, unit: Unit, description: Description, items: Sequence[DetectionItem], purpose: str
    ) -> Answers | Failure:
        calls: list[list[_Said]] = []
        for repeat in range(self.asker.repeats):
            found = await in_parts(items, partial(self._call, unit, description, purpose, repeat))
            if isinstance(found, Failure):
                return found
            calls.append(found)
        return Answers(np.array([[r.e for r in call] for call in calls]), sum(r.hard for r in calls[0]))

    async def _call(
        self, unit: Unit, description: Description, purpose: str, repeat: int, items: Sequence[DetectionItem]
    ) -> list[_Said] | Failure:
        order = self.asker.order(unit, repeat, len(items))
        answer = await self.asker.ask(self.question(unit, description, items, purpose, repeat))
        if isinstance(answer, Failure):
            return answer
        readings: list[_Said] = [_Said(0.0, hard=True)] * len(items)
        for place, reading in zip(order, _readings(answer), strict=True):
            readings[int(place)] = reading
        return readings

    def question(
        self,
        unit: Unit,
        description: Description,
        items: Sequence[DetectionItem],
        purpose: str = "detection",
        repeat: int = 0,
    ) -> Question[list[bool]]:
        """The question about `items`, in the order of the repeat."""
        n = len(items)
        order = self.asker.order(unit, repeat, n)
        views = [self._view(number, items[i]) for number, i in enumerate(order, 1)]
        return Question(
            template=self.TEMPLATE,
            values={"looks_at": description.looks_at, "conditions": description.conditions, "items": views},
            schema_name="answers",
            schema=answers_schema(n),
            parse=lambda reply: read_answers(reply, n),
            max_tokens=MAX_TOKENS,
            purpose=purpose,
            unit=unit,
            repeat=repeat,
            top_logprobs=TOP_LOGPROBS,
        )

    def _view(self, number: int, item: DetectionItem) -> dict[str, Any]:
        tokens = [self.strings[int(i)] for i in self.held_out.ids[item.window, : item.dst + 1]]
        before = "".join(tokens[max(0, item.dst - BEFORE) : item.dst])
        return {"item": number, "before": before, "token": tokens[item.dst]}


def _readings(answer: Answer[list[bool]]) -> list[_Said]:
    found = yes_probabilities(answer.raw_replies[-1], answer.logprobs, answer.value)
    return [
        _Said(float(said), hard=True) if e is None else _Said(e, hard=False)
        for said, e in zip(answer.value, found, strict=True)
    ]


def _too_few(items: Sequence[DetectionItem], unit: str) -> str:
    """Why there are too few items to score; empty where there are enough."""
    if not items:
        return f"the {unit} writes nothing, or is about equally active everywhere, so there is nothing to tell apart"
    active = sum(i.active for i in items)
    resting = len(items) - active
    if min(active, resting) >= MIN_EACH:
        return ""
    return (
        f"only {active} held-out documents have a row where the {unit} is clearly active, and {resting} others a row "
        f"where it rests; {MIN_EACH} of each are needed"
    )


class _Scoring:
    """From answers to a score; one document an item, so that items are what is resampled."""

    def __init__(self, items: Sequence[DetectionItem], seed: int) -> None:
        self._items, self._seed = items, seed
        self._active = np.array([i.active for i in items], dtype=np.float64)
        self._activity = np.array([i.activity for i in items])
        self._resamples = Resamples.of(len(items), seed)

    def score(self, answers: Answers, others: Mapping[str, list[Answers]], domain: str) -> Score:
        e, n = answers.e, len(self._items)
        value, spread = auprc(e, self._active), auprc_draws(e, self._active, self._resamples)
        low, high = interval(spread)
        controls = [self._shuffled_answers(e, value, spread)]
        for name, found in others.items():
            of = float(np.mean([auprc(other.e, self._active) for other in found]))
            drawn = np.mean([auprc_draws(other.e, self._active, self._resamples) for other in found], axis=0)
            controls.append(compared(name, value, of, spread - drawn))
        prevalence = float(self._active.mean())
        return Score(
            scorer="detection", metric="auprc", domain=domain, value=value, low=low, high=high, n_items=n, n_docs=n,
            prevalence=prevalence, chance=prevalence, controls=tuple(controls),
            state="underpowered" if n < N_ITEMS else "",
            details=self._details(answers) | {"se_items": items_error(spread)},
        )  # fmt: skip

    def _shuffled_answers(self, e: Float[np.ndarray, " item"], value: float, spread: np.ndarray) -> Control:
        """AUPRC of a few items lies above the prevalence by chance, in resamples even more: the null has the same
        items and the same answers, in another order."""
        rng = np.random.default_rng([self._seed, len(e)])
        orders = [rng.permutation(len(e)) for _ in range(SHUFFLES)]
        of = float(np.mean([auprc(e[order], self._active) for order in orders]))
        drawn = np.mean([auprc_draws(e[order], self._active, self._resamples) for order in orders], axis=0)
        return compared("answers shuffled over the items", value, of, spread - drawn)

    def _details(self, answers: Answers) -> dict[str, float | int | str | None]:
        e, n = answers.e, len(self._items)
        weights, places = np.ones(n), np.arange(n)
        said = (e >= THRESHOLD).astype(np.float64)
        tp, fp, fn = confusion_counts(said, self._active, weights, places, n).T
        f1 = f1_interval(tp, fp, fn, self._resamples)
        neighbours = sum(i.tier == "T2" for i in self._items)
        pearson = pearson_interval(pearson_sums(e, self._activity, weights, places, n), self._resamples)
        return {
            "documents_with_positive": int(self._active.sum()),
            **_three("f1", f1),
            **_three("pearson", pearson),
            "resting_same_token": sum(i.tier == "T1" for i in self._items),
            "resting_other_token": sum(i.tier == "T0" for i in self._items),
            **({"resting_neighbour": neighbours} if neighbours else {}),
            "calls": len(answers.calls),
            "items_without_probability": answers.hard,
            "order_effect": mean_difference(answers.calls) if len(answers.calls) > 1 else None,
        }


def _three(name: str, estimate: Estimate) -> dict[str, float | int | str | None]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def auprc_draws(
    e: Float[np.ndarray, " item"], active: Float[np.ndarray, " item"], resamples: Resamples
) -> Float[np.ndarray, " resample"]:
    """`metrics.auprc` of every resample of items; NaN without a positive one."""
    scores, index = np.unique(-e, return_inverse=True)
    groups = np.eye(len(scores))[index.reshape(-1)]
    positives = (resamples.counts * active) @ groups
    everything = np.cumsum(resamples.counts @ groups, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(everything > 0, np.cumsum(positives, axis=1) / everything, 0.0)
        return np.asarray((positives * precision).sum(1) / positives.sum(1))
