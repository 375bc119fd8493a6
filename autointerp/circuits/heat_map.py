"""Heat maps of a table of cells: layers downwards, heads (a panel a position) or positions across.

Colours run from blue (negative) over the paper's colour to red (positive), symmetric around 0. A cell without a causal
path is hatched, never coloured. A dot marks cells that differ from 0 at a false discovery rate of 5 %. The page is one
file without scripts or links; `png` draws the same panels as pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float64

from autointerp.circuits.cells import Cell, CellTable
from autointerp.tokentext import printable

SIZE, LEFT, TOP = 26, 46, 22
RED, BLUE, PAPER = (178, 24, 43), (33, 102, 172), (250, 250, 250)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}figure{margin:1rem 0;overflow-x:auto}
figcaption{color:#555;font-size:.9rem}svg text{font:11px system-ui,sans-serif;fill:#333}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;font-size:.9rem}dt{color:#555}dd{margin:0}
table{border-collapse:collapse;font-size:.9rem}td,th{padding:2px 10px;text-align:right}
td:first-child,th:first-child{text-align:left}tbody tr:nth-child(odd){background:#f4f4f4}.note{color:#7a4a00}
"""


@dataclass(frozen=True, eq=False)
class Panel:
    """One grid: `values [row column]`, NaN without a path; `flags` beside them; what a cell is called."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float64[np.ndarray, "row column"]
    flags: np.ndarray
    texts: tuple[tuple[str, ...], ...]


def panels(table: CellTable) -> list[Panel]:
    """A panel a position for cells of heads, one panel of layers and positions otherwise."""
    layers = sorted({cell.layer for cell in table.cells})
    places = list(dict.fromkeys(cell.position for cell in table.cells))
    heads = sorted({cell.head for cell in table.cells})
    number = {cell: n for n, cell in enumerate(table.cells)}
    rows = tuple(f"L{layer}" for layer in layers)
    found: list[Panel] = []
    groups = [(place or "all positions", [(h, place) for h in heads]) for place in places]
    if heads == [-1]:
        groups = [("", [(-1, place) for place in places])]
    for title, columns in groups:
        names = tuple((f"H{h}" if h >= 0 else place or "all") for h, place in columns)
        where = [[number.get(Cell(layer, h, place), -1) for h, place in columns] for layer in layers]
        values = np.array([[table.mean[n] if n >= 0 else np.nan for n in row] for row in where])
        flags = np.array([[bool(table.flagged[n]) if n >= 0 else False for n in row] for row in where])
        texts = tuple(tuple(_text(table, n) if n >= 0 else "not measured" for n in row) for row in where)
        found.append(Panel(title, rows, names, values, flags, texts))
    return found


def _text(table: CellTable, n: int) -> str:
    if not np.isfinite(table.mean[n]):
        return f"{table.name(n)}: no causal path"
    numbers = table.numbers
    return (
        f"{table.name(n)}: {table.mean[n]:.4g} [{numbers['low'][n]:.4g}, {numbers['high'][n]:.4g}], "
        f"n {table.n[n]}, q {numbers['q'][n]:.2g}"
    )


def colour(value: float, largest: float) -> tuple[int, int, int]:
    """Between the paper's colour and red or blue."""
    part = min(1.0, abs(value) / largest) if largest > 0 else 0.0
    end = RED if value > 0 else BLUE
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(PAPER, end, strict=True))
    return red, green, blue


def largest_of(found: Sequence[Panel]) -> float:
    """The largest value by size of all panels: their common scale; 0 where there is none."""
    sizes = [np.abs(panel.values[np.isfinite(panel.values)]) for panel in found]
    return float(max((size.max() for size in sizes if size.size), default=0.0))


def _svg(panel: Panel, largest: float) -> str:
    label = max(LEFT, *(12 + 7 * len(name) for name in panel.rows))
    slanted = max(len(name) for name in panel.columns) > 4
    top = TOP + (6 * max(len(name) for name in panel.columns) if slanted else 0)
    width, height = label + SIZE * len(panel.columns) + 60, top + SIZE * len(panel.rows) + 4
    parts = [f'<svg role="img" aria-label="{escape(panel.title or "heat map")}" width="{width}" height="{height}">'
             '<defs><pattern id="none" width="6" height="6" patternUnits="userSpaceOnUse">'
             '<path d="M0 6L6 0" stroke="#999" stroke-width="1"/></pattern></defs>']  # fmt: skip
    for c, name in enumerate(panel.columns):
        x = label + SIZE * c + SIZE / 2
        turn = f' transform="rotate(-45 {x:.0f} {top - 6})"' if slanted else ""
        anchor = "start" if slanted else "middle"
        parts.append(f'<text x="{x:.0f}" y="{top - 6}" text-anchor="{anchor}"{turn}>{escape(printable(name))}</text>')
    for r, name in enumerate(panel.rows):
        y = top + SIZE * r
        parts.append(f'<text x="{label - 6}" y="{y + SIZE / 2 + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        for c in range(len(panel.columns)):
            parts.append(_cell(panel, (r, c), (label + SIZE * c, y), largest))
    return "".join(parts) + "</svg>"


def _cell(panel: Panel, at: tuple[int, int], corner: tuple[int, int], largest: float) -> str:
    value, (x, y) = float(panel.values[at]), corner
    fill = "url(#none)" if not np.isfinite(value) else "rgb({},{},{})".format(*colour(value, largest))
    text = escape(printable(panel.texts[at[0]][at[1]]))
    box = f'<rect x="{x}" y="{y}" width="{SIZE - 1}" height="{SIZE - 1}" fill="{fill}"><title>{text}</title></rect>'
    if not panel.flags[at]:
        return box
    ink = "#fff" if abs(value) > 0.6 * largest else "#111"
    return box + f'<circle cx="{x + SIZE / 2 - 0.5}" cy="{y + SIZE / 2 - 0.5}" r="2.5" fill="{ink}"/>'


def figure(table: CellTable, top: int) -> str:
    """Panels, scale and strongest cells of a table as HTML."""
    found = panels(table)
    largest = largest_of(found)
    drawn = "".join(
        f"<figure><figcaption>{escape(printable(panel.title))}</figcaption>{_svg(panel, largest)}</figure>"
        for panel in found
    )
    scale = (
        f"<p>Full colour is ±{largest:.4g}; blue is negative, red positive, hatched has no causal path. A dot: differs "
        "from 0 at a false discovery rate of 5 %.</p>"
    )
    head = "<tr><th>cell</th><th>mean</th><th>95 % interval</th><th>p</th><th>q</th><th>n</th></tr>"
    numbers = table.numbers
    body = "".join(
        f"<tr><td>{escape(printable(table.name(n)))}</td><td>{table.mean[n]:.4g}</td><td>{numbers['low'][n]:.4g} to "
        f"{numbers['high'][n]:.4g}</td><td>{numbers['p'][n]:.2g}</td><td>{numbers['q'][n]:.2g}</td>"
        f"<td>{table.n[n]}</td></tr>"
        for n in table.strongest(top)
    )
    return f"{drawn}{scale}<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def page(title: str, tables: Sequence[CellTable], top: int = 20) -> str:
    """A self-contained page: for each table its settings, notes, panels and strongest cells."""
    parts = [f"<h1>{escape(printable(title))}</h1>"]
    for table in tables:
        parts.append(f"<h2>{escape(printable(str(table.settings.get('metric', 'effect'))))}</h2>")
        listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(printable(str(v)))}</dd>" for k, v in table.settings.items())
        parts.append(f"<dl>{listed}</dl>")
        parts += [f'<p class="note">{escape(printable(note))}</p>' for note in table.notes]
        parts.append(figure(table, top))
    head = f'<meta charset="utf-8"><title>{escape(printable(title))}</title><style>{STYLE}</style>'
    view = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    return f'<!doctype html><html lang="en"><head>{head}{view}</head><body>{"".join(parts)}</body></html>\n'
