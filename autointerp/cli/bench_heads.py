"""`autointerp bench heads`: descriptions of a model's heads beside what was published of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.cli.options import explain_options, run_options
from autointerp.cli.screen import Screen, say
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.pipeline.bench_heads import Asking, TableChoice

TEXT = "describe a model's heads blind and compare with what was published of them"
TEXTS = ("general", "ioi", "greater_than", "acronyms", "docstrings", "sentiment", "sequences")


def heads_options(subparsers: Any) -> None:
    """Its arguments."""
    one = subparsers.add_parser("heads", help=TEXT, description=TEXT[0].upper() + TEXT[1:] + ".")
    add = one.add_argument
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--run", dest="run_folder", metavar="DIR", help="read this run and describe nothing; a language "
        "model (asked about heads by identity alone, and as judge) only if --llm or --base-url is given")  # fmt: skip
    add("--table", metavar="FILE.csv", help="your own table of published heads: columns "
        "model,layer,head,label,role,source,grade (the shipped table)")  # fmt: skip
    add("--as", dest="known_as", default="", metavar="NAME", help="the name under which the table has this model, "
        "where --model is a folder or a copy")  # fmt: skip
    add("--text", default="general", metavar="LIST", help=f"comma-separated, of {','.join(TEXTS)}: what the corpus is "
        "made of; labels that hold on other texts do not count (general)")  # fmt: skip
    add("--out", metavar="DIR", help="folder of the run, bench.json and bench.html (runs/<time>-bench-heads, or the "
        "folder of --run); the same command with the same --out resumes")  # fmt: skip
    run_options(one)
    explain_options(one)
    one.set_defaults(run=bench_heads, retry_failed=False, dry_run=False)


def bench_heads(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Run or read a run, and compare."""
    from autointerp.cli.jobs import resolved_run
    from autointerp.pipeline.bench_heads import TableChoice, published_rows
    from autointerp.pipeline.bench_heads import bench_heads as compared
    from autointerp.pipeline.bench_heads_report import heads_result
    from autointerp.pipeline.bench_heads_run import saved_model

    choice = TableChoice(Path(arguments.table) if arguments.table else None, arguments.known_as,
                         _texts(arguments.text))  # fmt: skip
    screen = Screen()
    asking, code = None, 0
    if arguments.run_folder:
        folder = Path(arguments.run_folder)
        published_rows(saved_model(folder), choice)
        if arguments.llm or arguments.base_url:
            config, settings = resolved_run(arguments, screen)
            asking = (config, settings) if config.explainer == "llm" else None
    else:
        folder, asking, code = _described(arguments, choice, screen)
    if code > 1:
        return code
    out = Path(arguments.out) if arguments.out and arguments.run_folder else folder
    result = heads_result(compared(folder, choice, asking))
    result.write(out)
    for table in result.tables[:-1]:
        say(table.to_markdown())
    say(f"page: {out / 'bench.html'}")
    say(result.last_line())
    return code


def _described(arguments: argparse.Namespace, choice: TableChoice, screen: Screen) -> tuple[Path, Asking | None, int]:
    """The main job on a model of the table; its folder, whom to ask, and the exit code."""
    from autointerp.cli.jobs import resolved_run
    from autointerp.cli.sources import sources_of
    from autointerp.pipeline.bench_heads import checked_sources, published_rows
    from autointerp.pipeline.job import run_job
    from autointerp.pipeline.unit_job import JobOptions

    config, settings = resolved_run(arguments, screen)
    rows = published_rows(config.model, choice)  # before hours of describing
    folder = Path(arguments.out) if arguments.out else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-bench-heads"
    screen.note(f"run folder: {folder}")
    result = run_job(config, checked_sources(sources_of(config), rows), folder, JobOptions(settings), screen)
    screen.close()
    asking = (config, settings) if config.explainer == "llm" else None
    if result.stopped is not None:
        screen.note(f"autointerp: {result.stopped}")
        return folder, asking, result.stopped.exit_code
    return folder, asking, 1 if result.failed else 0


def _texts(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(set(found) - set(TEXTS))
    if unknown or not found:
        raise BadInput(f"--text names {', '.join(unknown) or 'nothing'}; known are {', '.join(TEXTS)}.")
    return found
