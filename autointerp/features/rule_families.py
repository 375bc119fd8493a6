"""Families of rules about more than one token: a token after another, an earlier token, position, repetition.

Each search returns the rule of the greatest worth that it finds, or None. Conjunctions are found by going to and fro
between their sides: with one side held, the best other side is found exactly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from autointerp.features.learning_rows import LearningRows
from autointerp.features.rule_problem import Counts, Mask, Problem, Rule, best_of
from autointerp.features.rule_terms import MIN_ACTIVE, any_term, token_set, written
from autointerp.predicate.tree import quote

ROUNDS, EARLIER_ITEMS = 2, 4
EARLIER_GAIN, WORTH_MORE = 0.01, 0.2  # F1 that a further earlier token must add, and a first one have to get company
AND_GAIN = 0.02  # F1 that a conjunction must have over each of its sides


def token_pair(problem: Problem) -> Rule | None:
    """A token (or set, or class) after another; or any token after some."""
    after = any_term(problem, problem.rows.before)
    found: list[Rule | None] = []
    if after is not None:
        found.append(replace(after, name="token_pair", detail={"after": after.text}))
        found.append(_to_and_fro(problem, after))
    tried = set() if after is None else {after.text}
    for at in (any_term(problem, problem.rows.here), _best_pair(problem)):
        other = None if at is None else any_term(problem.inside(at.mask), problem.rows.before)
        if other is not None and other.text not in tried:
            tried.add(other.text)
            found.append(_to_and_fro(problem, other))
    return best_of(found)


def _best_pair(problem: Problem) -> Rule | None:
    """The token here of the one pair with the best F1."""
    rows = problem.rows
    codes, parts, counts = rows.pairs
    tp = np.bincount(codes[problem.open_active], minlength=len(counts))
    named = counts - np.bincount(codes[problem.open_between], minlength=len(counts))
    able = (tp >= MIN_ACTIVE) & rows.here.usable[parts[1]]
    f1 = np.where(able, problem.f1(tp.astype(np.float64), named.astype(np.float64)), -1.0)
    best = int(f1.argmax())
    if f1[best] < 0:
        return None
    code = int(parts[1][best])
    text = written("dst.text", [rows.here.strings[code]])
    return Rule("token", text, float(f1[best]), lambda: np.asarray(rows.here.codes == code), 1)


def _to_and_fro(problem: Problem, after: Rule) -> Rule | None:
    """The best conjunction reached from a condition on the token before."""
    here, before = problem.rows.here, problem.rows.before
    at = any_term(problem.inside(after.mask), here)
    for _ in range(ROUNDS - 1):
        if at is None:
            return None
        better = any_term(problem.inside(at.mask), before)
        if better is None or better.text == after.text:
            break
        after = better
        at = any_term(problem.inside(after.mask), here)
    return None if at is None else _both(problem, "token_pair", at, after, {"here": at.text, "after": after.text})


def _both(problem: Problem, name: str, found: Rule, held: Rule, detail: dict[str, str | float | int]) -> Rule | None:
    """`found and held`, where `found` was found within `held` and so has the F1 of both; None where one is enough."""
    alone = max(problem.f1_of(found.mask), problem.f1_of(held.mask))
    if found.f1 < alone + AND_GAIN:
        return None
    text = f"{found.text} and {held.text}"
    return Rule(name, text, found.f1, lambda: found.mask & held.mask, found.items + held.items, detail)


def context(problem: Problem) -> Rule | None:
    """An earlier token of the window, alone or together with the token here."""
    found = [_earlier(problem)]
    at = token_set(problem, problem.rows.here)
    if at is not None:
        earlier = _earlier(problem.inside(at.mask))
        again = None if earlier is None else token_set(problem.inside(earlier.mask), problem.rows.here)
        if earlier is not None and again is not None:
            found.append(_both(problem, "context", again, earlier, earlier.detail))
    return best_of(found)


def _earlier(problem: Problem) -> Rule | None:
    """any(src.text in {..}): the best string, then others as long as each adds enough."""
    rows = problem.rows
    codes: list[int] = []
    mask = np.zeros(len(rows), bool)
    reached = 0.0
    while len(codes) < EARLIER_ITEMS:
        rest = problem.beside(mask) if codes else problem
        tp, named, windows = _by_earlier(rest)
        f1 = np.where((windows >= MIN_ACTIVE) & rows.named_strings, rest.f1(tp, named), -1.0)
        best = int(f1.argmax())
        if f1[best] < reached + EARLIER_GAIN or (codes and reached < WORTH_MORE):
            break
        reached = float(f1[best])
        codes.append(best)
        mask = _after_first(rows, codes)
    if not codes:
        return None
    strings = [rows.strings[code] for code in codes]
    detail: dict[str, str | float | int] = {"earlier": ", ".join(quote(string) for string in strings)}
    return Rule("context", f"any({written('src.text', strings)})", reached, lambda: mask, len(codes), detail)


def _by_earlier(problem: Problem) -> tuple[Counts, Counts, Counts]:
    """For each string: active rows after its first occurrence, rows that would be named, windows with an active."""
    rows = problem.rows
    window, place, code = rows.firsts
    size = len(rows.strings)
    between = _rows_mask(rows, problem.open_between)
    active = _later(rows, _rows_mask(rows, problem.open_active))[window, place]
    named = _later(rows, problem.open_rows & ~between)[window, place]
    return (
        np.bincount(code, weights=active, minlength=size),
        np.bincount(code, weights=named, minlength=size),
        np.bincount(code, weights=active > 0, minlength=size),
    )


def _rows_mask(rows: LearningRows, chosen: Int[np.ndarray, " some"]) -> Mask:
    found = np.zeros(len(rows), bool)
    found[chosen] = True
    return found


def _later(rows: LearningRows, mask: Mask) -> Int[np.ndarray, "window pos"]:
    """How many rows of `mask` stand after each position."""
    grid = np.zeros(rows.text_at.shape, np.int32)
    grid[rows.window, rows.dst] = mask
    later = np.zeros_like(grid)
    later[:, :-1] = grid[:, :0:-1].cumsum(1)[:, ::-1]
    return later


def _after_first(rows: LearningRows, codes: list[int]) -> Mask:
    """Rows after the first occurrence of any of the strings."""
    window, place, code = rows.firsts
    mine = np.isin(code, codes)
    first = np.full(len(rows.numbers), rows.text_at.shape[1], np.int64)
    np.minimum.at(first, window[mine], place[mine])
    return np.asarray(rows.dst > first[rows.window])


def position(problem: Problem) -> Rule | None:
    """One position, the first so many, or all from one on."""
    dst, size = problem.rows.dst, problem.rows.text_at.shape[1]
    tp = np.bincount(dst[problem.open_active], minlength=size).astype(np.float64)
    named = np.bincount(dst[problem.open_rows], minlength=size).astype(np.float64)
    named -= np.bincount(dst[problem.open_between], minlength=size)
    return best_of([
        _place_rule(problem, "==", tp, named),
        _place_rule(problem, "<=", tp.cumsum(), named.cumsum()),
        _place_rule(problem, ">=", tp[::-1].cumsum()[::-1], named[::-1].cumsum()[::-1]),
    ])  # fmt: skip


def _place_rule(problem: Problem, sign: str, tp: Counts, named: Counts) -> Rule:
    f1 = problem.f1(tp, named)
    place = 1 + int(f1[1:].argmax())
    compare = {"==": np.equal, "<=": np.less_equal, ">=": np.greater_equal}[sign]
    dst = problem.rows.dst
    return Rule("position", f"dst.position {sign} {place}", float(f1[place]), lambda: compare(dst, place), 1)


def repetition(problem: Problem) -> Rule | None:
    """The token, or the token with the one before it, occurs earlier; or the token does not."""
    seen, pair = problem.rows.seen_before, problem.rows.pair_seen_before
    return best_of([
        _plain(problem, "dst.seen_before", seen),
        _plain(problem, "not dst.seen_before", ~seen),
        _plain(problem, "any(src == dst and src.prev == dst.prev)", pair),
    ])  # fmt: skip


def _plain(problem: Problem, text: str, mask: Mask) -> Rule:
    return Rule("repetition", text, problem.f1_of(mask), lambda: mask)
