"""How a hypothesis stands on the select split, and which of two is better. The thresholds are those of the verdict.

settled: what the verdict asks for holds on the select split, with its interval · partial: the same, but more than a
quarter of what the unit does is unexplained, so that there may be a second claim, or a neuron or latent rests at more
than a quarter of the tokens that are named, so that something else may have to hold · open: neither, so that more work
may change the verdict · unscored: no number · refuted: a null is not beaten, or a simple rule is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeGuard

from autointerp.records import Hypothesis
from autointerp.scoring.verdict import MIN_COVERAGE

Standing = Literal["settled", "partial", "open", "unscored", "refuted"]
RANK: dict[Standing, int] = {"settled": 4, "partial": 3, "open": 2, "unscored": 1, "refuted": 0}
ENOUGH = 0.75  # of the contribution, and of the tokens named: no second claim, no further condition is looked for
GAIN = 0.01  # of the score: less is no gain
IDLE = 0.9  # of the tested destinations without an effect: nothing depends on the head there


def standing_of(numbers: Mapping[str, Any], least_precision: float = 0.0) -> tuple[Standing, str]:
    """The standing that the numbers of `score_predicate` give, and the condition that decided. `least_precision`: below
    which something else may have to hold; 0 where it says nothing, as of a head's pairs."""
    missing = numbers.get("error") or numbers.get("unscored")
    value = numbers.get("value")
    if missing or not _is_number(value):
        return "unscored", str(missing or "no score")[:200]
    if numbers.get("nulls_beaten") is False:
        return "refuted", f"score {value}: not better than chance or than descriptions that say nothing of it"
    rival = numbers.get("rival") or {}
    if not rival.get("same_rule") and rival:
        low, high = _ends(rival.get("difference"))
        if high < 0:
            return "refuted", f"score {value}: the rule {rival.get('rule')} has {rival.get('value')}"
        if not low > 0:
            return "open", f"score {value}: not surely better than {rival.get('rule')} with {rival.get('value')}"
    coverage = numbers.get("coverage")
    if not _is_number(coverage) or coverage < MIN_COVERAGE:
        return "open", f"score {value}, but it covers {coverage} of the whole activity"
    if _idle(numbers):
        return "open", f"score {value}, but nothing depends on it there"
    if coverage < ENOUGH:
        return "partial", f"score {value}, but it leaves {1 - coverage:.2f} of the whole activity unexplained"
    precision = numbers.get("precision")
    if _is_number(precision) and precision < least_precision:
        return "partial", f"score {value}, but the unit rests at {1 - precision:.2f} of what it names"
    return "settled", f"score {value}, covers {coverage}"


def _idle(numbers: Mapping[str, Any]) -> bool:
    group = numbers.get("right_place_no_effect") or {}
    rows, tested = group.get("rows"), group.get("of_tested")
    return _is_number(rows) and _is_number(tested) and tested > 0 and rows >= IDLE * tested


def better(new: Hypothesis, best: Hypothesis | None, *, revised: bool = False) -> tuple[bool, bool]:
    """Whether `new` is a gain over `best`, and whether it takes its place. A revision does without a gain where it
    states the same rule, or where neither has a score: it was written later, with more in hand. Only a revision may do
    without a score in place of what was refuted: a guess before any experiment may not."""
    if best is None:
        return True, True
    rank, held = RANK[new.standing], RANK[best.standing]
    if rank != held:
        takes = rank > held and (revised or new.standing != "unscored")
        return takes, takes
    values = _value(new), _value(best)
    gained = values[0] > values[1] + GAIN
    same = values == (-math.inf, -math.inf) or (new.description.predicate is not None and _rule(new) == _rule(best))
    return gained, gained or (revised and same)


def as_good(new: Hypothesis, other: Hypothesis) -> bool:
    """Whether `new` says no less than `other` and scores no worse: of several claims together, that they are kept whole
    where one of them alone would do."""
    ranks = RANK[new.standing], RANK[other.standing]
    return ranks[0] >= ranks[1] and _value(new) >= _value(other) - GAIN


def _rule(hypothesis: Hypothesis) -> tuple[str | None, str]:
    return hypothesis.description.predicate, hypothesis.description.domain


def _value(hypothesis: Hypothesis) -> float:
    """The score over chance: what chance gives differs between text and repeats."""
    value, chance = hypothesis.select.get("value"), hypothesis.select.get("chance")
    return float(value) - (float(chance) if _is_number(chance) else 0.0) if _is_number(value) else -math.inf


def _ends(value: Any) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return -math.inf, math.inf


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
