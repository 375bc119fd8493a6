"""Descriptions of all units, each stored as soon as it is there; a rerun asks only for what is missing.

`cache/descriptions.jsonl` holds one line a unit (the last wins). A failed one is not asked again unless
`retry_failed`. More than 20 % failures, and more than 10, end the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from autointerp.errors import TooManyFailures
from autointerp.evidence.collect import Progress
from autointerp.explain import Explanation
from autointerp.records import Failure, Feature, Head, Record
from autointerp.store import RunFolder, read_as

DESCRIPTIONS = "cache/descriptions.jsonl"
MAX_FAILED, MAX_FAILED_SHARE = 10, 0.2
U = TypeVar("U", Head, Feature)


class DescribedHead(Record):
    """A line of `cache/descriptions.jsonl` of a run over heads."""

    head: Head
    explanation: Explanation


class DescribedFeature(Record):
    """A line of `cache/descriptions.jsonl` of a run over neurons or latents."""

    unit: Feature
    explanation: Explanation


def stored_descriptions(run: RunFolder, kind: type[U], *, retry_failed: bool) -> dict[U, Explanation]:
    """What earlier processes of this run described; without the failures where they are to be tried again."""
    found = dict(_lines(run, kind))
    if not retry_failed:
        return found
    return {unit: e for unit, e in found.items() if not isinstance(e.outcome, Failure)}


def used_up(run: RunFolder, kind: type[U]) -> dict[U, int]:
    """How often each unit got all its replies and none was valid: asking the same again would give the same."""
    found: Counter[U] = Counter()
    for unit, explanation in _lines(run, kind):
        if isinstance(explanation.outcome, Failure) and explanation.provenance.repairs:
            found[unit] += 1
    return dict(found)


def _lines(run: RunFolder, kind: type[U]) -> Iterator[tuple[U, Explanation]]:
    described: type[DescribedHead] | type[DescribedFeature] = DescribedHead if kind is Head else DescribedFeature
    for read in read_as(run.path(DESCRIPTIONS), described):
        unit = read.head if isinstance(read, DescribedHead) else read.unit
        if isinstance(unit, kind):
            yield unit, read.explanation


async def describe_units(
    run: RunFolder,
    explain: Callable[[U], Awaitable[Explanation]],
    units: Sequence[U],
    done: dict[U, Explanation],
    progress: Progress,
    pace: Pace,
) -> None:
    """Fill `done` for all of `units`; raises TooManyFailures, BudgetExceeded or ServerError with what is done kept."""

    async def one(unit: U) -> None:
        explanation = await explain(unit)
        line: Record = (
            DescribedHead(head=unit, explanation=explanation)
            if isinstance(unit, Head)
            else DescribedFeature(unit=unit, explanation=explanation)
        )
        run.append(DESCRIPTIONS, line)
        done[unit] = explanation
        progress("describing", len(done), len(units))
        check_failures(done, len(units))

    check_failures(done, len(units))
    await run_together([partial(one, unit) for unit in units if unit not in done], pace)


@dataclass(frozen=True)
class Pace:
    """How many jobs run at once, and how many seconds those under way get to end after one stopped the run."""

    concurrency: int
    patience: float


async def run_together(jobs: Sequence[Callable[[], Awaitable[None]]], pace: Pace) -> None:
    """Run jobs together. After the first error no further job starts; those under way may end (their replies are
    paid for), then the error is raised as itself. A cancellation ends all of them at once."""
    waiting = deque(jobs)

    async def work() -> None:
        while waiting:
            await waiting.popleft()()

    workers = [asyncio.ensure_future(work()) for _ in range(min(pace.concurrency, len(jobs)))]
    if not workers:
        return
    try:
        done, under_way = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        waiting.clear()
        if under_way:
            await asyncio.wait(under_way, timeout=pace.patience)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    for worker in done:
        worker.result()


def check_failures(done: Mapping[U, Explanation], total: int) -> None:
    """The stop rule of scoring_validity rule 16."""
    failed = [unit for unit, e in done.items() if isinstance(e.outcome, Failure)]
    if len(failed) > max(MAX_FAILED, MAX_FAILED_SHARE * total):
        first = done[failed[0]].outcome
        reason = first.reason if isinstance(first, Failure) else ""
        raise TooManyFailures(
            f"{len(failed)} of {total} {plural(failed[0])} failed, more than a fifth; the first: {failed[0]}: "
            f"{reason[:200]} What was done is kept. Correct the cause and run the same command with --retry-failed."
        )


def plural(unit: Head | Feature) -> str:
    """What several units of the kind are called."""
    return "heads" if isinstance(unit, Head) else f"{unit.kind}s"
