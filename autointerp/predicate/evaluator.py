"""Deciding a predicate for all pairs of positions of all rows at once.

1. Rows are taken in blocks that fit a processor cache.
2. Each node yields an array that broadcasts to [row dst src] and is only as large as what it depends on: a
   source's property is [row 1 src], the distance [1 dst src]. Parts of one shape are joined before they meet
   another shape, so most of the work happens on [row pos].
3. any(..) looks for one matching source before each destination: along the row where all destinations see the same
   sources, over the pairs elsewhere. Selectors pick one source of each destination among those at or before it.
4. The result is cut to `src <= dst` and to fed positions. Nothing right of `dst` is ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from autointerp.errors import BadInput
from autointerp.predicate.parser import Predicate
from autointerp.predicate.tokens import TokenRows, TokenTable
from autointerp.predicate.tree import (
    And,
    AnyBefore,
    Attribute,
    Choice,
    Compare,
    Condition,
    Distance,
    Literal,
    Member,
    Not,
    Or,
    Select,
    Sign,
    StringTest,
    Token,
    Value,
    names_source,
    searches_back,
)

_BLOCK_CELLS = 2**20
_Array = np.ndarray[Any, np.dtype[Any]]
_COMPARE: dict[Sign, Callable[[_Array, _Array], _Array]] = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal,
    ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


def evaluate(
    predicate: Predicate,
    ids: Int[np.ndarray, "row pos"],
    lengths: Int[np.ndarray, " row"],
    table: TokenTable,
) -> Bool[np.ndarray, "row dst src"]:
    """Where the predicate holds: True only for fed positions with `src <= dst`.

    `ids` are right-padded vocabulary ids (anything at pads), `lengths` the fed ids of each row. The memory is
    the result's plus a few megabytes. Raises BadInput for ids or lengths that do not fit.
    """
    n_rows, width = ids.shape
    result = np.zeros((n_rows, width, width), dtype=bool)
    if width == 0:
        return result
    step = max(1, _BLOCK_CELLS // width**2)
    grid = _Grid.of(width)
    for start in range(0, n_rows, step):
        block = slice(start, start + step)
        rows = TokenRows(ids[block], lengths[block], table)
        holds = _Block(rows, grid).condition(predicate.tree)
        np.logical_and(holds, grid.causal, out=result[block])
        if (rows.lengths < width).any():
            result[block] &= rows.valid[:, :, None]
    return result


def evaluate_positions(
    predicate: Predicate,
    ids: Int[np.ndarray, "row pos"],
    lengths: Int[np.ndarray, " row"],
    table: TokenTable,
) -> Bool[np.ndarray, "row pos"]:
    """Where a predicate about one position holds: True only for fed positions.

    Arguments as of `evaluate`. Pairs are looked at in blocks, and only for any(..). Raises BadInput for ids or
    lengths that do not fit, and for a predicate that speaks of a source outside any(..).
    """
    if names_source(predicate.tree):
        raise BadInput(f"{predicate} speaks of a source outside any(..), so it does not hold for one position. "
                       "Use evaluate, or any(..).")  # fmt: skip
    n_rows, width = ids.shape
    result = np.zeros((n_rows, width), dtype=bool)
    if width == 0:
        return result
    step = max(1, _BLOCK_CELLS // (width**2 if searches_back(predicate.tree) else width))
    grid = _Grid.of(width)
    for start in range(0, n_rows, step):
        block = slice(start, start + step)
        rows = TokenRows(ids[block], lengths[block], table)
        holds = _Block(rows, grid).condition(predicate.tree)
        result[block] = holds[:, :, 0]
        result[block] &= rows.valid
    return result


class _Grid(NamedTuple):
    """What depends on the two positions alone, each [1 dst src]."""

    distance: _Array
    causal: _Array
    past: _Array

    @classmethod
    def of(cls, width: int) -> _Grid:
        position = np.arange(width, dtype=np.int32)
        distance = (position[:, None] - position[None, :])[None]
        return cls(distance, distance >= 0, distance > 0)


class _Seen(NamedTuple):
    """A value for all pairs, and where its token exists (None: everywhere)."""

    array: _Array
    present: _Array | None


class _Block:
    """Evaluates nodes on one block of rows; every array broadcasts to [row dst src]."""

    def __init__(self, rows: TokenRows, grid: _Grid) -> None:
        self._rows = rows
        self._grid = grid

    def condition(self, node: Condition) -> _Array:
        match node:
            case And():
                return _join(np.logical_and, [self.condition(part) for part in node.operands])
            case Or():
                return _join(np.logical_or, [self.condition(part) for part in node.operands])
            case Not():
                return np.logical_not(self.condition(node.operand))
            case Select():
                return self._select(node)
            case AnyBefore():
                return self._any(node)
            case Compare():
                return self._compare(node)
            case Member():
                return self._member(node)
            case StringTest():
                seen = self._value(node.value)
                passed = self._rows.table.tested(node.test, node.literal)[seen.array]
                return _where_present(~passed if node.negated else passed, seen)
            case Attribute() | Literal():
                seen = self._value(node)
                return _where_present(seen.array, seen)

    def _compare(self, node: Compare) -> _Array:
        seen = [self._value(value) for value in node.operands]
        pairs = zip(seen, node.signs, seen[1:], strict=False)
        holds = [_where_present(_COMPARE[s](a.array, b.array), a, b) for a, s, b in pairs]
        return _join(np.logical_and, holds)

    def _member(self, node: Member) -> _Array:
        seen = self._value(node.value)
        code = self._rows.table.code
        items = np.asarray([code(item) if isinstance(item, str) else item for item in node.items])
        found = np.isin(seen.array, items, invert=node.negated)
        return _where_present(found, seen)

    def _value(self, node: Value) -> _Seen:
        match node:
            case Literal():
                value = self._rows.table.code(node.value) if isinstance(node.value, str) else node.value
                return _Seen(np.asarray(value).reshape(1, 1, 1), None)
            case Distance():
                return _Seen(self._grid.distance, None)
            case Token():
                return self._placed(self._rows.ids, node)
            case Attribute():
                return self._placed(self._rows.attribute(node.name), node.token)

    def _placed(self, array: _Array, token: Token) -> _Seen:
        """A [row pos] array as seen from the pair: along dst or src, moved by the token's shift."""
        moved, shift = array, token.shift
        present: _Array | None = None
        if shift < 0:
            moved = np.zeros_like(array)
            moved[:, -shift:] = array[:, :shift]
            present = np.arange(array.shape[1])[None, :] >= -shift
        elif shift > 0:
            moved = np.zeros_like(array)
            moved[:, :-shift] = array[:, shift:]
        if token.side == "dst":
            return _Seen(moved[:, :, None], None if present is None else present[:, :, None])
        if shift > 0:
            return _Seen(moved[:, None, :], self._grid.past)  # right of the destination there is no token yet
        return _Seen(moved[:, None, :], None if present is None else present[:, None, :])

    def _select(self, node: Select) -> _Array:
        holds = self.condition(node.operand)
        if node.choice == "all":
            return holds
        position = self._grid.distance[0, :, 0]
        if holds.shape[1] == 1:  # the same sources match for every destination: one pass along the row
            alike = np.broadcast_to(holds[:, 0, :], (holds.shape[0], len(position)))
            chosen = _choose_along(alike, position, node.choice)
        else:
            chosen = _choose_each(np.logical_and(holds, self._grid.causal), node.choice)
        return np.equal(chosen[:, :, None], position)

    def _any(self, node: AnyBefore) -> _Array:
        holds = self.condition(node.operand)
        if holds.shape[1] > 1:
            return np.asarray(np.logical_and(holds, self._grid.past).any(axis=2, keepdims=True))
        width = self._grid.past.shape[1]
        before = np.zeros((holds.shape[0], width), dtype=bool)
        before[:, 1:] = np.logical_or.accumulate(np.broadcast_to(holds[:, 0, :], before.shape), axis=1)[:, :-1]
        return before[:, :, None]


def _choose_along(holds: _Array, position: _Array, choice: Choice) -> _Array:
    """[row src] -> the chosen source of each destination [row dst], -1: none.

    The first of the row is the same for all destinations, [row 1]: where it is still to come, the pair is
    not causal and is cut from whatever contains it.
    """
    if choice == "nearest":
        return np.maximum.accumulate(np.where(holds, position, -1), axis=1)
    return np.where(holds.any(axis=1), holds.argmax(axis=1), -1)[:, None]


def _choose_each(holds: _Array, choice: Choice) -> _Array:
    """[row dst src], causal -> the chosen source of each destination [row dst]; -1: none."""
    if choice == "nearest":
        chosen = holds.shape[2] - 1 - holds[:, :, ::-1].argmax(axis=2)
    else:
        chosen = holds.argmax(axis=2)
    found = np.take_along_axis(holds, chosen[:, :, None], axis=2)[:, :, 0]
    return np.where(found, chosen, -1)


def _where_present(holds: _Array, *values: _Seen) -> _Array:
    return _join(np.logical_and, [holds, *(value.present for value in values if value.present is not None)])


def _join(operation: np.ufunc, parts: Sequence[_Array]) -> _Array:
    """Combine parts, those of one shape first, small shapes before large ones."""
    shapes: dict[tuple[int, ...], _Array] = {}
    for part in parts:
        shapes[part.shape] = operation(shapes[part.shape], part) if part.shape in shapes else part
    return reduce(operation, sorted(shapes.values(), key=lambda part: part.size))
