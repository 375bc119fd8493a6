"""bench.html: the tables of a benchmark as one self-contained page, escaped, readable offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autointerp import __version__
from autointerp.records import Interval
from autointerp.tokentext import escape_markdown

_TEMPLATES = Path(__file__).parent / "templates"
Cell = str | int | float | None


@dataclass(frozen=True)
class Bar:
    """A value in [0, 1] with its interval, drawn beside the number."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> Bar:
        return cls(interval.value, interval.low, interval.high)

    @property
    def text(self) -> str:
        return f"{shown(self.value)} ({shown(self.low)} to {shown(self.high)})"


Row = tuple[Cell | Bar, ...]


@dataclass(frozen=True)
class BenchTable:
    """A titled table; a cell may be a `Bar`."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def to_markdown(self) -> str:
        """Title, note and rows as Markdown."""
        lines = [f"## {escape_markdown(self.title)}", "", *([self.note, ""] if self.note else [])]
        lines += ["| " + " | ".join(self.columns) + " |", "|---" * len(self.columns) + "|"]
        lines += ["| " + " | ".join(escape_markdown(_text(cell)) for cell in row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def shown(value: Cell) -> str:
    """A number with three digits, `-` for one that is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _text(cell: Cell | Bar) -> str:
    return cell.text if isinstance(cell, Bar) else shown(cell)


def bench_page(title: str, lede: str, tables: Sequence[BenchTable]) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.tests["bar"] = lambda cell: isinstance(cell, Bar) and not math.isnan(cell.value)
    environment.tests["numeric"] = lambda cell: isinstance(cell, int | float | Bar)
    environment.filters["shown"] = _text
    style = "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "bench.css"))
    return environment.get_template("bench.html.j2").render(
        title=title, lede=lede, tables=tables, style=Markup(style), version=__version__
    )
