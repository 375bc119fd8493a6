"""A table whose cells may be tokens: one object with lossless CSV, Markdown, HTML and DataFrame forms."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from autointerp.display import TokenRow, tokens_html
from autointerp.errors import BadInput
from autointerp.tokentext import escape_cell, escape_markdown, printable, unescape_cell, visible

if TYPE_CHECKING:
    import pandas

Cell = str | int | float | bool | None | TokenRow


@dataclass(frozen=True)
class TokenTable:
    """Rows of equal length under `columns`; `token_columns` hold tokens or text that must survive exactly."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    token_columns: frozenset[str] = frozenset()
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise BadInput(f"a row has {len(row)} cells for {len(self.columns)} columns: give one cell per column.")

    def __len__(self) -> int:
        return len(self.rows)

    def to_dataframe(self) -> pandas.DataFrame:
        """A DataFrame with the tokens as they are; token rows as their text form."""
        import pandas

        series = {}
        for place, name in enumerate(self.columns):
            cells = [str(row[place]) if isinstance(row[place], TokenRow) else row[place] for row in self.rows]
            text = any(isinstance(cell, str) for cell in cells)  # Arrow strings cannot hold a lone surrogate
            series[name] = pandas.Series(cells, dtype=object if text or not cells else None)
        return pandas.DataFrame(series, columns=list(self.columns))

    def to_csv(self) -> str:
        """CSV text; tokens through `escape_cell`, floats with 6 significant digits, NaN and None empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([self._csv_cell(name, cell) for name, cell in zip(self.columns, row, strict=True)])
        return out.getvalue()

    def to_markdown(self) -> str:
        """A pipe table; token cells as escaped JSON strings, so that white space shows."""
        lines = ["| " + " | ".join(escape_markdown(name) for name in self.columns) + " |"]
        lines.append("|" + " --- |" * len(self.columns))
        for row in self.rows:
            cells = (self._markdown_cell(name, cell) for name, cell in zip(self.columns, row, strict=True))
            lines.append("| " + " | ".join(cells) + " |")
        heading = f"**{escape_markdown(self.title)}**\n\n" if self.title else ""
        return heading + "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """A self-contained HTML fragment; a token cell also has the token as JSON in `data-token`."""
        head = "".join(f'<th scope="col" style="{_PAD};text-align:left">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            "<tr>" + "".join(self._html_cell(n, c) for n, c in zip(self.columns, row, strict=True)) + "</tr>"
            for row in self.rows
        )
        caption = (
            f'<caption style="text-align:left;font-weight:600">{escape(printable(self.title))}</caption>'
            if self.title
            else ""
        )
        inner = f"{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f'<table style="border-collapse:collapse">{inner}</table>'

    def _repr_html_(self) -> str:
        return self.to_html()

    def _csv_cell(self, name: str, cell: Cell) -> str:
        text = plain(cell)
        return escape_cell(text) if name in self.token_columns and cell is not None else text

    def _markdown_cell(self, name: str, cell: Cell) -> str:
        token = name in self.token_columns and isinstance(cell, str)
        return escape_markdown(json.dumps(cell) if token else plain(cell))

    def _html_cell(self, name: str, cell: Cell) -> str:
        if isinstance(cell, TokenRow):
            return f'<td style="{_PAD}">{tokens_html(cell)}</td>'
        if name in self.token_columns and isinstance(cell, str):
            mono = f"{_PAD};font-family:monospace;unicode-bidi:isolate"
            return f'<td style="{mono}" data-token="{escape(json.dumps(cell))}">{escape(visible(cell))}</td>'
        return f'<td style="{_PAD}">{escape(printable(plain(cell)))}</td>'


_PAD = "padding:2px 8px;vertical-align:top"


def plain(cell: Cell) -> str:
    """A cell as text: floats with 6 significant digits, NaN and None empty, a token row in its text form."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return str(cell)


def read_csv_cells(text: str, token_columns: frozenset[str]) -> list[dict[str, str]]:
    """Rows of a CSV that `TokenTable.to_csv` wrote, with the tokens as they were; other cells as text."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{k: unescape_cell(v) if k in token_columns else v for k, v in row.items()} for row in rows]
