"""report.md: the summary and one table of units, in short. Everything from the run is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.report.csv import Row, Value
from autointerp.report.nouns import HEADS, Nouns
from autointerp.report.overview import Overview, text_of
from autointerp.report.summary import DEAD_OR_DENSE, VERDICTS, Summary
from autointerp.tokentext import escape_markdown

MOST = 2000  # rows
_SHOWN = ("status", "label", "verdict", "metric", "score", "margin", "compared_with", "coverage", "summary")


def report_markdown(overview: Overview, rows: Sequence[Row]) -> str:
    """The Markdown of a run; `rows` as of its CSV table, whose first column names the unit."""
    summary, nouns = overview.summary, overview.nouns
    lines = [f"# {nouns.title} of {escape_markdown(overview.title)}", ""]
    counts = _counts(summary, nouns)
    verdicts = ", ".join(f"{summary.verdicts[name]} {name}" for name in VERDICTS)
    lines += [f"{nouns.count(summary.n_total)}: {counts}; {summary.n_unscored} described but unscored.", ""]
    lines += [
        f"Verdicts: {verdicts}.",
        "",
        f"Full cards are in report.html, all numbers in {nouns.file}.csv and {nouns.file}.jsonl.",
        "",
    ]
    lines += [f"- {escape_markdown(note)}" for note in overview.notes] + [""]
    lines += ["## Summary", ""]
    facts = [("Score", overview.margins()), *overview.facts().items()]
    pairs = [(f"{group}: {name}", text) for group, items in facts for name, text in items]
    lines += _table(("number", "value"), [[escape_markdown(cell) for cell in pair] for pair in pairs])
    if summary.controls:
        lines += ["", "## Controls", ""]
        columns = ("control", "kind", nouns.many, "beaten", "is that rule", "mean difference")
        controls = [
            (c.name, c.kind, c.n, c.beaten, c.same_rule, c.mean_difference) for c in summary.controls.values()
        ]  # fmt: skip
        lines += _table(columns, [[escape_markdown(text_of(cell)) for cell in line] for line in controls])
    lines += ["", f"## {nouns.many.capitalize()}", ""]
    shown = ("head" if nouns is HEADS else "unit", *_SHOWN)
    lines += _table(shown, [[_cell(row[name]) for name in shown] for row in rows[:MOST]])
    if len(rows) > MOST:
        lines += ["", f"{len(rows) - MOST:,} more are in {nouns.file}.csv."]
    return "\n".join(lines) + "\n"


def _counts(summary: Summary, nouns: Nouns) -> str:
    """How the units ended; dead and dense ones are no abstentions of an explainer."""
    off = {name: summary.groups[name] for name in DEAD_OR_DENSE}
    counts = {name: summary.status[name] for name in ("described", "abstained", "failed")}
    counts["abstained"] -= sum(off.values())
    return ", ".join(f"{n} {name}" for name, n in (counts if nouns is HEADS else counts | off).items())


def _cell(value: Value) -> str:
    return "" if value is None else escape_markdown(text_of(value))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]
