"""A plain HTML table with escaped cells."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from autointerp.tokentext import printable

Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """Column names, then cells row by row."""
    top = "".join(f"<th>{escape(printable(cell))}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
