"""Write the pages of a run from its folder alone.

1. Index heads.jsonl; 2. read one report at a time, keep its CSV row and its packed card, add it to the
summary; 3. write heads.csv, report.md and report.html, each to a temporary file that then takes the name.
Same folder, same bytes of heads.csv. A run over neurons or latents has features.jsonl instead (`feature_write`).
"""

from __future__ import annotations

from pathlib import Path

from autointerp.report.csv import Row, head_row, heads_csv
from autointerp.report.data import card
from autointerp.report.feature_write import write_feature_reports
from autointerp.report.folder import count_calls, holds_features, open_heads, read_json, replace_file
from autointerp.report.html import HeadEntry, page
from autointerp.report.markdown import report_markdown
from autointerp.report.overview import Overview
from autointerp.report.summary import Summary


def write_reports(run_folder: Path) -> None:
    """Write heads.csv, report.html and report.md beside heads.jsonl (features.csv and so on beside features.jsonl).

    Reads heads.jsonl, and config.json, run.json and calls.jsonl where they are. Raises RunFolderError where
    heads.jsonl is missing or damaged, or where the disk does not take the files (what was there stays).
    """
    folder = Path(run_folder)
    if holds_features(folder):
        write_feature_reports(folder)
        return
    heads = open_heads(folder)
    summary = Summary()
    rows: list[Row] = []
    entries: list[HeadEntry] = []
    for report in heads.reports():
        summary.add(report)
        rows.append(head_row(report))
        entries.append(HeadEntry.of(rows[-1], report, card(report)))
    overview = Overview(
        config=read_json(folder / "config.json"),
        run=read_json(folder / "run.json"),
        calls=count_calls(folder / "calls.jsonl"),
        summary=summary,
    )
    replace_file(folder / "heads.csv", heads_csv(rows))
    replace_file(folder / "report.md", report_markdown(overview, rows))
    replace_file(folder / "report.html", page(overview, entries))
