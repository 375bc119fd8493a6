"""The loops of a run: every head is scored once on the select split, and those whose verdict is open get the rounds.

1. The one-shot description of every head is scored by its laboratory; where that settles the verdict, nothing is asked.
2. The other heads run their loops side by side: open verdicts first, then descriptions without a score and refuted
   ones, then those that leave much unexplained. Experiments run one at a time in a thread: they hook one shared model.
3. Loops may use half of the run's budget, so that what they find can still be scored by the judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autointerp.agent.allowance import LoopChat
from autointerp.agent.best_of import BestOf
from autointerp.agent.laboratory import LabData, Laboratory
from autointerp.agent.loop import HeadLoop, LoopInputs, LoopResult
from autointerp.agent.requests import Request
from autointerp.agent.spec import LoopSpec
from autointerp.agent.standing import Standing
from autointerp.agent.steps import StepAsker
from autointerp.chat.session import ChatSession
from autointerp.config import RunConfig, Settings
from autointerp.evidence.collect import Collected, Progress
from autointerp.explain import Explainer, Explanation, LanguageExplainer
from autointerp.explain.language import LanguageSettings
from autointerp.llm import Budget
from autointerp.model import LanguageModel
from autointerp.pipeline.agent_journal import RunJournals
from autointerp.pipeline.describing import Pace, run_together
from autointerp.pipeline.held_out import explain_rows
from autointerp.pipeline.inputs import Inputs
from autointerp.prompting import Templates
from autointerp.records import Description, Evidence, Head, Provenance, Transcript
from autointerp.scoring.suite import HeldOut
from autointerp.tokentext import printable

ORDER: tuple[Standing, ...] = ("open", "unscored", "refuted", "partial", "settled")  # whose rounds come first
SAMPLING = 0.7  # temperature of further one-shot answers
PART = 0.5  # of the run's budget that loops may use
Plain = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Workshop:
    """Hands out the benches of a run's heads; experiments of all of them run one after the other."""

    model: LanguageModel
    evidence: Mapping[Head, Evidence]
    data: LabData
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def bench(self, head: Head) -> LabBench:
        """A bench for the experiments on one head."""
        return LabBench(head, lambda: Laboratory(self.model, head, self.evidence[head], self.data), self.lock)


class LabBench:
    """See `agent.loop.Bench`: a laboratory that works in a thread while it is its turn, and is made when needed: what
    it holds of its own (masks, sums) would be too much for all heads of a large model."""

    def __init__(self, head: Head, make: Callable[[], Laboratory], lock: asyncio.Lock) -> None:
        self.head = head
        self._make, self._lock = make, lock
        self._laboratory: Laboratory | None = None

    async def run(self, request: Request) -> Plain:
        """See `agent.loop.Bench.run`."""
        async with self._lock:
            self._laboratory = self._laboratory or self._make()
            return await asyncio.to_thread(self._laboratory.run, request)

    def close(self) -> None:
        """Let the laboratory go; what it read stays in `LabData.kept` as long as it fits."""
        self._laboratory = None


@dataclass(frozen=True, eq=False)
class LoopsPlan:
    """What the loops of a run work with; `donors` maps each head to the one whose experiments answer it."""

    workshop: Workshop
    asker: StepAsker
    journals: RunJournals
    spec: LoopSpec
    pace: Pace
    donors: Mapping[Head, Head]
    told: bool = False  # each turn is told as it happens, where there is one head to follow
    samples: Sequence[Explainer] = ()  # for the best of several one-shot answers, in place of rounds


def allowance(session: ChatSession, settings: Settings) -> Budget:
    """The part of the run's budget that loops may use; none is set where the run has none."""
    usd, tokens = settings.budget_usd, settings.budget_tokens
    part = Budget(
        session.budget.prices,
        usd=None if usd is None else PART * usd,
        tokens=None if tokens is None else int(PART * tokens),
    )
    part.expect(session.capabilities.token_ratio)
    return part


def lab_data(inputs: Inputs, collected: Collected, held_out: HeldOut, seed: int, settings: Settings) -> LabData:
    """What experiments may read: explain and select rows."""
    return LabData.of(
        inputs.model,
        explain_rows(inputs),
        held_out.select,
        collected.z_mean,
        seed=seed,
        batch_size=settings.batch_size,
    )


def step_asker(config: RunConfig, settings: Settings, session: ChatSession, source: Templates) -> StepAsker:
    """Asks the loops' questions as the explainer asks its own."""
    return StepAsker(
        LoopChat(session.chat, allowance(session, settings)),
        session.capabilities,
        source,
        config.temperature,
        config.seed,
        session.room,
        config.instruction,
    )


def sample_explainers(
    config: RunConfig, session: ChatSession, source: Templates, heads: Sequence[Head]
) -> tuple[LanguageExplainer, ...]:
    """Explainers for the further answers of `best_of=K`: other seeds, and not at temperature 0, where all are equal."""
    settings = LanguageSettings(
        config.max_reply_tokens, max(config.temperature, SAMPLING), config.seed, config.instruction
    )
    chat, found, room = session.chat, session.capabilities, session.room
    return tuple(
        LanguageExplainer(chat, found, source, settings, dict.fromkeys(heads, draw), room)
        for draw in range(1, config.agent_plan.best_of)
    )


def shuffled(heads: Sequence[Head]) -> dict[Head, Head]:
    """For each head another one far from it: heads in order, half the list away."""
    ordered = sorted(heads)
    shift = max(1, len(ordered) // 2)
    return {head: ordered[(place + shift) % len(ordered)] for place, head in enumerate(ordered)}


async def run_loops(
    plan: LoopsPlan,
    explanations: dict[Head, Explanation],
    transcripts: dict[Head, Transcript],
    progress: Progress,
) -> None:
    """Replace descriptions by those that their loops ended with; `transcripts` fills as it goes. BudgetExceeded and
    ServerError pass through, with what every loop has found until then in place."""
    described = {h: e.outcome for h, e in sorted(explanations.items()) if isinstance(e.outcome, Description)}
    loops: dict[Head, HeadLoop] = {}
    benches: dict[Head, tuple[LabBench, LabBench]] = {}

    def close(head: Head) -> None:
        for bench in benches[head]:
            bench.close()

    def keep(head: Head, result: LoopResult) -> None:
        transcripts[head] = result.transcript
        explanations[head] = explanations[head].model_copy(update={"outcome": result.description})

    for place, head in enumerate(described):
        benches[head] = _benches(plan, head)
        inputs = _inputs(plan, benches[head], described[head], explanations[head].provenance, progress)
        loops[head] = BestOf(inputs, plan.samples) if plan.samples else HeadLoop(inputs)
        await loops[head].begin()
        close(head)
        progress("scoring one-shot descriptions on the select split", place + 1, len(described))
    waiting = [head for head in described if not loops[head].over]
    waiting.sort(key=lambda head: (ORDER.index(loops[head].standing), head))
    for head in set(described) - set(waiting):
        keep(head, loops[head].result())
    done: list[Head] = []

    async def one(head: Head) -> None:
        try:
            await loops[head].run()
        finally:
            keep(head, loops[head].result())
            close(head)
        done.append(head)
        progress("running loops", len(done), len(waiting))

    await run_together([partial(one, head) for head in waiting], plan.pace)


def told(transcripts: Mapping[Head, Transcript]) -> str:
    """What the loops did, in one line for the user."""
    looped = [t for t in transcripts.values() if len(t.turns) > 1]
    replaced = sum(t.chosen != "one shot" for t in looped)
    ran = sum(not e.error and not e.repeated for t in looped for turn in t.turns for e in turn.experiments)
    return (
        f"agent: the verdict of {len(looped)} of {len(transcripts)} heads was open after one shot; "
        f"{ran} experiments; {replaced} descriptions were replaced"
    )


def _benches(plan: LoopsPlan, head: Head) -> tuple[LabBench, LabBench]:
    """For the scores of a head, and for the experiments that are asked for about it."""
    own, donor = plan.workshop.bench(head), plan.donors.get(head, head)
    return own, own if donor == head else plan.workshop.bench(donor)


def _inputs(
    plan: LoopsPlan,
    benches: tuple[LabBench, LabBench],
    one_shot: Description,
    provenance: Provenance,
    progress: Progress,
) -> LoopInputs:
    scores, bench = benches

    def note(text: str) -> None:
        if plan.told:
            progress(" ".join(printable(text).split()), 0, 0)  # a model wrote parts of it

    return LoopInputs(
        evidence=plan.workshop.evidence[scores.head],
        one_shot=one_shot,
        provenance=provenance,
        asker=plan.asker,
        bench=bench,
        scores=scores,
        journal=plan.journals.of(scores.head, one_shot),
        spec=plan.spec,
        note=note,
    )
