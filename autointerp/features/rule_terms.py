"""Rules about one token of a row: which strings, which class of token, which beginnings and endings.

All are found from two counts of each distinct string, so that a search costs one count over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from autointerp.features.rule_problem import PRICE, Mask, Problem, Rule, best_of
from autointerp.features.token_column import FLAGS, Groups, TokenColumn
from autointerp.predicate import MAX_CHARACTERS
from autointerp.predicate.tree import quote

MIN_ACTIVE, MAX_ITEMS = 3, 40
PART_TOKENS = 4  # distinct active strings that a beginning or an ending must stand for
_MOST_WRITTEN = MAX_CHARACTERS * 9 // 20  # of a set: two of them and what joins them fit into a predicate
Numbers = Float[np.ndarray, " some"]


def one_token(problem: Problem, column: TokenColumn) -> Rule | None:
    """The one string with the best F1."""
    tp, named = problem.by_code(column)
    f1 = np.where((tp > 0) & column.usable, problem.f1(tp, named), -1.0)
    best = int(f1.argmax()) if len(f1) else -1
    return None if best < 0 or f1[best] < 0 else _strings_rule("token", column, [best], float(f1[best]))


def token_set(problem: Problem, column: TokenColumn) -> Rule | None:
    """The best set of strings, as they are or without case and spaces where that is shorter or better."""
    tp, named = problem.by_code(column)
    exact = best_members(problem, tp, named, column.usable, column.strings)
    groups = column.lower
    folded_tp, folded_named = groups.sums(tp), groups.sums(named)
    folded = best_members(problem, folded_tp, folded_named, np.ones(len(groups.names), bool), groups.names)
    return best_of([
        _strings_rule("token_set", column, exact, _f1(problem, tp, named, exact)) if exact else None,
        _group_rule(column, folded, _f1(problem, folded_tp, folded_named, folded)) if folded else None,
    ])  # fmt: skip


def token_class(problem: Problem, column: TokenColumn) -> Rule | None:
    """The best attribute, or its opposite, or beginning or ending of the string."""
    tp, named = problem.by_code(column)
    total_tp, total_named = float(tp.sum()), float(named.sum())
    starts_tp, starts_named = problem.count(column.word_start)
    flag_tp = np.append(column.flag_matrix @ tp, starts_tp)
    flag_named = np.append(column.flag_matrix @ named, starts_named)
    is_so = problem.f1(flag_tp, flag_named)
    is_not = problem.f1(total_tp - flag_tp, total_named - flag_named)
    names = (*FLAGS, "is_word_start")
    negated = bool(is_not.max() > is_so.max())
    best = int((is_not if negated else is_so).argmax())
    text = f"{'not ' if negated else ''}{column.name}.{names[best]}"
    attribute = Rule("token_class", text, float((is_not if negated else is_so)[best]),
                     lambda: _flag_mask(column, names[best]) ^ negated)  # fmt: skip
    return best_of([attribute, *_parts(problem, column, tp, named)])


def any_term(problem: Problem, column: TokenColumn) -> Rule | None:
    """The best of class and set."""
    return best_of([token_class(problem, column), token_set(problem, column)])


def best_members(
    problem: Problem, tp: Numbers, named: Numbers, usable: Bool[np.ndarray, " some"], strings: Sequence[str]
) -> list[int]:
    """The strings whose set is worth most, most active first; [] where none may enter.

    A set ordered by the share of active rows has its best F1 at one of its beginnings. A string enters only where it
    was seen active `MIN_ACTIVE` times. What is too long to be written is cut, the least active strings first.
    """
    able = np.flatnonzero((tp >= MIN_ACTIVE) & (named > 0) & usable)
    if not len(able):
        return []
    able = able[np.lexsort((able, -tp[able], -tp[able] / named[able]))]
    f1 = problem.f1(tp[able].cumsum(), named[able].cumsum())
    chosen = able[: int((f1 - PRICE * np.arange(len(able))).argmax()) + 1]
    return _writable(chosen[np.argsort(-tp[chosen], kind="stable")], strings)


def _writable(codes: Int[np.ndarray, " some"], strings: Sequence[str]) -> list[int]:
    kept: list[int] = []
    size = 0
    for code in codes[:MAX_ITEMS].tolist():
        size += len(quote(strings[code])) + 2
        if size > _MOST_WRITTEN and kept:
            break
        kept.append(code)
    return kept


def _f1(problem: Problem, tp: Numbers, named: Numbers, chosen: list[int]) -> float:
    return float(problem.f1(tp[chosen].sum(), named[chosen].sum())) if chosen else 0.0


def _strings_rule(name: str, column: TokenColumn, codes: list[int], f1: float) -> Rule:
    member = np.zeros(len(column.strings), bool)
    member[codes] = True
    text = written(f"{column.name}.text", [column.strings[code] for code in codes])
    return Rule(name, text, f1, lambda: member[column.codes], len(codes))


def _group_rule(column: TokenColumn, chosen: list[int], f1: float) -> Rule:
    groups = column.lower
    member = np.isin(groups.of, chosen)
    text = written(f"{column.name}.lower", [groups.names[number] for number in chosen])
    return Rule("token_set", text, f1, lambda: member[column.codes], len(chosen))


def written(value: str, strings: list[str]) -> str:
    """`value == "x"` or `value in {..}`."""
    if len(strings) == 1:
        return f"{value} == {quote(strings[0])}"
    return f"{value} in {{{', '.join(quote(string) for string in sorted(strings))}}}"


def _flag_mask(column: TokenColumn, name: str) -> Mask:
    return column.word_start if name == "is_word_start" else column.flags[name][column.codes]


def _parts(problem: Problem, column: TokenColumn, tp: Numbers, named: Numbers) -> list[Rule]:
    """The best beginning and the best ending of each length."""
    found = []
    for test, groupings in (("startswith", column.beginnings), ("endswith", column.endings)):
        for groups in groupings:
            distinct = groups.sums((tp > 0).astype(np.float64))
            f1 = np.where(distinct >= PART_TOKENS, problem.f1(groups.sums(tp), groups.sums(named)), -1.0)
            best = int(f1.argmax()) if len(f1) else -1
            if best >= 0 and f1[best] > 0:
                found.append(_part_rule(column, test, groups, best, float(f1[best])))
    return found


def _part_rule(column: TokenColumn, test: str, groups: Groups, best: int, f1: float) -> Rule:
    text = f"{column.name}.lower.{test}({quote(groups.names[best])})"
    member = groups.of == best
    return Rule("token_class", text, f1, lambda: member[column.codes], 1)
