"""Token display: coloured tokens, value rows, attention rows and dst x src maps, as HTML fragments and text.

Every fragment is self-contained (inline style, no script), escapes every token, draws a copy of its numbers.
Colour scales: probabilities on the fixed range [0, 1]; signed values symmetric around 0. A legend names it.
The text form is `"tok"[0.42]` with the token as a JSON string; `parse_tokens` reads it back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

from autointerp.errors import BadInput
from autointerp.tokentext import escape_cell, printable, unescape_cell, visible

__all__ = [
    "TokenRow", "attention_html", "escape_cell", "map_html", "parse_tokens", "rows_html", "tokens_html",
    "tokens_text", "unescape_cell", "visible",
]  # fmt: skip

Scale = Literal["unit", "signed"]
_BLUE, _ORANGE = "37,99,235", "217,95,2"  # apart for every common colour vision; alpha carries the size
_GREY = "background:rgba(128,128,128,.22);color:inherit;opacity:.75"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px;line-height:1.9"
_TOKEN = "padding:2px 1px;border-radius:3px;white-space:pre-wrap;unicode-bidi:isolate;"
_CELL = "padding:2px 5px;text-align:center;font-variant-numeric:tabular-nums;"
_TEXT_FORM = re.compile(r'\s*("(?:[^"\\]|\\.)*")(?:\[([^\]\s]*)\])?')


@dataclass(frozen=True)
class TokenRow:
    """Tokens with one value each, to be drawn as a row.

    `marked`: positions drawn with a frame (the destination). `sink`: positions drawn grey, outside the scale.
    `window`: when given, only tokens that near to a marked one are drawn, and the sink; gaps show as `…`.
    """

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    marked: frozenset[int] = frozenset()
    sink: frozenset[int] = frozenset()
    scale: Scale = "unit"
    window: int | None = None
    title: str = ""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.values):
            raise BadInput(f"{len(self.tokens)} tokens but {len(self.values)} values: give one value per token.")

    def __str__(self) -> str:
        return tokens_text(self.tokens, self.values)


def tokens_html(row: TokenRow) -> str:
    """One coloured row of tokens with its legend; the value is in each token's tooltip."""
    limit = _limit(row.values, row.scale)
    spans = []
    for position in _shown(row):
        spans.append('<span aria-hidden="true">…</span>' if position is None else _token_span(row, position, limit))
    return _box(row.title, f'<div style="{_MONO}">{"".join(spans)}</div>{_legend(row.scale, limit)}')


def rows_html(
    tokens: Sequence[str], rows: Mapping[str, Sequence[float]], *, scale: Scale = "unit", title: str = ""
) -> str:
    """Several value rows under one row of tokens, as a table; all rows share the colour scale."""
    for name, values in rows.items():
        if len(values) != len(tokens):
            raise BadInput(f"row {name!r} has {len(values)} values for {len(tokens)} tokens: give one per token.")
    drawn = {name: [float(value) for value in values] for name, values in rows.items()}
    limit = _limit([value for values in drawn.values() for value in values], scale)
    head = "".join(f'<th scope="col" style="{_CELL}">{_token_text(token)}</th>' for token in tokens)
    body = "".join(
        f'<tr><th scope="row" style="{_CELL}text-align:left">{escape(printable(name))}</th>'
        + "".join(_value_cell(value, scale, limit) for value in values)
        + "</tr>"
        for name, values in drawn.items()
    )
    table = f'<table style="{_MONO};border-collapse:collapse"><tr><td></td>{head}</tr>{body}</table>'
    return _box(title, f'<div style="overflow-x:auto">{table}</div>{_legend(scale, limit)}')


def attention_html(row: TokenRow) -> str:
    """An attention row of one destination: the sink grey, and folded below it the row without the sink.

    `row.values` are attentions to the tokens up to the destination; the folded row divides by their mass off
    the sink, which is printed.
    """
    values = [float(value) for value in row.values]
    mass = math.fsum(v for i, v in enumerate(values) if i not in row.sink and not math.isnan(v))
    shares = tuple(
        math.nan if i in row.sink or mass <= 0 else value / mass for i, value in enumerate(values)
    )  # fmt: skip
    inner = tokens_html(replace(row, values=shares, title=""))
    return (
        tokens_html(row)
        + f'<details style="{_MONO}"><summary>without the sink (mass {_number(mass)})</summary>'
        + f"{inner}</details>"
    )


def map_html(
    tokens: Sequence[str], pattern: Sequence[Sequence[float]], *, sink: Sequence[int] = (0,), title: str = ""
) -> str:
    """A dst x src map of attention: a row a destination, a column a source, sources after dst left empty.

    `pattern` is `[dst src]`, square, in [0, 1]; the columns in `sink` are drawn grey.
    """
    grid = [[float(value) for value in line] for line in pattern]
    if len(grid) != len(tokens) or any(len(line) != len(tokens) for line in grid):
        raise BadInput(f"the map is not {len(tokens)} x {len(tokens)} for {len(tokens)} tokens: give [dst src].")
    head = "".join(f'<th scope="col" style="{_CELL}">{_token_text(token)}</th>' for token in tokens)
    lines = []
    for dst, line in enumerate(grid):
        cells = "".join(_map_cell(value, grey=src in sink) for src, value in enumerate(line[: dst + 1]))
        empty = "<td></td>" * (len(tokens) - dst - 1)
        lines.append(f'<tr><th scope="row" style="{_CELL}">{_token_text(tokens[dst])}</th>{cells}{empty}</tr>')
    top = f"<tr><td>dst \\ src</td>{head}</tr>"
    table = f'<table style="{_MONO};border-collapse:collapse">{top}{"".join(lines)}</table>'
    return _box(title, f'<div style="overflow-x:auto">{table}</div>{_legend("unit", 1.0)}')


def tokens_text(tokens: Sequence[str], values: Sequence[float | None], digits: int | None = 2) -> str:
    """The text form `"tok"[0.42] "tok"`; None has no bracket; `digits=None` writes floats in full."""
    if len(tokens) != len(values):
        raise BadInput(f"{len(tokens)} tokens but {len(values)} values: the text form needs one value per token.")
    return " ".join(_text_item(token, value, digits) for token, value in zip(tokens, values, strict=True))


def _text_item(token: str, value: float | None, digits: int | None) -> str:
    if value is None:
        return json.dumps(token)
    number = repr(float(value)) if digits is None else f"{float(value):.{digits}f}"
    return f"{json.dumps(token)}[{number}]"


def parse_tokens(text: str) -> tuple[tuple[str, float | None], ...]:
    """Read the text form back; raises BadInput with the column where it stops making sense."""
    items: list[tuple[str, float | None]] = []
    position = 0
    while text[position:].strip():
        match = _TEXT_FORM.match(text, position)
        try:
            if match is None:
                raise ValueError
            value = None if match.group(2) is None else float(match.group(2))
            items.append((json.loads(match.group(1)), value))
        except ValueError:
            raise BadInput(
                f"not a token row at column {position}: {text[position : position + 20]!r}. "
                'Write tokens as JSON strings with a value in brackets: " the"[0.42].'
            ) from None
        position = match.end()
    return tuple(items)


def _shown(row: TokenRow) -> list[int | None]:
    everything = range(len(row.tokens))
    if row.window is None or not row.marked:
        return list(everything)
    near = [i for i in everything if i in row.sink or min(abs(i - m) for m in row.marked) <= row.window]
    shown: list[int | None] = []
    for before, position in zip([-1, *near], near, strict=False):
        shown += [position] if position == before + 1 else [None, position]
    return shown if near and near[-1] == len(row.tokens) - 1 else [*shown, None]


def _token_span(row: TokenRow, position: int, limit: float) -> str:
    value = float(row.values[position])
    grey = position in row.sink
    style = _GREY if grey else _colour(value, row.scale, limit)
    frame = ";outline:2px solid currentColor;outline-offset:-1px" if position in row.marked else ""
    tip = f"{json.dumps(row.tokens[position])} {_number(value)}{' (sink)' if grey else ''}"
    text = _token_text(row.tokens[position])
    return f'<span style="{_TOKEN}{style}{frame}" title="{escape(tip)}">{text}</span>'


def _token_text(token: str) -> str:
    return escape(visible(token))


def _value_cell(value: float, scale: Scale, limit: float) -> str:
    return f'<td style="{_CELL}{_colour(value, scale, limit)}">{_number(value)}</td>'


def _map_cell(value: float, *, grey: bool) -> str:
    style = _GREY if grey else _colour(value, "unit", 1.0)
    return f'<td style="{_CELL}{style}" title="{value:.4f}">{_number(value)}</td>'


def _colour(value: float, scale: Scale, limit: float) -> str:
    if math.isnan(value) or limit <= 0:
        return ""
    part = min(abs(value) / limit, 1.0)
    hue = _ORANGE if scale == "signed" and value < 0 else _BLUE
    return f"background:rgba({hue},{0.65 * part:.3f})"


def _limit(values: Sequence[float], scale: Scale) -> float:
    if scale == "unit":
        return 1.0
    return max((abs(float(v)) for v in values if math.isfinite(v)), default=0.0)


def _legend(scale: Scale, limit: float) -> str:
    low, left = ("0", "transparent") if scale == "unit" else (f"-{_number(limit)}", f"rgba({_ORANGE},.65)")
    stops = f"{left},{'transparent,' if scale == 'signed' else ''}rgba({_BLUE},.65)"
    bar = f"display:inline-block;width:80px;height:9px;margin:0 6px;background:linear-gradient(90deg,{stops})"
    return f'<div style="font-size:11px;opacity:.8">{low}<span style="{bar}"></span>{_number(limit)}</div>'


def _number(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{value:.3g}"


def _box(title: str, body: str) -> str:
    heading = f'<div style="font-weight:600">{escape(printable(title))}</div>' if title else ""
    return f'<div class="autointerp-display" style="margin:4px 0">{heading}{body}</div>'
