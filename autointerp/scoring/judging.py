"""How far the answers of the language model can be relied on, on a seeded tenth of the units (scoring_validity 9, 18).

1. The same items are asked REPEATS times in other orders; those askings that made the score come from the request
   cache. Krippendorff's alpha over the answers; SE_judge from the values of single askings; SE^2 = SE_items^2 +
   SE_judge^2; order effect = mean |e - e'| over the pairs of orders.
2. Where the order effect is above ORDER_LIMIT the score of this unit is taken anew from single items, one a call.
   Controls that cost calls stay as they were: differences between two askings in batches.
3. A second judge is asked once; alpha between it and the first judge's first asking.

The values of the other units are not touched by any of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from autointerp.records import Description, Failure, Score, Unit
from autointerp.scoring.asking import Asked, Reading
from autointerp.stats.agreement import judge_error, krippendorff_alpha, mean_difference

REPEATS = 5
ORDER_LIMIT = 0.1
BATCHED = "both were asked in batches of items"
Details = dict[str, float | int | str | None]


class Reader(Protocol):
    """A scorer that asks a language model about items."""

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


@dataclass(frozen=True)
class Case:
    """What is asked again: a scored description on its items."""

    unit: Unit
    description: Description
    items: Any
    score: Score


def repeat_purpose(scorer: str) -> str:
    """The purpose of repeats that no score needs."""
    return f"{scorer} repeat control"


def single_purpose(scorer: str) -> str:
    """The purpose of items that are asked one a call."""
    return f"{scorer} single-item control"


def second_purpose(scorer: str) -> str:
    """The purpose of what the second judge is asked."""
    return f"{scorer} second-judge control"


async def judge_again(reader: Reader, case: Case) -> Score:
    """The score with what repeats say of it in its details; from single items where the order matters too much."""
    name, readings = case.score.scorer, []
    for repeat in range(REPEATS):
        purpose = name if repeat < reader.calls else repeat_purpose(name)
        found = await reader.read(case.unit, case.description, case.items, Asked(purpose, repeat))
        if isinstance(found, Reading):
            readings.append(found)
    if len(readings) < 2:
        return _with(case.score, {"judge_repeats": len(readings)})
    order = mean_difference(np.stack([r.e for r in readings]))
    values = np.array([reader.score_of(r, case.items).value for r in readings])
    score = await _one_by_one(reader, case) if order > ORDER_LIMIT else case.score
    items, judge = score.details.get("se_items"), judge_error(values, reader.calls)
    return _with(
        score,
        {
            "judge_repeats": len(readings),
            "judge_agreement": _finite(krippendorff_alpha(np.stack([r.said for r in readings]))),
            "order_effect": order,
            "se_judge": _finite(judge),
            "se": _finite(math.hypot(items, judge)) if isinstance(items, float) else None,
        },
    )


async def ask_second(first: Reader, second: Reader, case: Case, model: str) -> Score:
    """The score with the agreement of a second judge, `model`, in its details. It is asked in an order of its own, so
    that a recording of the run tells its replies from the first judge's."""
    name = case.score.scorer
    own = await first.read(case.unit, case.description, case.items, Asked(name))
    other = await second.read(case.unit, case.description, case.items, Asked(second_purpose(name), REPEATS))
    if isinstance(own, Failure) or isinstance(other, Failure):
        reason = next(found.reason for found in (other, own) if isinstance(found, Failure))
        return _with(case.score, {"second_judge": model, "second_judge_failed": reason[:200]})
    alpha = krippendorff_alpha(np.stack([own.said, other.said]))
    value = second.score_of(other, case.items).value
    return _with(
        case.score,
        {"second_judge": model, "second_judge_value": _finite(value), "second_judge_agreement": _finite(alpha)},
    )


async def _one_by_one(reader: Reader, case: Case) -> Score:
    batched = case.score
    asked = Asked(single_purpose(batched.scorer), size=1)
    found = await reader.read(case.unit, case.description, case.items, asked)
    if isinstance(found, Failure):
        return _with(batched, {"single_items_failed": found.reason[:200]})
    score = reader.score_of(found, case.items)
    asked_for = tuple(control.model_copy(update={"detail": BATCHED}) for control in batched.controls[1:])
    score = score.model_copy(update={"controls": (*score.controls, *asked_for)})
    return _with(score, {"single_items": found.n_items, "batched_value": _finite(batched.value)})


def _with(score: Score, details: Details) -> Score:
    return score.model_copy(update={"details": score.details | details})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
