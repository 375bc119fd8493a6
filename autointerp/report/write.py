"""Write the pages of a run from its folder alone.

1. Index heads.jsonl; 2. read one report at a time, keep its CSV row and its packed card, add it to the
summary; 3. write heads.csv, report.md and report.html, each to a temporary file that then takes the name.
Same folder, same bytes of heads.csv.
"""

from __future__ import annotations

import os
from pathlib import Path

from autointerp.errors import RunFolderError
from autointerp.report.csv import Value, head_row, heads_csv
from autointerp.report.data import card
from autointerp.report.folder import count_calls, open_heads, read_json
from autointerp.report.html import HeadEntry, page
from autointerp.report.markdown import report_markdown
from autointerp.report.overview import Overview
from autointerp.report.summary import Summary


def write_reports(run_folder: Path) -> None:
    """Write heads.csv, report.html and report.md beside heads.jsonl.

    Reads heads.jsonl, and config.json, run.json and calls.jsonl where they are. Raises RunFolderError where
    heads.jsonl is missing or damaged, or where the disk does not take the files (what was there stays).
    """
    folder = Path(run_folder)
    heads = open_heads(folder)
    summary = Summary()
    rows: list[dict[str, Value]] = []
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
    _replace(folder / "heads.csv", heads_csv(rows))
    _replace(folder / "report.md", report_markdown(overview, rows))
    _replace(folder / "report.html", page(overview, entries))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(
            f"cannot write {path} ({error.strerror}). "
            "Make room or check the rights, then run `autointerp report` again."
        ) from None
