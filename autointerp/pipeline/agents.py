"""The loops of a run: every unit is scored once on the select split, and those whose verdict is open get the rounds.

1. The one-shot description of every unit is scored by its laboratory; where that settles the verdict, nothing is asked.
2. The other units run their loops side by side: open verdicts first, then descriptions without a score and refuted
   ones, then those that leave much unexplained. Experiments run one at a time in a thread: they hook one shared model.
3. Loops may use half of the run's budget, so that what they find can still be scored by the judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol

from autointerp.agent.allowance import LoopChat
from autointerp.agent.best_of import BestOf
from autointerp.agent.kind import E, LoopKind
from autointerp.agent.laboratory import LabData
from autointerp.agent.loop import LoopInputs, LoopResult, UnitLoop
from autointerp.agent.spec import LoopSpec
from autointerp.agent.standing import Standing
from autointerp.agent.steps import StepAsker
from autointerp.chat.session import ChatSession
from autointerp.config import RunConfig, Settings
from autointerp.errors import BadInput
from autointerp.evidence.collect import Collected, Progress
from autointerp.explain import Explanation
from autointerp.explain.asked import LanguageSettings
from autointerp.explain.outcome import Explains
from autointerp.llm import CONTEXT, Budget
from autointerp.pipeline.agent_journal import RunJournals
from autointerp.pipeline.benches import Lab, LabBench, Workshop
from autointerp.pipeline.describing import Pace, U, plural, run_together
from autointerp.pipeline.held_out import explain_rows
from autointerp.pipeline.inputs import Inputs
from autointerp.prompting import Templates
from autointerp.records import Description, Provenance, Transcript
from autointerp.scoring.suite import HeldOut
from autointerp.store import RunFolder
from autointerp.tokentext import printable

ORDER: tuple[Standing, ...] = ("open", "unscored", "refuted", "partial", "settled")  # whose rounds come first
SAMPLING = 0.7  # temperature of further one-shot answers
PART = 0.5  # of the run's budget that loops may use
Plain = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Study(Generic[U, E]):
    """What loops are about: the units that have one, with their evidence; their laboratories; the explainer that is
    asked again for the best of several one-shot answers."""

    kind: LoopKind[E]
    evidence: Mapping[U, E]
    laboratory: Callable[[U], Lab]
    explainer: Callable[..., Explains[E]]


@dataclass(frozen=True, eq=False)
class LoopsPlan(Generic[U, E]):
    """What the loops of a run work with; `donors` maps each unit to the one whose experiments answer it."""

    study: Study[U, E]
    asker: StepAsker
    journals: RunJournals
    spec: LoopSpec
    pace: Pace
    donors: Mapping[U, U]
    workshop: Workshop[U]
    told: bool = False  # each turn is told as it happens, where there is one unit to follow
    samples: Sequence[Explains[E]] = ()  # for the best of several one-shot answers, in place of rounds


@dataclass(frozen=True, eq=False)
class Asking:
    """Who is asked, and how: the same for all loops of a run."""

    run: RunFolder
    config: RunConfig
    settings: Settings
    session: ChatSession
    templates: Templates
    pace: Pace


def loops_plan(study: Study[U, E], asking: Asking) -> LoopsPlan[U, E]:
    """The loops of a run, as its config has them."""
    config = asking.config
    asker = step_asker(config, asking.settings, asking.session, asking.templates)
    return LoopsPlan(
        study,
        asker,
        RunJournals(asking.run),
        LoopSpec(rounds=config.agent_plan.rounds),
        asking.pace,
        shuffled(list(study.evidence)) if config.agent_plan.shuffled else {},
        Workshop(study.laboratory),
        told=len(study.evidence) == 1,
        samples=sample_explainers(study, asking, asker.chat),
    )


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


def sample_explainers(study: Study[U, E], asking: Asking, chat: LoopChat) -> tuple[Explains[E], ...]:
    """Explainers for the further answers of `best_of=K`: other seeds, and not at temperature 0, where all are equal."""
    config, session = asking.config, asking.session
    settings = LanguageSettings(
        config.max_reply_tokens, max(config.temperature, SAMPLING), config.seed, config.instruction
    )
    found, room = session.capabilities, session.room
    return tuple(
        study.explainer(chat, found, asking.templates, settings, dict.fromkeys(study.evidence, draw), room)
        for draw in range(1, config.agent_plan.best_of)
    )


def shuffled(units: Sequence[U]) -> dict[U, U]:
    """For each unit another one far from it: units in order, half the list away. Raises BadInput for a single unit."""
    if len(units) == 1:
        raise BadInput(
            f"`--agent shuffled` answers a unit with experiments on another one, but only {units[0]} is studied. "
            "Select two or more, or leave out `shuffled`."
        )
    ordered = sorted(units)
    shift = max(1, len(ordered) // 2)
    return {unit: ordered[(place + shift) % len(ordered)] for place, unit in enumerate(ordered)}


def check_donors(config: RunConfig, units: Sequence[U]) -> None:
    """Refuse `shuffled` for a single unit before anything is asked. Raises BadInput."""
    if config.agent_plan.shuffled:
        shuffled(units)


class LoopState(Protocol[U]):
    """What loops change of a run's state."""

    descriptions: dict[U, Explanation]
    transcripts: dict[U, Transcript]
    notes: list[str]


async def run_study(study: Study[U, E], asking: Asking, state: LoopState[U], progress: Progress) -> None:
    """Replace the one-shot descriptions of a run by what the agent makes of them, and note what it did."""
    await run_loops(loops_plan(study, asking), state.descriptions, state.transcripts, progress)
    state.notes.append(told(state.transcripts))


async def run_loops(
    plan: LoopsPlan[U, E],
    explanations: dict[U, Explanation],
    transcripts: dict[U, Transcript],
    progress: Progress,
) -> None:
    """Replace descriptions by those that their loops ended with; `transcripts` fills as it goes. BudgetExceeded and
    ServerError pass through, with what every loop has found until then in place."""
    described = {
        unit: e.outcome
        for unit, e in sorted(explanations.items())
        if unit in plan.study.evidence and isinstance(e.outcome, Description)
    }
    loops: dict[U, UnitLoop[E]] = {}
    benches: dict[U, tuple[LabBench[U], LabBench[U]]] = {}

    def close(unit: U) -> None:
        for bench in benches[unit]:
            bench.close()

    def keep(unit: U, result: LoopResult) -> None:
        transcripts[unit] = result.transcript
        explanations[unit] = explanations[unit].model_copy(update={"outcome": result.description})

    for place, unit in enumerate(described):
        benches[unit] = _benches(plan, unit)
        inputs = _inputs(plan, benches[unit], described[unit], explanations[unit].provenance, progress)
        loops[unit] = BestOf(inputs, plan.samples) if plan.samples else UnitLoop(inputs)
        await loops[unit].begin()
        close(unit)
        progress("scoring one-shot descriptions on the select split", place + 1, len(described))
    waiting = [unit for unit in described if not loops[unit].over]
    waiting.sort(key=lambda unit: (ORDER.index(loops[unit].standing), unit))
    for unit in set(described) - set(waiting):
        keep(unit, loops[unit].result())
    done: list[U] = []

    async def one(unit: U) -> None:
        try:
            await loops[unit].run()
        finally:
            keep(unit, loops[unit].result())
            close(unit)
        done.append(unit)
        progress("running loops", len(done), len(waiting))

    await run_together([partial(one, unit) for unit in waiting], plan.pace)


def told(transcripts: Mapping[U, Transcript]) -> str:
    """What the loops did, in one line for the user."""
    looped = [t for t in transcripts.values() if len(t.turns) > 1]
    replaced = sum(t.chosen != "one shot" and not _said_nothing(t) for t in looped)
    ran = sum(not e.error and not e.repeated for t in looped for turn in t.turns for e in turn.experiments)
    noun = plural(next(iter(transcripts))) if transcripts else "units"
    too_long = sum(turn.failure.startswith(f"{CONTEXT}: ") for t in looped for turn in t.turns)
    advice = f"; {too_long} steps did not fit the server's context: start it with a larger one" if too_long else ""
    return (
        f"agent: the verdict of {len(looped)} of {len(transcripts)} {noun} was open after one shot; "
        f"{ran} experiments; {replaced} descriptions were replaced{advice}"
    )


def _said_nothing(transcript: Transcript) -> bool:
    """Whether the model abstained at first and in the end."""
    first = transcript.one_shot
    return transcript.chosen == "abstained" and first is not None and first.abstained


def _benches(plan: LoopsPlan[U, E], unit: U) -> tuple[LabBench[U], LabBench[U]]:
    """For the scores of a unit, and for the experiments that are asked for about it."""
    own, donor = plan.workshop.bench(unit), plan.donors.get(unit, unit)
    return own, own if donor == unit else plan.workshop.bench(donor)


def _inputs(
    plan: LoopsPlan[U, E],
    benches: tuple[LabBench[U], LabBench[U]],
    one_shot: Description,
    provenance: Provenance,
    progress: Progress,
) -> LoopInputs[E]:
    scores, bench = benches

    def note(text: str) -> None:
        if plan.told:
            progress(" ".join(printable(text).split()), 0, 0)  # a model wrote parts of it

    return LoopInputs(
        kind=plan.study.kind,
        evidence=plan.study.evidence[scores.unit],
        one_shot=one_shot,
        provenance=provenance,
        asker=plan.asker,
        bench=bench,
        scores=scores,
        journal=plan.journals.of(scores.unit, one_shot),
        spec=plan.spec,
        note=note,
    )
