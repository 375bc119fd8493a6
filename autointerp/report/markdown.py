"""report.md: the summary and one table of heads, in short. Everything from the run is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.report.csv import Value
from autointerp.report.overview import Overview, text_of
from autointerp.report.summary import VERDICTS
from autointerp.tokentext import escape_markdown

_SHOWN = (
    "head",
    "status",
    "label",
    "verdict",
    "metric",
    "score",
    "margin",
    "compared_with",
    "coverage",
    "summary",
)


def report_markdown(overview: Overview, rows: Sequence[dict[str, Value]]) -> str:
    """The Markdown of a run; `rows` as of heads.csv."""
    summary = overview.summary
    lines = [f"# Attention heads of {escape_markdown(overview.title)}", ""]
    counts = ", ".join(f"{summary.status[name]} {name}" for name in ("described", "abstained", "failed"))
    verdicts = ", ".join(f"{summary.verdicts[name]} {name}" for name in VERDICTS)
    lines += [f"{summary.n_total} heads: {counts}; {summary.n_unscored} described but unscored.", ""]
    lines += [
        f"Verdicts: {verdicts}.",
        "",
        "Full cards are in report.html, all numbers in heads.csv and heads.jsonl.",
        "",
    ]
    lines += [f"- {escape_markdown(note)}" for note in overview.notes] + [""]
    lines += ["## Summary", ""]
    facts = [("Score", overview.margins()), *overview.facts().items()]
    pairs = [(f"{group}: {name}", text) for group, items in facts for name, text in items]
    lines += _table(("number", "value"), [[escape_markdown(cell) for cell in pair] for pair in pairs])
    if summary.controls:
        lines += ["", "## Controls", ""]
        columns = ("control", "kind", "heads", "beaten", "is that rule", "mean difference")
        controls = [
            (c.name, c.kind, c.n, c.beaten, c.same_rule, c.mean_difference) for c in summary.controls.values()
        ]  # fmt: skip
        lines += _table(columns, [[escape_markdown(text_of(cell)) for cell in line] for line in controls])
    lines += ["", "## Heads", ""]
    lines += _table(_SHOWN, [[_cell(row[name]) for name in _SHOWN] for row in rows])
    return "\n".join(lines) + "\n"


def _cell(value: Value) -> str:
    return "" if value is None else escape_markdown(text_of(value))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]
