"""Token display: glyphs, escapes, the text form and the tables, all with hostile tokens."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fixtures import HOSTILE

from autointerp.display import (
    TokenRow,
    attention_html,
    map_html,
    parse_tokens,
    rows_html,
    tokens_html,
    tokens_text,
)
from autointerp.errors import BadInput
from autointerp.tables import TokenTable, read_csv_cells
from autointerp.tokentext import (
    escape_cell,
    escape_markdown,
    printable,
    unescape_cell,
    unescape_markdown,
    visible,
)

# Two lone surrogates side by side that spell one character are the one string that JSON cannot hold.
_SPLIT_CHARACTER = re.compile("[\ud800-\udbff][\udc00-\udfff]")
TOKENS = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=8),
    st.text(alphabet="\\&nrtu{}0aNA=+-1/e \r\n\"',\ud800\udc00\u2028", max_size=8),
    st.from_regex(r"\s?[-+(]?\d{1,3}([.,/:eE-]\d{0,3}){0,2}\s?", fullmatch=True),
).filter(lambda token: not _SPLIT_CHARACTER.search(token))


class Elements(HTMLParser):
    """Collects tags, attributes and text, so that a test sees what a browser would."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.lists(TOKENS, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_cells_come_back_through_pandas_as_text(tokens: list[str]) -> None:
    import pandas

    table = TokenTable(("n", "token"), tuple((i, t) for i, t in enumerate(tokens)), frozenset({"token"}))
    frame = pandas.read_csv(io.StringIO(table.to_csv()))
    cells = frame["token"].tolist()
    assert all(isinstance(cell, str) for cell in cells), "pandas ate a token"
    assert [unescape_cell(cell) for cell in cells] == tokens
    assert [row["token"] for row in read_csv_cells(table.to_csv(), frozenset({"token"}))] == tokens


@given(TOKENS)
@settings(deadline=None)
def test_escaped_cells_are_one_plain_line_that_starts_no_formula(token: str) -> None:
    cell = escape_cell(token)
    assert unescape_cell(cell) == token
    assert cell.strip()[:1] not in ("=", "+", "-", "@") and cell != ""
    assert len(cell.splitlines()) == 1
    cell.encode("utf-8")


@pytest.mark.parametrize("token", [" the", "word", "</td>", "{{x}}", ",", "|", "a=b", "日本", " 'tis"])
def test_plain_tokens_stay_as_they_are_in_csv(token: str) -> None:
    assert escape_cell(token) == token


@pytest.mark.parametrize(
    "token", ["NA", "null", "=1+1", "007", "1e5", "TRUE", "May 5", "3/4", "", " ", "-", " 12 ", "inf"]
)
def test_what_a_spreadsheet_would_eat_is_protected(token: str) -> None:
    assert escape_cell(token).startswith("\\&")


@given(TOKENS)
@settings(deadline=None)
def test_markdown_cells_round_trip_and_hold_no_bare_pipe(token: str) -> None:
    cell = escape_markdown(json.dumps(token))
    assert json.loads(unescape_markdown(cell)) == token
    assert "<" not in cell
    unescaped = cell.replace("\\\\", "").replace("\\|", "").replace("\\`", "")
    assert "|" not in unescaped and "`" not in unescaped


def test_table_forms_keep_hostile_tokens() -> None:
    table = TokenTable(
        ("rank", "token", "share"),
        tuple((i, t, 0.5) for i, t in enumerate(HOSTILE)),
        frozenset({"token"}),
        "a <b>",
    )
    page = Elements(table.to_html())
    stored = [json.loads(str(attrs["data-token"])) for _, attrs in page.tags if "data-token" in attrs]
    assert stored == list(HOSTILE)
    assert {tag for tag, _ in page.tags} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    lines = table.to_markdown().splitlines()[4:]
    cells = [line[2:-2].split(" | ")[1] for line in lines]
    assert [json.loads(unescape_markdown(cell)) for cell in cells] == list(HOSTILE)
    assert table.to_dataframe()["token"].tolist() == list(HOSTILE)
    assert len(list(csv.reader(io.StringIO(table.to_csv())))) == len(HOSTILE) + 1


def test_table_refuses_a_ragged_row() -> None:
    with pytest.raises(BadInput, match="1 cells for 2 columns"):
        TokenTable(("a", "b"), ((1,),))


@given(st.lists(st.tuples(TOKENS, st.one_of(st.none(), st.floats(allow_nan=False, width=32))), max_size=6))
@settings(deadline=None)
def test_text_form_round_trips(items: list[tuple[str, float | None]]) -> None:
    tokens, values = [token for token, _ in items], [value for _, value in items]
    assert list(parse_tokens(tokens_text(tokens, values, digits=None))) == items
    short = tokens_text(tokens, values)
    again = parse_tokens(short)
    assert tokens_text([t for t, _ in again], [v for _, v in again]) == short


def test_text_form_is_the_documented_one() -> None:
    assert tokens_text([" the", '"', "x"], [0.42, 1.0, None]) == '" the"[0.42] "\\""[1.00] "x"'
    ((_, value),) = parse_tokens('"a"[nan]')
    assert value is not None and math.isnan(value)


@pytest.mark.parametrize("text", ['"a"[x]', "a[0.1]", '"a[0.1]', '"a"[0.1] ]', '"\\q"[0.1]'])
def test_text_form_errors_name_the_column(text: str) -> None:
    with pytest.raises(BadInput, match="column"):
        parse_tokens(text)


def test_glyphs_show_what_is_invisible_and_keep_lookalikes_apart() -> None:
    assert visible(" the\n") == "·the↵"
    assert visible("\u202e") == "⟨202e⟩" and visible("\ud800") == "⟨d800⟩" and visible("") == "∅"
    assert visible("·") != visible(" ") and visible("↵") != visible("\n")
    assert "\x1b" not in printable("\x1b[31mred") and printable("a\nb") == "a\nb"


@pytest.mark.parametrize("token", HOSTILE)
def test_html_forms_never_let_a_token_become_markup(token: str) -> None:
    row = TokenRow((token, "b"), (0.5, math.nan), marked=frozenset({1}), sink=frozenset({0}), title=token)
    for source in (
        tokens_html(row),
        attention_html(row),
        rows_html([token], {token: [0.1]}),
        map_html([token], [[1.0]]),
    ):
        page = Elements(source)
        assert {tag for tag, _ in page.tags} <= {
            "div",
            "span",
            "details",
            "summary",
            "table",
            "tr",
            "td",
            "th",
        }
        assert all(
            name in {"style", "title", "class", "scope", "aria-hidden"} for _, attrs in page.tags for name in attrs
        )
        assert visible(token) in "".join(page.texts)
        source.encode("utf-8")


def test_colour_scales_are_fixed_or_symmetric() -> None:
    assert "rgba(37,99,235,0.325)" in tokens_html(TokenRow(("a",), (0.5,)))
    assert "rgba(37,99,235,0.325)" in tokens_html(TokenRow(("a", "b"), (0.5, 0.5)))  # no stretching to the maximum
    page = tokens_html(TokenRow(("a", "b"), (-2.0, 1.0), scale="signed"))
    assert "rgba(217,95,2,0.650)" in page and "rgba(37,99,235,0.325)" in page and "-2" in page


def test_attention_row_greys_the_sink_and_prints_the_mass() -> None:
    page = attention_html(TokenRow(("<s>", "a", "b"), (0.6, 0.1, 0.3), marked=frozenset({2}), sink=frozenset({0})))
    assert "mass 0.4" in page and "(sink)" in page
    assert "&quot;b&quot; 0.75" in page and "&quot;a&quot; 0.25" in page


def test_window_keeps_what_is_near_and_the_sink() -> None:
    tokens = tuple(f"t{i}" for i in range(40))
    row = TokenRow(tokens, (0.0,) * 40, marked=frozenset({20}), sink=frozenset({0}), window=5)
    texts = "".join(Elements(tokens_html(row)).texts)
    assert texts.startswith("t0…t15t16") and "t25…" in texts and "t26" not in texts


def test_map_is_dst_by_src_and_empty_above_the_diagonal() -> None:
    page = Elements(map_html(["a", "b"], [[1.0, 0.0], [0.25, 0.75]]))
    titles = [attrs["title"] for tag, attrs in page.tags if tag == "td" and "title" in attrs]
    assert titles == ["1.0000", "0.2500", "0.7500"]


def test_drawing_changes_nothing() -> None:
    import numpy

    pattern = numpy.array([[1.0, 0.0], [0.25, 0.75]])
    before = pattern.copy()
    map_html(["a", "b"], pattern, title="x")  # type: ignore[arg-type]
    attention_html(TokenRow(("a", "b"), pattern[1], sink=frozenset({0})))  # type: ignore[arg-type]
    rows_html(["a", "b"], {"x": pattern[0]}, scale="signed")  # type: ignore[dict-item]
    assert (pattern == before).all()


def test_lengths_must_agree() -> None:
    with pytest.raises(BadInput, match="2 tokens but 1 values"):
        TokenRow(("a", "b"), (0.1,))
    with pytest.raises(BadInput, match="give one per token"):
        rows_html(["a"], {"x": [0.1, 0.2]})
    with pytest.raises(BadInput, match="dst src"):
        map_html(["a", "b"], [[1.0]])
