"""heads.csv: a row a head in the column order that users' scripts rely on, and its reader."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from autointerp.records import HeadReport
from autointerp.tokentext import escape_cell, unescape_cell

Value = str | int | float | None
DETECTORS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")
TEXT_COLUMNS = (
    "head", "label", "summary", "looks_at", "writes", "predicate", "explainer", "status", "verdict", "metric",
    "domain", "compared_with",
)  # fmt: skip
INT_COLUMNS = ("layer", "index", "n_items", "n_docs")
COLUMNS = (
    "head", "layer", "index", "label", "summary", "looks_at", "writes", "predicate", "explainer", "status",
    "verdict", "metric", "domain", "score", "score_low", "score_high", "chance", "n_items", "n_docs",
    "margin", "margin_low", "margin_high", "compared_with", "coverage", "sink_mass", "entropy",
    "mean_distance", *DETECTORS, "ablation_loss",
)  # fmt: skip


def head_row(report: HeadReport) -> dict[str, Value]:
    """The columns of one head, in order; numbers that are undefined are None."""
    judged, stats, said = report.judgement, report.evidence.stats, report.description
    row: dict[str, Value] = {"head": str(report.head), "layer": report.head.layer, "index": report.head.index}
    for name in ("label", "summary", "looks_at", "writes", "predicate"):
        row[name] = getattr(said, name) if said is not None else None
    row |= {"explainer": report.provenance.explainer, "status": report.status, "verdict": judged.verdict}
    for name in COLUMNS[COLUMNS.index("metric") : COLUMNS.index("coverage") + 1]:
        row[name] = getattr(judged, name)
    row |= {name: getattr(stats, name).value for name in ("sink_mass", "entropy", "mean_distance")}
    for name in DETECTORS:
        reading = report.evidence.reading(name)
        row[name] = None if reading is None else reading.value
    row["ablation_loss"] = report.ablation_loss.value
    return {name: _defined(value) for name, value in row.items()}


def _defined(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def heads_csv(rows: Iterable[dict[str, Value]]) -> str:
    """The text of heads.csv: floats with 6 significant digits, undefined cells empty, text escaped."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(name, row[name]) for name in COLUMNS])
    return out.getvalue()


def _cell(name: str, value: Value) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, float):
        return f"{value + 0.0:.6g}"  # adding 0 turns -0 into 0
    return escape_cell(value) if isinstance(value, str) and name in TEXT_COLUMNS else str(value)


def read_heads_csv(path: Path) -> list[dict[str, Value]]:
    """The rows of a heads.csv with text unescaped and numbers as numbers; empty cells are None."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _value(name: str, cell: str) -> Value:
    if cell == "":
        return None
    if name in INT_COLUMNS:
        return int(cell)
    return unescape_cell(cell) if name in TEXT_COLUMNS or name not in COLUMNS else float(cell)
