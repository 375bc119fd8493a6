"""Predicates about one position: what they may say, and what they decide, against the reference of all predicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autointerp.errors import BadInput, PredicateError
from autointerp.predicate import Predicate, evaluate, evaluate_positions, parse, parse_positional
from autointerp.predicate import tree as t
from tests.test_predicate import ROW, STRINGS, TABLE, TREES, Reference, ids_of


def positions(expression: str) -> list[int]:
    ids = ids_of(ROW)
    found = evaluate_positions(parse_positional(expression), ids, np.array([ids.shape[1]]), TABLE)
    return np.flatnonzero(found[0]).tolist()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("True", list(range(9))),
        ("False", []),
        ('dst.lower == "the"', [1, 5]),
        ('dst.text == " cat" and dst.prev.text == " The"', [6]),
        ("dst.prev.is_punctuation or dst.is_newline", [5, 8]),
        ("dst.is_first", [0]),
        ("dst.position in {2, 4}", [2, 4]),
        ("dst.prev == dst.prev.prev", []),
        ("any(src == dst)", [6]),  # the only exact copy; the destination itself is not before itself
        ("any(src.lower == dst.lower)", [5, 6, 8]),  # a line break and the start of the text have the same empty word
        ("any(src.is_punctuation)", [5, 6, 7, 8]),
        ("any(src.is_punctuation and distance <= 2)", [5, 6]),
        ("any(src.is_first)", [1, 2, 3, 4, 5, 6, 7, 8]),  # position 0 is a source as everywhere
        ('any(src.lower == "sat" and src.next == dst)', [4]),
        ("any(src == dst.prev and src.next == dst)", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("any(src == dst.prev and src.next == dst and distance > 1)", []),
        ("not any(src.is_capitalised)", [0, 1]),
        ("any(first(src.is_capitalised))", [2, 3, 4, 5, 6, 7, 8]),
        ('any(nearest(src.is_capitalised) and src.text == " The") and dst.is_word', [6, 7]),
    ],
)
def test_what_holds_at_each_position_of_a_row(expression: str, expected: list[int]) -> None:
    assert positions(expression) == expected


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("src.is_word", 0, "outside any"),
        ("dst.is_word and src == dst", 16, "outside any"),
        ("dst == src.prev", 7, "outside any"),
        ("any(src.is_word) and distance == 1", 21, "outside any"),
        ("dst.is_word and nearest(src.is_word)", 16, "outside any"),
        ("dst.next.is_word", 4, "future"),
        ("any(dst.is_word)", 8, "earlier token"),
        ("", 0, "dst.lower"),
        ("any(src.is_word", 3, "not an expression"),
    ],
)
def test_a_source_outside_any_is_an_error_with_its_column(text: str, column: int, hint: str) -> None:
    with pytest.raises(PredicateError, match=hint) as caught:
        parse_positional(text)
    assert caught.value.column == column


def test_a_pair_predicate_is_refused_by_the_evaluator() -> None:
    with pytest.raises(BadInput, match="source"):
        evaluate_positions(parse("distance == 1"), ids_of(ROW), np.array([9]), TABLE)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_positional_reading_accepts_exactly_the_positional_trees(tree: Any) -> None:
    text = str(tree)
    if len(text) > 400 or t.count_nodes(tree) > 64 or t.names_source(tree):
        with pytest.raises(PredicateError):
            parse_positional(text)
        return
    assert parse_positional(text).tree == tree
    assert str(parse_positional(text)) == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.lists(st.lists(st.integers(0, len(STRINGS) - 1), max_size=7), min_size=1, max_size=3))
def test_positions_equal_the_reference_and_the_pairs(tree: Any, rows: list[list[int]]) -> None:
    positional = t.AnyBefore(tree) if t.names_source(tree) else tree
    predicate = Predicate(positional, str(positional))
    width = max(map(len, rows))
    ids = np.array([row + [-5] * (width - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), width)
    lengths = np.array([len(row) for row in rows])
    holds = evaluate_positions(predicate, ids, lengths, TABLE)
    expected = np.zeros_like(holds)
    for number, row in enumerate(rows):
        for dst in range(len(row)):
            expected[number, dst] = Reference(row).holds(positional, dst, dst)
    assert (holds == expected).all(), str(positional)
    if width:
        pairs = evaluate(predicate, ids, lengths, TABLE)
        assert (np.einsum("rdd->rd", pairs) == holds).all()


@pytest.mark.parametrize("expression", ['any(src == dst and distance > 3) or dst.lower == "the"', "dst.is_word"])
def test_blocks_of_rows_give_what_single_rows_give(expression: str) -> None:
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, len(STRINGS), (600, 64)), rng.integers(0, 65, 600)
    predicate = parse_positional(expression)
    together = evaluate_positions(predicate, ids, lengths, TABLE)
    for row in (0, 255, 256, 257, 511, 512, 599):
        alone = evaluate_positions(predicate, ids[row : row + 1], lengths[row : row + 1], TABLE)
        assert (together[row] == alone[0]).all()
    assert together.any()
    assert evaluate_positions(predicate, ids[:0], lengths[:0], TABLE).shape == (0, 64)
    assert evaluate_positions(predicate, ids[:2, :0], lengths[:2] * 0, TABLE).shape == (2, 0)
