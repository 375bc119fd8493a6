"""Simple rules about when a unit is active, learned on half of the explain documents and measured on the other half.

1. Each family (one token, a class, a set, a token after another, an earlier token, position, repetition) gives the
   rule with the best F1 over active against resting rows, where each literal must bring `PRICE`; a string that was
   active fewer than three times is in none.
2. `either`: a rule and the best that can be joined to it by `or`, each found anew with the other held. It is read as
   the family of the part that holds more.
3. What was found is counted on documents that the search has not seen: F1, precision, recall and coverage are those.
4. The same on shuffled activations (as many active and between rows, drawn anew) gives `null_max`; units with about as
   many such rows share it.
5. A rule fires where F1 is `MARGIN` above `null_max`, and still at least .5 less `LONG` for each further literal: a
   long list that holds half of a unit is no simple rule.

Rules are counted on the learning rows (`learning_rows`), not on examples. The best of several rules is still the best
of several: scoring on held-out text is for the one that is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from autointerp.errors import PredicateError
from autointerp.feature_records import RuleReading
from autointerp.features.active_rows import UnitRows
from autointerp.features.learning_rows import LearningRows
from autointerp.features.rule_families import context, position, repetition, token_pair
from autointerp.features.rule_problem import Mask, Problem, Rule, best_of
from autointerp.features.rule_terms import one_token, token_class, token_set
from autointerp.predicate import parse_positional

FIRES, MARGIN, LONG, GAIN = 0.5, 0.05, 0.01, 0.05
_REFITS = 2
_WORTH_JOINING = 0.25  # F1 of a best rule below which no second one is looked for
_GOOD, _SHORT = 0.97, 0.9  # F1 of a rule that leaves nothing to gain, and its worth: a long list may hide two rules
Rows = Int[np.ndarray, " some"]
Search = Callable[[Problem], Rule | None]
FAMILIES: dict[str, Search] = {
    "token": lambda problem: one_token(problem, problem.rows.here),
    "token_class": lambda problem: token_class(problem, problem.rows.here),
    "token_set": lambda problem: token_set(problem, problem.rows.here),
    "position": position,
    "repetition": repetition,
    "token_pair": token_pair,
    "context": context,
}
SLOW = ("token_pair", "context")  # not looked for where the rules before them leave nothing to gain


@dataclass(frozen=True, eq=False)
class RuleLearner:
    """Learns rules for units; `seed` shuffles."""

    rows: LearningRows
    seed: int
    _known_nulls: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict)

    def learn(self, rows: UnitRows) -> tuple[RuleReading, ...]:
        """The rules of one unit, best F1 first."""
        problem, unseen = self._halves(rows.active, rows.between)
        if not len(problem.active):
            return ()
        found = _searched(problem)
        nulls = self._nulls(_two_digits(len(rows.active)), _two_digits(len(rows.between)))
        either = _either(problem, found)
        named = [*found.items(), *([("either", either)] if either is not None else [])]
        most = max(nulls.values(), default=0.0)
        readings = [_reading(unseen, rows, rule, nulls.get(name, most)) for name, rule in named]
        return tuple(sorted(readings, key=lambda r: -r.f1))

    def _halves(self, active: Rows, between: Rows) -> tuple[Problem, Problem]:
        """What to learn from, and what to measure on. The rows of the other half count for nothing, as those between
        rest and activity do."""
        measuring = self.rows.measuring
        return self._half(~measuring, active, between), self._half(measuring, active, between)

    def _half(self, half: Mask, active: Rows, between: Rows) -> Problem:
        aside = ~half
        aside[between] = True
        return Problem(self.rows, active[half[active]], np.flatnonzero(aside))

    def _nulls(self, active: int, between: int) -> dict[str, float]:
        """The F1 on the measuring half of each family's best rule about `active` rows drawn at random, with `between`
        others left out."""
        if (active, between) not in self._known_nulls:
            drawn = np.random.default_rng([self.seed, active, between]).permutation(len(self.rows))
            problem, unseen = self._halves(np.sort(drawn[:active]), drawn[active : active + between])
            found = _searched(problem)
            self._known_nulls[active, between] = {name: unseen.f1_of(rule.mask) for name, rule in found.items()}
        return self._known_nulls[active, between]


def _two_digits(n: int) -> int:
    """`n` rounded up to two significant digits."""
    step = int(10 ** max(len(str(n)) - 2, 0))
    return -(-n // step) * step


def _searched(problem: Problem) -> dict[str, Rule]:
    """The best rule of each family; a set of one token is no set."""
    found: dict[str, Rule] = {}
    for name, search in FAMILIES.items():
        if name in SLOW and any(rule.f1 >= _GOOD for rule in found.values()):
            continue
        if (rule := search(problem)) is not None:
            found[name] = rule
    if "token_set" in found and "token" in found and np.array_equal(found["token_set"].mask, found["token"].mask):
        del found["token_set"]
    return {name: rule for name, rule in found.items() if _readable(rule.text)}


def _either(problem: Problem, found: dict[str, Rule]) -> Rule | None:
    """Two rules joined by `or`, where that is worth `GAIN` more than the best single one.

    The search starts from that one, and from the best single token: a product of long lists that holds both parts
    leaves nothing to join.
    """
    best = best_of(found.values())
    if best is None or best.f1 < _WORTH_JOINING or (best.f1 >= _GOOD and best.worth >= _SHORT):
        return None
    starts = {rule.text: rule for rule in (best, found.get("token")) if rule is not None}
    joined = best_of(_joined_from(problem, first) for first in starts.values())
    return joined if joined is not None and joined.worth >= best.worth + GAIN else None


def _joined_from(problem: Problem, first: Rule) -> Rule | None:
    """Each of the two rules found anew with the other held."""
    second: Rule | None = None
    for _ in range(_REFITS):
        second = best_of(_searched(problem.beside(first.mask)).values())
        again = None if second is None else best_of(_searched(problem.beside(second.mask)).values())
        if second is None or again is None:
            return None
        if again.text == first.text:
            break
        first = again
    if second is None or first.name == second.name == "position":  # two places are a coincidence, not a rule
        return None
    joined = _joined(problem, first, second)
    return joined if _readable(joined.text) else None


def _joined(problem: Problem, first: Rule, second: Rule) -> Rule:
    """Named for the part that holds more."""
    parts = [f"({rule.text})" if " and " in rule.text else rule.text for rule in (first, second)]
    name = max((first, second), key=lambda rule: problem.f1_of(rule.mask)).name
    detail: dict[str, str | float | int] = {"first": first.text, "second": second.text}
    mask = first.mask | second.mask
    return Rule(name, " or ".join(parts), problem.f1_of(mask), lambda: mask, first.items + second.items, detail)


def _readable(text: str) -> bool:
    """Whether a rule fits into a predicate."""
    try:
        parse_positional(text)
    except PredicateError:
        return False
    return True


def _reading(unseen: Problem, rows: UnitRows, rule: Rule, null_max: float) -> RuleReading:
    """A rule counted on the rows of `unseen`."""
    tp, named = unseen.count(rule.mask)
    f1, n_active = unseen.f1_of(rule.mask), len(unseen.active)
    mine = unseen.rows.measuring[rows.rows]
    mass, covered = float(rows.share[mine].sum()), float(rows.share[mine & rule.mask[rows.rows]].sum())
    return RuleReading(
        name=rule.name,
        predicate=rule.text,
        f1=round(f1, 6),
        precision=round(tp / named, 6) if named else float("nan"),
        recall=round(tp / n_active, 6) if n_active else float("nan"),
        coverage=round(covered / mass, 6) if mass else float("nan"),
        n_active=n_active,
        n_predicted=int(named),
        null_max=round(null_max, 6),
        fires=f1 >= null_max + MARGIN and f1 - LONG * max(rule.items - 1, 0) >= FIRES,
        detail={**rule.detail, "literals": rule.items},
    )
