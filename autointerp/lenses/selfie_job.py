"""A batch of texts to a CSV that grows row by row: what was written stays, and the same call goes on from there.

The rows of one layer of a text are computed together and written one by one; where all are in the file they are
skipped, where some are they are computed again in the same batches, so that the file does not depend on the cut. Rows
are known by an id over model, text, place, prompt and settings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autointerp.errors import BadInput
from autointerp.lenses.reference import REFERENCE_TEXTS
from autointerp.lenses.selfie import Interpreter
from autointerp.lenses.selfie_records import COLUMNS, SelfieRow, SelfieTable
from autointerp.lenses.selfie_run import Progress
from autointerp.lenses.selfie_texts import ReadPlan, SourceText, text_sources
from autointerp.lenses.sources import Pool, Source, read_pool
from autointerp.model.sites import Site
from autointerp.store.files import append_line, disk_errors


@dataclass(frozen=True)
class JobSummary:
    """Rows written now, rows that were in the file, and how many of the new ones are `specific`."""

    written: int
    found: int
    specific: int


def run_job(
    interpreter: Interpreter,
    texts: Sequence[SourceText],
    plan: ReadPlan,
    out: Path,
    progress: Progress | None = None,
) -> JobSummary:
    """Read all texts into `out`. Raises BadInput for a file with other columns, RunFolderError for a full disk."""
    done = prepare(out)
    written = specific = 0
    for rows in _groups(interpreter, texts, plan, done, progress):
        for row in rows:
            if row.row_id in done:
                continue
            append_line(out, SelfieTable((row,)).to_csv().splitlines()[1].encode("utf-8"))
            written += 1
            specific += row.verdict == "specific"
    return JobSummary(written, len(done), specific)


def prepare(out: Path) -> set[str]:
    """Make the file with its header where there is none, cut off a torn last line, and return the ids of its rows."""
    header = ",".join(COLUMNS)
    if not out.exists() or out.stat().st_size == 0:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
        append_line(out, header.encode())
        return set()
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    text = whole.decode("utf-8", errors="replace")
    if text.split("\n", 1)[0] != header:
        raise BadInput(f"{out} is there and has other columns. Choose another --out.")
    if len(whole) < len(data):
        with disk_errors(out), out.open("r+b") as file:
            file.truncate(len(whole))
    return {line["row_id"] for line in csv.DictReader(io.StringIO(text, newline=""))}


def _groups(
    interpreter: Interpreter,
    texts: Sequence[SourceText],
    plan: ReadPlan,
    done: set[str],
    progress: Progress | None,
) -> Iterator[list[SelfieRow]]:
    """Rows of one layer of one text at a time."""
    pools: dict[str, Pool] = {}
    for number, text in enumerate(texts):
        if progress:
            progress("reading texts", number, len(texts))
        by_site: dict[str, list[Source]] = {}
        for source in text_sources(interpreter.model, text, plan):
            by_site.setdefault(source.site, []).append(source)
        for site, sources in by_site.items():
            if all(set(interpreter.row_ids(source)) <= done for source in sources):
                continue
            if site not in pools:
                pools[site] = read_pool(interpreter.model, Site.parse(site), REFERENCE_TEXTS)
            yield interpreter.interpret(sources, pools[site])
    if progress:
        progress("reading texts", len(texts), len(texts))
