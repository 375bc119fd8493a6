"""A grid of layers by tokens: what a lens says in each cell, shaded by its confidence, for terminal, Markdown, HTML.

The HTML page needs nothing from elsewhere: hovering a cell shows its details, a click on a token or cell shows its
column below the grid; without scripts the hover remains.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from autointerp.errors import BadInput
from autointerp.tokentext import escape_markdown, printable, visible

CELL_WIDTH, LINE_WIDTH = 12, 118
_SHADES = " ░▒▓█"


@dataclass(frozen=True)
class GridCell:
    """`text` as shown, `confidence` in [0, 1] for the shade, `detail` for the hover and the column."""

    text: str
    confidence: float
    detail: str = ""


@dataclass(frozen=True)
class Grid:
    """`cells[row][column]`; `columns` are tokens, `rows` names of layers, drawn in order from the top."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[GridCell, ...], ...]
    title: str = ""
    legend: str = "shade: probability of the token shown"

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.rows) or any(len(line) != len(self.columns) for line in self.cells):
            raise BadInput(f"the grid needs {len(self.rows)} x {len(self.columns)} cells: give one for every place.")

    def to_text(self) -> str:
        """Aligned columns for a terminal, broken into blocks that fit its width; ░▒▓█ is the shade."""
        left = max((len(name) for name in self.rows), default=0)
        per_block = max(1, (LINE_WIDTH - left) // (CELL_WIDTH + 2))
        blocks = [self._block(start, per_block, left) for start in range(0, len(self.columns), per_block)]
        heading = f"{printable(self.title)}\n" if self.title else ""
        return heading + "\n\n".join(blocks) + f"\n{self.legend}: {_SHADES[1:]}\n"

    def _block(self, start: int, n: int, left: int) -> str:
        part = slice(start, start + n)
        lines = ["  ".join([" " * left, *(_fit(visible(token)) for token in self.columns[part])])]
        for name, line in zip(self.rows, self.cells, strict=True):
            shown = (_fit(visible(cell.text), CELL_WIDTH - 1) + _shade(cell.confidence) for cell in line[part])
            lines.append("  ".join([name.ljust(left), *shown]))
        return "\n".join(line.rstrip() for line in lines)

    def to_markdown(self) -> str:
        """A pipe table with the confidence in per cent; tokens as JSON strings."""
        head = ["layer", *(json.dumps(token) for token in self.columns)]
        lines = ["| " + " | ".join(escape_markdown(name) for name in head) + " |", "|" + " --- |" * len(head)]
        for name, line in zip(self.rows, self.cells, strict=True):
            shown = [f"{json.dumps(cell.text)} {100 * cell.confidence:.0f}%" for cell in line]
            lines.append("| " + " | ".join(escape_markdown(text) for text in [name, *shown]) + " |")
        heading = f"**{escape_markdown(self.title)}**\n\n" if self.title else ""
        return heading + "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """A self-contained fragment with inline style, and a script for the columns."""
        head = "".join(
            f'<th scope="col"><button type="button" data-column="{n}" style="{_BUTTON}">{escape(visible(token))}'
            "</button></th>"
            for n, token in enumerate(self.columns)
        )
        body = "".join(
            f'<tr><th scope="row" style="{_HEAD}">{escape(name)}</th>{"".join(map(_cell_html, range(len(line)), line))}'
            "</tr>"
            for name, line in zip(self.rows, self.cells, strict=True)
        )
        table = f'<table style="border-collapse:collapse;font:13px ui-monospace,Menlo,Consolas,monospace"><thead><tr>' \
                f"<td></td>{head}</tr></thead><tbody>{body}</tbody></table>"  # fmt: skip
        title = f'<div style="font-weight:600">{escape(printable(self.title))}</div>' if self.title else ""
        legend = f'<div style="font-size:11px;opacity:.8">{escape(self.legend)}; click a token for its column</div>'
        column = '<pre data-role="column" style="white-space:pre-wrap" aria-live="polite"></pre>'
        inside = f'{title}<div style="overflow-x:auto">{table}</div>{legend}{column}'
        return f'<div class="autointerp-grid" style="margin:4px 0">{inside}{_SCRIPT}</div>'

    def to_page(self) -> str:
        """A whole HTML page, readable offline."""
        name = escape(printable(self.title or "lens"))
        style = "body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;color:#111;background:#fff}"
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
            f"<style>{style}</style></head><body>{self.to_html()}</body></html>\n"
        )

    def _repr_html_(self) -> str:
        return self.to_html()


_BUTTON = "font:inherit;font-weight:600;border:0;background:none;cursor:pointer;padding:2px 6px;unicode-bidi:isolate"
_HEAD = "padding:2px 8px;text-align:left;white-space:nowrap;position:sticky;left:0;background:#fff"
_SCRIPT = """<script>
(() => {
  const box = document.currentScript.parentElement;
  const out = box.querySelector('[data-role="column"]');
  box.addEventListener("click", (event) => {
    const hit = event.target.closest("[data-column]");
    if (!hit) return;
    const own = [...box.querySelectorAll(`td[data-column="${hit.dataset.column}"]`)];
    const name = box.querySelector(`button[data-column="${hit.dataset.column}"]`).textContent;
    const told = (td) => td.parentElement.firstChild.textContent + "\\n  " + td.title.replaceAll("\\n", "\\n  ");
    out.textContent = name + "\\n" + own.map(told).join("\\n");
  });
})();
</script>"""


def _cell_html(column: int, cell: GridCell) -> str:
    alpha = 0.65 * min(max(cell.confidence, 0.0), 1.0) if cell.confidence == cell.confidence else 0.0
    style = f"padding:2px 6px;white-space:pre;unicode-bidi:isolate;background:rgba(37,99,235,{alpha:.3f})"
    return (
        f'<td data-column="{column}" style="{style}" title="{escape(printable(cell.detail))}">'
        f"{escape(visible(cell.text))}</td>"
    )


def _fit(text: str, width: int = CELL_WIDTH) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def _shade(confidence: float) -> str:
    steps = len(_SHADES) - 1
    return _SHADES[min(steps, int(confidence * steps + 0.5))] if 0 <= confidence <= 1 else " "


def one_line(texts: Sequence[str]) -> str:
    """Texts as JSON strings, joined, for a cell's detail."""
    return ", ".join(json.dumps(text, ensure_ascii=False) for text in texts)
