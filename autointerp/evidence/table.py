"""The result of an attention query: (destination, source) pairs with their quantities, ready to be shown.

Numbers in a `PairTable` are plain copies: no way of showing it touches what was collected.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING

from autointerp.display import TokenRow, attention_html
from autointerp.tables import Cell, TokenTable

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "rank", "doc_id", "window_id", "dst", "dst_token", "src", "src_token", "distance", "attn",
    "share", "multiple", "contribution", "column_lift", "position_lift", "sink_mass", "n_allowed", "flags",
    "prefix_text",
)  # fmt: skip
TEXT_COLUMNS = frozenset({"doc_id", "dst_token", "src_token", "flags", "prefix_text"})
NEAR = 5  # tokens drawn on each side of the source and of the destination


@dataclass(frozen=True)
class PairRow:
    """One pair; columns of attention_evidence section 1, and the row of attention that it stands in.

    `attn`, `share`, `sink_mass` in [0, 1], `contribution` in residual-stream norm, undefined values NaN.
    """

    rank: int
    doc_id: str
    window_id: int
    dst: int
    dst_token: str
    src: int
    src_token: str
    distance: int
    attn: float
    share: float
    multiple: float
    contribution: float
    column_lift: float
    position_lift: float
    sink_mass: float
    n_allowed: int
    flags: str  # names separated by spaces
    prefix_text: str
    tokens: tuple[str, ...]  # positions 0 to dst
    pattern: tuple[float, ...]
    sinks: tuple[int, ...]

    def cells(self) -> tuple[Cell, ...]:
        """The values of `COLUMNS`."""
        return tuple(getattr(self, name) for name in COLUMNS)


@dataclass(frozen=True)
class PairTable:
    """Ranked or random pairs of one head; `population` is how many pairs they were taken from."""

    rows: tuple[PairRow, ...]
    title: str
    definition: str
    population: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def _table(self) -> TokenTable:
        return TokenTable(COLUMNS, tuple(row.cells() for row in self.rows), TEXT_COLUMNS, self.title)

    def to_dataframe(self) -> pandas.DataFrame:
        """A DataFrame with `COLUMNS`, one row a pair; tokens as they are."""
        return self._table().to_dataframe()

    def to_csv(self) -> str:
        """CSV text; `tables.read_csv_cells(text, TEXT_COLUMNS)` gives the tokens back."""
        return self._table().to_csv()

    def to_markdown(self) -> str:
        """Title, definition and a pipe table."""
        from autointerp.tokentext import escape_markdown

        said = "".join(f"{escape_markdown(line)}\n\n" for line in (self.definition, *self.notes))
        heading, _, table = self._table().to_markdown().partition("\n\n")
        return f"{heading}\n\n{said}{table}"

    def to_json(self) -> str:
        """JSON text: title, definition, population, notes, rows with tokens and pattern; NaN is null."""
        rows = [{name: _defined(value) for name, value in asdict(row).items()} for row in self.rows]
        whole = {
            "title": self.title,
            "definition": self.definition,
            "population": self.population,
            "notes": self.notes,
            "rows": rows,
        }
        return json.dumps(whole, indent=1, allow_nan=False)

    def to_html(self) -> str:
        """A page of its own, readable offline: the table, and each row's attention drawn over its tokens."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="color-scheme" content="light dark"><title>{escape(self.title)}</title></head>'
            f'<body style="font-family:system-ui,sans-serif;margin:1rem">{self._repr_html_()}</body></html>\n'
        )

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(line)}</p>" for line in (self.definition, *self.notes))
        drawn = "".join(attention_html(_drawn(row)) for row in self.rows)
        table = f'<div style="overflow-x:auto">{self._table().to_html()}</div>'
        return f'<div class="autointerp-pairs">{table}{said}{drawn}</div>'


def _drawn(row: PairRow) -> TokenRow:
    return TokenRow(
        row.tokens,
        row.pattern,
        marked=frozenset({row.src, row.dst}),
        sink=frozenset(row.sinks),
        window=NEAR,
        title=f"{row.rank}. attention of {json.dumps(row.dst_token)} ({row.dst}) to the tokens before it",
    )


def _defined(value: object) -> object:
    if isinstance(value, tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
