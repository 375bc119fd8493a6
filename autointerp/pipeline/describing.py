"""Descriptions of all heads, each stored as soon as it is there; a rerun asks only for what is missing.

`cache/descriptions.jsonl` holds one line a head (the last wins). A failed head is not asked again unless
`retry_failed`. More than 20 % failures, and more than 10, end the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from autointerp.errors import TooManyFailures
from autointerp.evidence.collect import Collected, Progress
from autointerp.explain import Explainer, Explanation
from autointerp.records import Failure, Head, Record
from autointerp.store import RunFolder

DESCRIPTIONS = "cache/descriptions.jsonl"
MAX_FAILED, MAX_FAILED_SHARE = 10, 0.2


class DescribedHead(Record):
    """A line of `cache/descriptions.jsonl`."""

    head: Head
    explanation: Explanation


def stored_descriptions(run: RunFolder, *, retry_failed: bool) -> dict[Head, Explanation]:
    """What earlier processes of this run described; without the failures where they are to be tried again."""
    lines = map(DescribedHead.model_validate, run.read(DESCRIPTIONS))
    found = {line.head: line.explanation for line in lines}
    if not retry_failed:
        return found
    return {head: e for head, e in found.items() if not isinstance(e.outcome, Failure)}


def used_up(run: RunFolder) -> dict[Head, int]:
    """How often each head got all its replies and none was valid: asking the same again would give the same."""
    found: Counter[Head] = Counter()
    for line in map(DescribedHead.model_validate, run.read(DESCRIPTIONS)):
        if isinstance(line.explanation.outcome, Failure) and line.explanation.provenance.repairs:
            found[line.head] += 1
    return dict(found)


async def describe_heads(
    run: RunFolder,
    explainer: Explainer,
    collected: Collected,
    heads: Sequence[Head],
    done: dict[Head, Explanation],
    progress: Progress,
    pace: Pace,
) -> None:
    """Fill `done` for all of `heads`; raises TooManyFailures, BudgetExceeded or ServerError with what is done kept."""

    async def one(head: Head) -> None:
        explanation = await explainer.explain(collected.evidence[head])
        run.append(DESCRIPTIONS, DescribedHead(head=head, explanation=explanation))
        done[head] = explanation
        progress("describing", len(done), len(heads))
        check_failures(done, len(heads))

    check_failures(done, len(heads))
    await run_together([partial(one, head) for head in heads if head not in done], pace)


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


def check_failures(done: dict[Head, Explanation], total: int) -> None:
    """The stop rule of scoring_validity rule 16."""
    failed = [head for head, e in done.items() if isinstance(e.outcome, Failure)]
    if len(failed) > max(MAX_FAILED, MAX_FAILED_SHARE * total):
        first = done[failed[0]].outcome
        reason = first.reason if isinstance(first, Failure) else ""
        raise TooManyFailures(
            f"{len(failed)} of {total} heads failed, more than a fifth; the first: {failed[0]}: {reason[:200]} "
            "What was done is kept. Correct the cause and run the same command with --retry-failed."
        )
