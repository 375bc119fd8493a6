"""The judge asked again on a tenth of the units, after everything else: what a budget stops here costs no score."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from statistics import fmean

from autointerp.evidence.collect import Progress
from autointerp.pipeline.describing import U, run_together
from autointerp.pipeline.llm_scores import ByScorer, LlmScoring, order_units
from autointerp.records import Score
from autointerp.scoring.asking import Asker
from autointerp.scoring.judging import ORDER_LIMIT, Case, Reader, ask_second, judge_again


async def repeat_judge(scoring: LlmScoring[U], into: dict[U, ByScorer], progress: Progress) -> list[str]:
    """Repeats in other orders for the scores of the seeded tenth; single items where the order matters too much.
    Returns a note for each scorer that fell back."""

    async def again(unit: U, name: str, case: Case) -> None:
        into[unit][name] = await judge_again(_reader(scoring, case, scoring.asker), case)

    await _all(scoring, into, again, partial(progress, "asking again in other orders"))
    return [note for name in scoring.names if (note := _note(name, scoring, into))]


async def ask_second_judge(
    scoring: LlmScoring[U], second: Asker, model: str, into: dict[U, ByScorer], progress: Progress
) -> None:
    """The same items asked once of another model."""

    async def once(unit: U, name: str, case: Case) -> None:
        first, other = (_reader(scoring, case, asker) for asker in (scoring.asker, second))
        into[unit][name] = await ask_second(first, other, case, model)

    await _all(scoring, into, once, partial(progress, "asking the second judge"))


async def _all(
    scoring: LlmScoring[U],
    into: dict[U, ByScorer],
    job: Callable[[U, str, Case], Awaitable[None]],
    progress: Callable[[int, int], None],
) -> None:
    cases = [(unit, name, _case(scoring, unit, s)) for name in scoring.names for unit, s in _some(scoring, into, name)]
    done: list[U] = []

    async def one(unit: U, name: str, case: Case) -> None:
        await job(unit, name, case)
        done.append(unit)
        progress(len(done), len(cases))

    await run_together([partial(one, *case) for case in cases], scoring.pace)


def _some(scoring: LlmScoring[U], into: dict[U, ByScorer], name: str) -> list[tuple[U, Score]]:
    """The seeded tenth of the units, of those that one scorer gave a score, with it."""
    found = {unit: s for unit, scores in into.items() if isinstance(s := scores.get(name), Score)}
    return [(unit, found[unit]) for unit in sorted(order_units(scoring.units, scoring.config.seed, found))]


def _case(scoring: LlmScoring[U], unit: U, score: Score) -> Case:
    description = scoring.described[unit]
    return Case(unit, description, scoring.desks[description.domain].items(score.scorer, unit), score)


def _reader(scoring: LlmScoring[U], case: Case, asker: Asker) -> Reader:
    return scoring.desks[case.description.domain].scorers(asker)[case.score.scorer]


def _note(name: str, scoring: LlmScoring[U], into: dict[U, ByScorer]) -> str:
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
