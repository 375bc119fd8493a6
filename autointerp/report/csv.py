"""heads.csv: a row a head in the column order that users' scripts rely on, and its reader."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autointerp.records import HeadReport, Transcript
from autointerp.report.nouns import Report, unit_of
from autointerp.tokentext import escape_cell, unescape_cell

Value = str | int | float | None
Row = dict[str, Value]
DETECTORS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")
TEXT_COLUMNS = (
    "head", "label", "summary", "looks_at", "writes", "predicate", "explainer", "status", "verdict", "metric",
    "domain", "compared_with",
)  # fmt: skip
INT_COLUMNS = ("layer", "index", "n_items", "n_docs", "k", "rounds")
SAID = ("label", "summary", "looks_at", "writes", "predicate")
JUDGED = (
    "metric", "domain", "score", "score_low", "score_high", "chance", "n_items", "n_docs", "margin", "margin_low",
    "margin_high", "compared_with", "coverage",
)  # fmt: skip
SHARED = ("layer", "index", *SAID, "explainer", "status", "verdict", *JUDGED)
COLUMNS = ("head", *SHARED, "sink_mass", "entropy", "mean_distance", *DETECTORS, "ablation_loss", "k", "rounds")


@dataclass(frozen=True)
class Table:
    """Columns in order; those that are not of text or whole numbers hold fractions."""

    columns: Sequence[str]
    text: Sequence[str] = TEXT_COLUMNS
    whole: Sequence[str] = INT_COLUMNS

    def write(self, rows: Iterable[Row]) -> str:
        """The CSV: floats with 6 significant digits, undefined cells empty, text escaped."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in rows:
            writer.writerow([self._cell(name, row[name]) for name in self.columns])
        return out.getvalue()

    def read(self, path: Path) -> list[Row]:
        """The rows with text unescaped and numbers as numbers; empty cells are None."""
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: self._value(name, cell) for name, cell in row.items()} for row in csv.DictReader(file)]

    def _cell(self, name: str, value: Value) -> str:
        if value is None or value == "":
            return ""
        if isinstance(value, float):
            return f"{value + 0.0:.6g}"  # adding 0 turns -0 into 0
        return escape_cell(value) if isinstance(value, str) and name in self.text else str(value)

    def _value(self, name: str, cell: str) -> Value:
        if cell == "":
            return None
        if name in self.whole:
            return int(cell)
        return unescape_cell(cell) if name in self.text or name not in self.columns else float(cell)


def shared_row(report: Report) -> Row:
    """The columns that heads, neurons and latents have: SHARED, in order."""
    judged, said, unit = report.judgement, report.description, unit_of(report)
    row: Row = {"layer": unit.layer, "index": unit.index}
    row |= {name: getattr(said, name) if said is not None else None for name in SAID}
    row |= {"explainer": report.provenance.explainer, "status": report.status, "verdict": judged.verdict}
    return row | {name: getattr(judged, name) for name in JUDGED}


def head_row(report: HeadReport) -> Row:
    """The columns of one head, in order; numbers that are undefined are None."""
    stats = report.evidence.stats
    row: Row = {"head": str(report.head), **shared_row(report)}
    row |= {name: getattr(stats, name).value for name in ("sink_mass", "entropy", "mean_distance")}
    for name in DETECTORS:
        reading = report.evidence.reading(name)
        row[name] = None if reading is None else reading.value
    row["ablation_loss"] = report.ablation_loss.value
    return defined(row | looped(report.transcript))


def looped(transcript: Transcript | None) -> Row:
    """How many hypotheses the agent began with, and its rounds; nothing without an agent."""
    if transcript is None:
        return {"k": None, "rounds": None}
    first = [turn for turn in transcript.turns if turn.step in ("one_shot", "hypotheses")]
    return {"k": sum(len(turn.hypotheses) for turn in first), "rounds": transcript.rounds}


def defined(row: Row) -> Row:
    """The row with None for numbers that are undefined."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def heads_csv(rows: Iterable[Row]) -> str:
    """The text of heads.csv."""
    return Table(COLUMNS).write(rows)


def read_heads_csv(path: Path) -> list[Row]:
    """The rows of a heads.csv."""
    return Table(COLUMNS).read(path)
