"""The judge asked again on a tenth of the heads, after everything else: what a budget stops here costs no score."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from statistics import fmean

from autointerp.evidence.collect import Progress
from autointerp.pipeline.describing import run_together
from autointerp.pipeline.llm_scores import LLM_SCORERS, LlmScoring, Scored, order_heads, scorers
from autointerp.records import Head, Score
from autointerp.scoring.asking import Asker
from autointerp.scoring.judging import ORDER_LIMIT, Case, Reader, ask_second, judge_again


async def repeat_judge(scoring: LlmScoring, into: Scored, progress: Progress) -> list[str]:
    """Repeats in other orders for the scores of the seeded tenth; single items where the order matters too much.
    Returns a note for each scorer that fell back."""

    async def again(head: Head, name: str, case: Case) -> None:
        into[head][name] = await judge_again(_reader(scoring, case, scoring.asker), case)

    await _all(scoring, into, again, partial(progress, "asking again in other orders"))
    return [note for name in LLM_SCORERS if (note := _note(name, scoring, into))]


async def ask_second_judge(scoring: LlmScoring, second: Asker, model: str, into: Scored, progress: Progress) -> None:
    """The same items asked once of another model."""

    async def once(head: Head, name: str, case: Case) -> None:
        first, other = (_reader(scoring, case, asker) for asker in (scoring.asker, second))
        into[head][name] = await ask_second(first, other, case, model)

    await _all(scoring, into, once, partial(progress, "asking the second judge"))


async def _all(
    scoring: LlmScoring,
    into: Scored,
    job: Callable[[Head, str, Case], Awaitable[None]],
    progress: Callable[[int, int], None],
) -> None:
    cases = [(head, name, _case(scoring, head, s)) for name in LLM_SCORERS for head, s in _some(scoring, into, name)]
    done: list[Head] = []

    async def one(head: Head, name: str, case: Case) -> None:
        await job(head, name, case)
        done.append(head)
        progress(len(done), len(cases))

    await run_together([partial(one, *case) for case in cases], scoring.pace)


def _some(scoring: LlmScoring, into: Scored, name: str) -> list[tuple[Head, Score]]:
    """The seeded tenth of the heads, of those that one scorer gave a score, with it."""
    found = {head: s for head, scores in into.items() if isinstance(s := scores.get(name), Score)}
    return [(head, found[head]) for head in sorted(order_heads(scoring.heads, scoring.config.seed, found))]


def _case(scoring: LlmScoring, head: Head, score: Score) -> Case:
    description = scoring.described[head]
    return Case(head, description, scoring.items[description.domain].of(score.scorer, head), score)


def _reader(scoring: LlmScoring, case: Case, asker: Asker) -> Reader:
    rows = scoring.items[case.description.domain].rows
    return scorers(scoring.config, asker, scoring.strings, rows)[case.score.scorer]


def _note(name: str, scoring: LlmScoring, into: Scored) -> str:
    """What a reader must know where a scorer's answers depend on the order of the items."""
    scores = [score for _, score in _some(scoring, into, name)]
    effects = [effect for s in scores if isinstance(effect := s.details.get("order_effect"), float)]
    fell = [s for s in scores if "single_items" in s.details]
    if not fell:
        return ""
    calls = sum(int(s.details["single_items"] or 0) for s in fell)
    changes = [s.value - before for s in fell if isinstance(before := s.details.get("batched_value"), float)]
    changed = f" and changed their scores by {fmean(changes):+.2f} in the mean" if changes else ""
    return (
        f"{name}: the answers depend on the order of the items (mean |e - e'| up to {max(effects):.2f}, above "
        f"{ORDER_LIMIT} on {len(fell)} of the {len(scores)} asked again). Where it is above, each item was asked by "
        f"itself: {calls} calls more{changed}. All other values come from batches: compare them with care."
    )
