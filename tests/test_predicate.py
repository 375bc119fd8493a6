"""The predicate language: grammar, limits, errors, and evaluation against examples and a slow reference."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autointerp.errors import BadInput, PredicateError
from autointerp.predicate import ATTRIBUTES, Predicate, TokenRows, TokenTable, evaluate, parse, parse_positional
from autointerp.predicate import tree as t

ROOT = Path(__file__).resolve().parents[1]
STRINGS = [
    "<s>", "The", " cat", " sat", ".", " The", " ran", "\n", " (", ")", " \"", " 3.5", "'", "s", " Über",
    "th", "-", " 42", "…", "\ufffd", " ", "",
]  # fmt: skip
TABLE = TokenTable.from_strings(STRINGS, special_ids=[0])
ROW = ["<s>", "The", " cat", " sat", ".", " The", " cat", " ran", "\n"]


def ids_of(words: list[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([[STRINGS.index(word) for word in words]])


def sources(expression: str, dst: int, words: list[str] | None = None) -> list[int]:
    """The sources for which the expression holds at one destination of one row."""
    ids = ids_of(words or ROW)
    return np.flatnonzero(evaluate(parse(expression), ids, np.array([ids.shape[1]]), TABLE)[0, dst]).tolist()


@pytest.mark.parametrize(
    ("expression", "dst", "expected"),
    [
        ("True", 3, [0, 1, 2, 3]),
        ("False", 3, []),
        ("distance == 0", 3, [3]),
        ("distance == 1", 3, [2]),
        ("distance == 1", 0, []),
        ("1 <= distance <= 2", 5, [3, 4]),
        ("distance in {1, 3}", 5, [2, 4]),
        ("distance not in (1, 3)", 4, [0, 2, 4]),
        ("distance < dst.position", 3, [1, 2, 3]),
        ("src.position == 2", 6, [2]),
        ("src.is_first", 6, [0]),
        ("src.is_special", 6, [0]),
        ("src == dst", 6, [2, 6]),
        ("src != dst", 2, [0, 1]),
        ("src == dst and distance > 0", 6, [2]),
        ("src.prev == dst", 6, [3]),  # induction: the token after the earlier copy
        ("src == dst.prev", 7, [2, 6]),
        ("src.next == dst", 6, [1, 5]),
        ("src.prev.prev == dst", 6, [4]),
        ("src.lower == dst.lower", 5, [1, 5]),
        ("src.text == dst.text", 5, [5]),
        ("src.text == ' cat'", 7, [2, 6]),
        ('src.text != " cat"', 2, [0, 1]),
        ('src.lower in {"cat", "ran"}', 7, [2, 6, 7]),
        ('src.lower in ["cat"]', 7, [2, 6]),
        ('src.lower not in {"cat", "ran"}', 3, [0, 1, 3]),
        ('src.text.startswith(" ")', 7, [2, 3, 5, 6, 7]),
        ('src.lower.endswith("at")', 7, [2, 3, 6]),
        ('src.text.contains("a")', 7, [2, 3, 6, 7]),
        ('"a" in src.text', 7, [2, 3, 6, 7]),
        ('"a" not in src.text', 7, [0, 1, 4, 5]),
        ("src.is_punctuation", 8, [4]),
        ("src.is_capitalised", 8, [1, 5]),
        ("src.is_capitalized", 8, [1, 5]),
        ("src.is_word_start", 8, [1, 2, 3, 5, 6, 7]),
        ("src.is_newline", 8, [8]),
        ("src.length == 3", 8, [1, 2, 3, 5, 6, 7]),
        ("src.length > 2 and not src.is_capitalised", 8, [2, 3, 6, 7]),
        ("src.seen_before", 8, [6]),
        ("dst.seen_before and distance == 1", 6, [5]),
        ("dst.seen_before and distance == 1", 5, []),
        ("src.is_capitalised == dst.is_capitalised", 5, [1, 5]),
        ("src.is_capitalised != True", 3, [0, 2, 3]),
        ("nearest(src.is_punctuation)", 7, [4]),
        ("nearest(src.is_punctuation)", 3, []),
        ("nearest(src.is_capitalised)", 7, [5]),
        ("nearest(src.is_capitalised)", 4, [1]),
        ("first(src.is_capitalised)", 7, [1]),
        ("first(src.is_capitalised)", 0, []),
        ("all(src.is_capitalised)", 7, [1, 5]),
        ("nearest(src == dst and distance > 0)", 6, [2]),
        ("first(src.lower == dst.lower)", 5, [1]),
        ("nearest(src.lower == dst.lower and src != dst)", 5, [1]),
        ("nearest(src.next == dst)", 6, [5]),
        ("first(src.next == dst)", 6, [1]),
        ("nearest(True)", 4, [4]),
        ("first(True)", 4, [0]),
        ("nearest(dst.is_punctuation)", 4, [4]),
        ("nearest(dst.is_punctuation)", 5, []),
        ("nearest(src.is_capitalised) or nearest(src.is_punctuation)", 7, [4, 5]),
        ("not nearest(src.is_capitalised) and src.is_capitalised", 7, [1]),
        ("nearest(src.is_capitalised and not first(src.is_capitalised))", 7, [5]),
        ("any(src == dst) and distance == 1", 6, [5]),
        ("any(src == dst) and distance == 1", 2, []),  # any(..) never counts the destination itself
        ("src == dst and any(src.is_punctuation and src.next.lower == 'the')", 6, [2, 6]),
        ("src == dst and not any(src.is_punctuation and distance <= 1)", 6, [2, 6]),
        ("src == dst and any(src.is_punctuation and distance <= 1)", 6, []),
        ("any(nearest(src.is_capitalised) and src.prev.is_punctuation) and distance == 0", 7, [7]),
        ("any(nearest(src.is_capitalised) and src.prev.is_punctuation) and distance == 0", 4, []),
    ],
)
def test_every_construct_on_one_row(expression: str, dst: int, expected: list[int]) -> None:
    assert sources(expression, dst) == expected


@pytest.mark.parametrize(
    ("expression", "dst", "expected"),
    [
        ("src.prev.is_special", 3, [1]),
        ("not src.prev.is_special", 2, [0, 2]),  # a missing token has no attribute: `not` makes that true
        ("src.prev != dst", 2, [1, 2]),  # but every comparison with it is false
        ("src.prev.lower != 'zzz'", 2, [1, 2]),
        ("src.prev.lower not in {'zzz'}", 2, [1, 2]),
        ("'z' not in src.prev.text", 2, [1, 2]),
        ("'' in src.prev.text", 2, [1, 2]),
        ("src.prev.position >= 0", 2, [1, 2]),
        ("src.prev.length == 0", 2, [1]),
        ("src.prev == src.prev", 2, [1, 2]),
        ("src.next == src.next", 3, [0, 1, 2]),  # at src == dst the next token is the future
        ("src.next != dst", 3, [0, 1]),
        ("not src.next.is_word", 3, [3]),
        ("dst.prev.prev.prev == dst.prev.prev.prev", 2, []),
        ("src.prev.is_first == False", 2, [2]),
        ("src.prev.is_capitalised != dst.is_capitalised", 3, [2]),
    ],
)
def test_missing_tokens(expression: str, dst: int, expected: list[int]) -> None:
    assert sources(expression, dst) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("is_punctuation", [".", " (", ")", ' "', "'", "-", "…"]),
        ("is_open_bracket", [" ("]),
        ("is_close_bracket", [")"]),
        ("is_quote", [' "', "'"]),
        ("is_number", [" 3.5", " 42"]),
        ("is_capitalised", ["The", " The", " Über"]),
        ("is_word", ["The", " cat", " sat", " The", " ran", "s", " Über", "th"]),
        ("is_newline", ["\n"]),
        ("is_space", ["\n", " "]),
        ("is_special", ["<s>"]),
    ],
)
def test_token_properties(name: str, expected: list[str]) -> None:
    assert [STRINGS[i] for i in np.flatnonzero(TABLE.flags[name])] == expected


def test_a_word_start_is_seen_in_its_row() -> None:
    words = ["<s>", "th", "s", " cat", "'", "s", "\n", "The", " (", "th", ")", "-", "th", " 42", " "]
    rows = TokenRows(ids_of(words), np.array([len(words)]), TABLE)
    starts = [words[i] for i in np.flatnonzero(rows.attribute("is_word_start")[0])]
    assert starts == ["th", " cat", "The", "th", "th", " 42"]  # neither `s`: both continue a word


def test_specials_have_no_text() -> None:
    words = ["<s>", "The"]
    assert sources('src.text == "<s>"', 1, words) == []
    assert sources('src.text == ""', 1, words) == [0]
    assert sources('"s" in src.lower', 1, words) == []


def test_unknown_strings_match_nothing() -> None:
    assert sources('src.lower in {"xyzzy", "plugh"}', 8) == []
    assert sources('src.text == "xyzzy"', 8) == []
    assert sources('src.text != "xyzzy"', 2) == [0, 1, 2]


def test_pads_are_false_and_their_ids_are_never_read() -> None:
    ids = np.concatenate([ids_of(ROW), ids_of(ROW)])
    ids[1, 4:] = -99
    holds = evaluate(parse("src == src"), ids, np.array([9, 4]), TABLE)
    assert holds.dtype == np.bool_
    assert holds.shape == (2, 9, 9)
    assert (holds[0] == np.tril(np.ones((9, 9), bool))).all()
    assert (holds[1, :4, :4] == np.tril(np.ones((4, 4), bool))).all()
    assert holds[1].sum() == 10


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1)])
def test_empty_and_tiny_batches(shape: tuple[int, int]) -> None:
    lengths = np.full(shape[0], shape[1])
    for expression in ("nearest(src.prev == dst) or distance == 0", "first(dst.is_first)", "nearest(True)"):
        holds = evaluate(parse(expression), np.zeros(shape, np.int64), lengths, TABLE)
        assert holds.shape == (*shape, shape[1])
        assert holds.all()


def test_bad_rows_are_refused() -> None:
    predicate = parse("distance == 1")
    with pytest.raises(BadInput, match="vocabulary"):
        evaluate(predicate, np.array([[len(STRINGS)]]), np.array([1]), TABLE)
    with pytest.raises(BadInput, match="vocabulary"):
        evaluate(predicate, np.array([[-1]]), np.array([1]), TABLE)
    with pytest.raises(BadInput, match="lengths"):
        evaluate(predicate, np.array([[0]]), np.array([2]), TABLE)
    with pytest.raises((BadInput, TypeError)):  # TypeError where shapes are checked at run time
        TokenRows(np.array([[0]]), np.array([1, 1]), TABLE)
    with pytest.raises(BadInput, match="outside"):
        TokenTable.from_strings(["a"], [1])
    with pytest.raises(BadInput, match="no token attribute"):
        TokenRows(np.array([[0]]), np.array([1]), TABLE).attribute("prev")


# --- text to tree and back


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" distance==1 ", "distance == 1"),
        ("1<=distance<=4", "1 <= distance <= 4"),
        ("src.text.contains('a')", '"a" in src.text'),
        ("not (not src.is_word)", "not not src.is_word"),
        ("not distance==1", "not (distance == 1)"),
        ("(src.is_word and dst.is_word) and True", "src.is_word and dst.is_word and True"),
        ("src.is_word and (dst.is_word or True)", "src.is_word and (dst.is_word or True)"),
        ("src.lower in ('a','b','a')", 'src.lower in {"a", "b"}'),
        ("distance in [-1, +2, 2.5]", "distance in {-1, 2, 2.5}"),
        ("src.is_word\n  and\tdst.is_word", "src.is_word and dst.is_word"),
        (r"src.text == '\n\"\x41\\'", r'src.text == "\n\"A\\"'),
        ("nearest( src.is_word )", "nearest(src.is_word)"),
        ("not any( src.is_word or dst==src )", "not any(src.is_word or dst == src)"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    predicate = parse(text)
    assert str(predicate) == canonical
    assert predicate.text == text
    assert parse(canonical) == predicate
    assert hash(parse(canonical)) == hash(predicate)


def test_node_count() -> None:
    assert parse("src.is_word").n_nodes == 1
    assert parse("distance == 1").n_nodes == 3
    assert parse("1 <= distance <= 4").n_nodes == 4
    assert parse('not src.lower in {"a", "b", "c"}').n_nodes == 4
    assert parse("nearest(src == dst and distance > 0)").n_nodes == 8
    assert parse("any(src == dst and distance > 1)").n_nodes == 8


@pytest.mark.parametrize(
    ("text", "column", "hint"),
    [
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("  srcc.is_word", 2, "did you mean src"),
        ("src.is_punctation", 4, "did you mean is_punctuation"),
        ("distance == 1 and src.prev.textt == 'a'", 27, "did you mean text"),
        ('src.text == "ü" and sorc.is_word', 20, "did you mean src"),
        ("dst.next == src", 4, "future"),
        ("dst.prev.next == src", 9, "future"),
        ("src.next.next == dst", 9, "too far"),
        ("src.next.prev == dst", 9, "too far"),
        ("src.prev.prev.prev.prev == dst", 19, "up to 3"),
        ("src.text.lower == 'a'", 4, "no attributes of its own"),
        ("src.lower() == 'a'", 4, "no parentheses"),
        ("closest(src.is_word)", 0, "unknown function"),
        ("neares(src.is_word)", 0, "did you mean nearest"),
        ("nearest(src.is_word, 2)", 0, "one argument"),
        ("any()", 0, "one argument"),
        ("any(dst.is_word)", 8, "says nothing of an earlier token"),
        ("any(any(src.is_word))", 4, "says nothing of an earlier token"),
        ("anny(src.is_word)", 0, "did you mean any"),
        ("nearest()", 0, "one argument"),
        ("nearest(x=src.is_word)", 0, "one argument"),
        ("src.text.startwith('a')", 9, "did you mean startswith"),
        ("src.length.startswith('a')", 4, "length is a number"),
        ("src.text.startswith(3)", 20, "a part of a string is a string"),
        ("src.text", 4, "no condition"),
        ("distance", 0, "distance <= 4"),
        ("src", 0, "src == dst"),
        ('"a"', 0, "no condition"),
        ("1", 0, "no condition"),
        ("true", 0, "did you mean True"),
        ("src == 'the'", 7, "compare .text or .lower"),
        ("distance == '1'", 12, "never equal"),
        ("src.is_first == 1", 16, "never equal"),
        ("src.lower < dst.lower", 16, "numbers only"),
        ("src < dst", 6, "numbers only"),
        ("1 < 2", 4, "two constants"),
        ("'a' == 'a'", 7, "two constants"),
        ("src.lower == 'The'", 13, 'write "the"'),
        ("src.lower in {' the'}", 13, 'write "the"'),
        ("src.lower.startswith('T')", 21, 'write "t"'),
        ("src in {'a'}", 0, "cannot be in a set"),
        ("src.lower in 'abc'", 13, "`in` needs constants"),
        ("src.lower in {}", 13, "`in` needs constants"),
        ("src.lower in set()", 13, "`in` needs constants"),
        ("src.lower in {dst.lower}", 18, "a constant is expected"),
        ("src.lower in {'a', 1}", 19, "never equal"),
        ("distance in {1, 'a'}", 16, "never equal"),
        ("'a' in src", 7, "looked for in .text"),
        ("dst.position - src.position == 1", 0, "use distance"),
        ("src.is_word & dst.is_word", 0, "and, or"),
        ("src.is_word && dst.is_word", 13, "write `and`"),
        ("src.is_word || dst.is_word", 13, "write `or`"),
        ("!src.is_word", 0, "write `not`"),
        ("distance = 1", 9, "`==` compares"),
        ("distance is 1", 12, "use =="),
        ("1 in {1} in {2}", 5, "chained"),
        ("src.is_word if dst.is_word else True", 0, "if"),
        ("lambda: True", 0, "functions"),
        ("len(src.text) > 3", 0, "src.length"),
        ("src.text[0] == 'a'", 0, "startswith"),
        ("__import__('os').system('true')", 17, "unknown string test"),
        ("().__class__ == 1", 0, "dst and src only"),
        ("src.__class__ == 1", 4, "unknown attribute"),
        ("f'{src}' == src.text", 0, "plain string"),
        ("b'a' == src.text", 0, "constant is expected"),
        ("None", 0, "constant is expected"),
        ("... == distance", 0, "constant is expected"),
        ("distance == 1j", 12, "constant is expected"),
        ("distance == 1e999", 12, "too large"),
        ("distance == " + "9" * 380, 12, "too large"),
        ("distance == 1 # a comment", 14, "comment"),
        ("distance == 1;", 13, "semicolon"),
        ("src.lower == “the”", 13, "straight quotes"),
        ("\uff53\uff52\uff43 == dst", 0, "plain letters"),  # Python would read these as src
        ("src.lower == 'the", 13, "not closed"),
        ("src.lower == 'a\nb'", 13, "not closed"),
        (r"src.text == '\d'", 13, "unknown escape"),
        ("src.text == 'a\x00'", 14, "unknown escape"),
        ("distance == 1\x00", 13, "control character"),
        ("distance ==", 11, "not an expression"),
        ("(distance == 1", 0, "not an expression"),
        ("x" * 401, 400, "at most 400"),
        ("not " * 80 + "src.is_word", 0, "at most 64"),
        ("src==dst or " * 20 + "dst == src", "ok", ""),  # 21 comparisons of 3 nodes, and the `or`: 64
        ("src==dst or " * 21 + "dst == src", 0, "at most 64"),
        ("src.lower=='" + "\x86" * 300 + "'", 0, "written out"),
        ("(" * 200 + "True" + ")" * 196, None, ""),
        ("-" * 399 + "1", None, ""),
        ("src" + ".prev" * 79, 19, "up to 3"),
        ("(" * 190 + "src.is_word" + ")" * 190, "ok", ""),
    ],
)
def test_errors_point_at_their_column(text: str, column: int | str | None, hint: str) -> None:
    if column == "ok":
        assert parse(text).n_nodes in (1, 64)
        return
    with pytest.raises(PredicateError) as caught:
        parse(text)
    assert caught.value.column is not None
    assert 0 <= caught.value.column <= len(text)
    assert f"(column {caught.value.column})" in str(caught.value)
    assert hint in str(caught.value)
    if column is not None:
        assert caught.value.column == column, str(caught.value)


FRAGMENTS = st.sampled_from(
    [
        "dst",
        "src",
        ".prev",
        ".next",
        ".",
        "distance",
        "==",
        "<",
        " in ",
        "{",
        "}",
        "(",
        ")",
        '"a"',
        "'",
        "1",
        ",",
    ]
    + [
        "not ",
        " and ",
        " or ",
        "nearest(",
        "first(",
        "all(",
        "any(",
        "True",
        "\\",
        "\n",
        "#",
        "-",
        "is",
        "lambda",
        ":",
    ]
    + ["." + name for name in ATTRIBUTES]
)


def column_of_error(text: str) -> int | None:
    """None where the text parses; other errors pass through; -1 for one without a column."""
    try:
        parse(text)
    except PredicateError as error:
        return -1 if error.column is None else error.column
    return None


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=25).map("".join), st.binary().map(repr)))
def test_any_text_parses_or_raises_a_predicate_error(text: str) -> None:
    column = column_of_error(text)
    if column is None:
        assert parse(str(parse(text))) == parse(text)
    else:
        assert 0 <= column <= len(text)


# --- generated trees


def _tokens() -> st.SearchStrategy[t.Token]:
    moves = [("dst", -2), ("dst", -1), ("dst", 0), ("src", -3), ("src", -1), ("src", 0), ("src", 1)]
    return st.sampled_from([t.Token(side, shift) for side, shift in moves])  # type: ignore[arg-type]


def _attributes(kind: t.Kind) -> st.SearchStrategy[t.Attribute]:
    names = [name for name, sort in ATTRIBUTES.items() if sort is kind]
    return st.builds(t.Attribute, _tokens(), st.sampled_from(names))


LITERALS = st.one_of(
    st.sampled_from(sorted({string.strip().casefold() for string in STRINGS})), st.text(max_size=4)
).map(lambda text: text.strip().casefold().strip())
LITERALS = LITERALS.filter(lambda text: text.strip().casefold() == text)
SETS = st.lists(LITERALS, min_size=1, max_size=4, unique=True).map(tuple)
NUMBERS = st.one_of(st.integers(-3, 12), st.floats(-5, 20, allow_nan=False))
NUMBER_VALUES = st.one_of(st.just(t.Distance()), _attributes(t.Kind.NUMBER))
TEXT_VALUES = _attributes(t.Kind.TEXT)
EQUALITY = st.sampled_from(["==", "!="])
ORDER = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def _pair(left: st.SearchStrategy[Any], sign: st.SearchStrategy[Any], right: st.SearchStrategy[Any]) -> Any:
    return st.builds(lambda a, s, b: t.Compare((a, b), (s,)), left, sign, right)


LEAVES = st.one_of(
    _attributes(t.Kind.FLAG),
    st.booleans().map(t.Literal),
    _pair(_tokens(), EQUALITY, _tokens()),
    _pair(TEXT_VALUES, EQUALITY, st.one_of(LITERALS.map(t.Literal), TEXT_VALUES)),
    _pair(_attributes(t.Kind.FLAG), EQUALITY, _attributes(t.Kind.FLAG)),
    _pair(NUMBER_VALUES, ORDER, st.one_of(NUMBERS.map(t.Literal), NUMBER_VALUES)),
    st.builds(
        lambda a, v, b, s: t.Compare((t.Literal(a), v, t.Literal(b)), s),
        NUMBERS, NUMBER_VALUES, NUMBERS, st.tuples(ORDER, ORDER),
    ),
    st.builds(t.Member, TEXT_VALUES, SETS, st.booleans()),
    st.builds(t.Member, NUMBER_VALUES, st.lists(NUMBERS, min_size=1, max_size=3, unique=True).map(tuple)),
    st.builds(t.StringTest, TEXT_VALUES, st.just("contains"), LITERALS, st.booleans()),
    st.builds(t.StringTest, TEXT_VALUES, st.sampled_from(["startswith", "endswith"]), LITERALS),
)  # fmt: skip


def _junction(sort: type[t.And] | type[t.Or]) -> Callable[[list[Any]], Any]:
    def build(parts: list[Any]) -> Any:
        return sort(tuple(itertools.chain(*(p.operands if isinstance(p, sort) else [p] for p in parts))))

    return build


def _grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        several.map(_junction(t.And)),
        several.map(_junction(t.Or)),
        inner.map(t.Not),
        st.builds(t.Select, st.sampled_from(["nearest", "first", "all"]), inner),
        inner.filter(t.names_source).map(t.AnyBefore),
    )


TREES = st.recursive(LEAVES, _grow, max_leaves=6)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_printing_and_parsing_gives_the_tree_back(tree: Any) -> None:
    text = str(tree)
    if len(text) > 400 or t.count_nodes(tree) > 64:
        with pytest.raises(PredicateError):
            parse(text)
        return
    assert parse(text).tree == tree
    assert str(parse(text)) == text


# --- a slow reference: one pair at a time, from the strings


class Reference:
    """Interprets a tree for one pair of positions of one row of strings."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def position(self, token: t.Token, dst: int, src: int) -> int | None:
        at = (dst if token.side == "dst" else src) + token.shift
        return at if 0 <= at <= dst else None

    def attribute(self, at: int, name: str) -> Any:
        special = self.ids[at] == 0
        text = "" if special else STRINGS[self.ids[at]]
        before = "" if at == 0 or self.ids[at - 1] == 0 else STRINGS[self.ids[at - 1]]
        bare = text.strip()
        marks = bool(bare) and not any(c.isalnum() or c.isspace() or c == "\ufffd" for c in bare)
        return {
            "text": text,
            "lower": bare.casefold(),
            "position": at,
            "length": len(bare),
            "is_first": at == 0,
            "is_special": special,
            "is_word_start": bare[:1].isalnum() and (text[0] == " " or not re.search(r"[\w']$", before)),
            "is_word": bare.isalpha(),
            "is_capitalised": bare[:1].isupper(),
            "is_number": re.fullmatch(r"[\d.]+", bare) is not None and bare != ".",
            "is_punctuation": marks,
            "is_open_bracket": marks and "(" in bare,
            "is_close_bracket": marks and ")" in bare,
            "is_quote": marks and ('"' in bare or "'" in bare),
            "is_newline": "\n" in text,
            "is_space": text.isspace(),
            "seen_before": self.ids[at] in self.ids[:at],
        }[name]

    def value(self, node: Any, dst: int, src: int) -> Any:
        """The value, or None where its token is missing."""
        if isinstance(node, t.Literal):
            return node.value
        if isinstance(node, t.Distance):
            return dst - src
        at = self.position(node if isinstance(node, t.Token) else node.token, dst, src)
        if at is None:
            return None
        return self.ids[at] if isinstance(node, t.Token) else self.attribute(at, node.name)

    def compare(self, left: Any, sign: str, right: Any) -> bool:
        if left is None or right is None:
            return False
        if sign in ("==", "!="):
            return bool((left == right) == (sign == "=="))
        return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign])

    def holds(self, node: Any, dst: int, src: int) -> bool:
        if isinstance(node, t.And):
            return all(self.holds(part, dst, src) for part in node.operands)
        if isinstance(node, t.Or):
            return any(self.holds(part, dst, src) for part in node.operands)
        if isinstance(node, t.Not):
            return not self.holds(node.operand, dst, src)
        if isinstance(node, t.Select):
            matching = [s for s in range(dst + 1) if self.holds(node.operand, dst, s)]
            chosen = {"nearest": matching[-1:], "first": matching[:1], "all": matching}[node.choice]
            return src in chosen
        if isinstance(node, t.AnyBefore):
            return any(self.holds(node.operand, dst, s) for s in range(dst))
        if isinstance(node, t.Compare):
            values = [self.value(operand, dst, src) for operand in node.operands]
            return all(self.compare(*triple) for triple in zip(values, node.signs, values[1:], strict=False))
        value = self.value(node.value if isinstance(node, t.Member | t.StringTest) else node, dst, src)
        if isinstance(node, t.Member):
            return value is not None and (value in node.items) != node.negated
        if isinstance(node, t.StringTest):
            tests = {"contains": str.__contains__, "startswith": str.startswith, "endswith": str.endswith}
            return value is not None and tests[node.test](value, node.literal) != node.negated
        return bool(value)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.lists(st.lists(st.integers(0, len(STRINGS) - 1), max_size=7), min_size=1, max_size=3))
def test_evaluation_equals_the_reference(tree: Any, rows: list[list[int]]) -> None:
    width = max(map(len, rows))
    ids = np.array([row + [-5] * (width - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), width)
    holds = evaluate(Predicate(tree, str(tree)), ids, np.array([len(row) for row in rows]), TABLE)
    expected = np.zeros_like(holds)
    for number, row in enumerate(rows):
        reference = Reference(row)
        for dst in range(len(row)):
            for src in range(dst + 1):
                expected[number, dst, src] = reference.holds(tree, dst, src)
    assert (holds == expected).all(), str(tree)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, st.data())
def test_nothing_right_of_the_destination_matters(tree: Any, data: st.DataObject) -> None:
    row = st.lists(st.integers(0, len(STRINGS) - 1), min_size=8, max_size=8)
    before, after = np.array([data.draw(row)]), np.array([data.draw(row)])
    dst = data.draw(st.integers(0, 6))
    after[:, : dst + 1] = before[:, : dst + 1]
    predicate, lengths = Predicate(tree, str(tree)), np.array([8])
    first, second = (evaluate(predicate, ids, lengths, TABLE) for ids in (before, after))
    cut = evaluate(predicate, before[:, : dst + 1], np.array([dst + 1]), TABLE)
    assert (first[:, : dst + 1] == second[:, : dst + 1]).all()
    assert (first[:, : dst + 1, : dst + 1] == cut).all()


def test_seen_before_on_long_rows() -> None:
    ids = np.random.default_rng(1).integers(0, len(STRINGS), (4, 200))
    seen = TokenRows(ids, np.full(4, 200), TABLE).attribute("seen_before")
    assert (seen == [[token in row[:at] for at, token in enumerate(row)] for row in ids.tolist()]).all()


def test_blocks_of_rows_give_what_single_rows_give() -> None:
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, len(STRINGS), (300, 64)), rng.integers(0, 65, 300)
    predicate = parse("nearest(src == dst and distance > 0) or src.next == dst and src.is_word_start")
    together = evaluate(predicate, ids, lengths, TABLE)
    for row in (0, 150, 255, 256, 257, 299):
        alone = evaluate(predicate, ids[row : row + 1], lengths[row : row + 1], TABLE)
        assert (together[row] == alone[0]).all()
    assert together.any()


# --- the documentation


def _documented(path: str) -> str:
    """A page or a template, with the list of attributes that the templates include."""
    attributes = (ROOT / "prompts/predicate_attributes.jinja").read_text(encoding="utf-8")
    return (ROOT / path).read_text(encoding="utf-8").replace('{% include "predicate_attributes.jinja" %}', attributes)


@pytest.mark.parametrize("path", ["docs/predicates.md", "prompts/predicate_language.jinja"])
def test_documented_examples_parse(path: str) -> None:
    text = _documented(path)
    examples = re.findall(r"^- `([^`]+)`: ", text, flags=re.MULTILINE)
    assert len(examples) >= 10
    for example in examples:
        parse(example)
    for name in [*ATTRIBUTES, "prev", "next", "nearest", "first", "all", "any", "distance"]:
        assert name in text


def test_the_examples_of_positional_predicates_parse() -> None:
    text = _documented("prompts/positional_language.jinja")
    examples = re.findall(r"^- `([^`]+)`: ", text, flags=re.MULTILINE)
    assert len(examples) >= 10
    for example in examples:
        parse_positional(example)
    conditions = text.split("Conditions:")[1].split("  and, or,")[0]
    for condition in re.split(r"\s{3,}|\n", conditions):
        if condition.strip():
            parse_positional(condition.strip())
    for name in [*ATTRIBUTES, "prev", "next", "any", "distance"]:
        assert name in text


def test_the_prompt_is_plain_text_for_jinja() -> None:
    text = _documented("prompts/predicate_language.jinja")
    assert not re.search(r"{{|}}|{%|%}|{#|#}", text)
    assert len(text.splitlines()) <= 60
