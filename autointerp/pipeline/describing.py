"""Descriptions of all heads, each stored as soon as it is there; a rerun asks only for what is missing.

`cache/descriptions.jsonl` holds one line a head (the last wins). A failed head is not asked again unless
`retry_failed`. More than 20 % failures, and more than 10, end the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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


async def describe_heads(
    run: RunFolder,
    explainer: Explainer,
    collected: Collected,
    heads: Sequence[Head],
    done: dict[Head, Explanation],
    progress: Progress,
    concurrency: int,
) -> None:
    """Fill `done` for all of `heads`; raises TooManyFailures, BudgetExceeded or ServerError with what is done kept."""
    waiting = [head for head in heads if head not in done]
    gate = asyncio.Semaphore(concurrency)

    async def one(head: Head) -> None:
        async with gate:
            explanation = await explainer.explain(collected.evidence[head])
        run.append(DESCRIPTIONS, DescribedHead(head=head, explanation=explanation))
        done[head] = explanation
        progress("describing", len(done), len(heads))
        check_failures(done, len(heads))

    await run_together([one(head) for head in waiting])


async def run_together(work: Sequence[object]) -> None:
    """Run coroutines together; the first error cancels the others and is raised as itself."""
    tasks = [asyncio.ensure_future(part) for part in work]  # type: ignore[call-overload]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
