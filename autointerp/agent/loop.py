"""One unit's loop: hypotheses, experiments, revision, until more work would not change the verdict.

1. The one-shot description is the first hypothesis. It and k - 1 others are scored on the select split, for free.
2. A round: the language model asks for a few experiments of the closed set, they are run, and it revises its claims (or
   abstains); each claim is scored alone, and all together as the description.
3. The best description on the select split is kept, of a revision each claim alone or all together: a settled one
   before an open one, an open one before a revision without a score, that before a refuted one; then the higher score.
   A revision with the rule of the best takes its place, since it was written with more in hand.
4. It stops when the interval is decided, after two rounds without gain, at the last round, when tokens or money are
   used up, when the same experiment was asked for again twice, when two steps gave no valid reply, or on abstention.

Every turn is kept in the journal before the next begins. The test split is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from autointerp.agent.allowance import AllowanceSpent
from autointerp.agent.claims import Claim, together
from autointerp.agent.clipping import clipped
from autointerp.agent.journal import ASKED, Journal, request_key
from autointerp.agent.kind import E, LoopKind
from autointerp.agent.requests import Request, RequestError
from autointerp.agent.spec import LoopSpec
from autointerp.agent.standing import Standing, standing_of
from autointerp.agent.state import LoopState
from autointerp.agent.steps import (
    Material,
    Reply,
    Step,
    StepAsker,
    experiments_step,
    hypotheses_step,
    revision_step,
)
from autointerp.agent.telling import told_turn
from autointerp.agent.tool_schemas import tools_shown
from autointerp.agent.view import history_view
from autointerp.records import Description, Experiment, Failure, Hypothesis, Provenance, Transcript, Turn

OVER = 3  # times as many experiments as a round may have are kept of a reply, as refused
SHOWN_ARGUMENTS = 2_000
Plain = dict[str, Any]
T = TypeVar("T")


class Bench(Protocol):
    """Runs experiments on one unit."""

    async def run(self, request: Request) -> Plain:
        """Numbers, or `{"error": ...}`."""
        ...


@dataclass(frozen=True)
class LoopInputs(Generic[E]):
    """Everything that one unit's loop works with; `scores` answers the loop's own scoring, `bench` the model's
    experiments. `asker` None: nothing is asked, and the one-shot description is only scored."""

    kind: LoopKind[E]
    evidence: E
    one_shot: Description
    provenance: Provenance
    asker: StepAsker
    bench: Bench
    scores: Bench
    journal: Journal
    spec: LoopSpec
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class LoopResult:
    """The description that is kept, and how it came about."""

    description: Description
    transcript: Transcript


class UnitLoop(Generic[E]):
    """The loop of one unit: `begin`, then `run` unless it is `over`. `result` is there at any time after `begin`."""

    def __init__(self, inputs: LoopInputs[E]) -> None:
        self._inputs: LoopInputs[E] = inputs
        self._kind: LoopKind[E] = inputs.kind
        self._spec = inputs.spec
        self._state = LoopState()
        self._end = ""
        self._stored = list(inputs.journal.turns())

    async def begin(self) -> None:
        """Score the one-shot description; nothing is asked."""
        await self._turn(self._one_shot)
        self._end = self._state.stop(self._spec)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self._end)

    @property
    def standing(self) -> Standing:
        """Of the best description so far."""
        return "unscored" if self._state.best is None else self._state.best.standing

    async def run(self) -> None:
        """Work until a stop rule holds. BudgetExceeded and ServerError pass through, with all turns kept."""
        try:
            self._end = await self._work()
        except AllowanceSpent as spent:
            self._end = f"the budget of the loops is used up: {spent}"

    async def _work(self) -> str:
        if self._spec.k > 1:
            await self._turn(self._hypotheses)
        stop = self._state.stop(self._spec)
        for number in range(1, self._spec.rounds + 1):
            if stop:
                return stop
            await self._turn(self._experiments, number)
            stop = self._state.stop(self._spec)
            if not stop:
                await self._turn(self._revision, number)
                stop = self._state.stop(self._spec)
        return stop or f"all {self._spec.rounds} rounds are used"

    async def _turn(self, step: Callable[[int], Any], number: int = 0) -> None:
        """One turn: from the journal where it was done before, else made and kept."""
        place = len(self._state.turns)
        if place < len(self._stored):
            turn = self._stored[place]
            if turn.step != "one_shot":
                self._inputs.asker.chat.count(turn.prompt_tokens, turn.completion_tokens)
        else:
            turn = await step(number)
            self._inputs.journal.add_turn(turn)
        self._state = self._state.after(turn)
        self._inputs.note(told_turn(turn))

    async def _one_shot(self, number: int) -> Turn:
        made = self._inputs.provenance
        scored = await self._scored(Claim(self._inputs.one_shot, "the one-shot description has none"))
        return Turn(
            step="one_shot",
            hypotheses=(scored,),
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
            repairs=made.repairs,
            request_hashes=made.request_hashes,
        )

    async def _hypotheses(self, number: int) -> Turn:
        most = self._spec.k - 1
        reply = await self._ask(hypotheses_step(self._kind, most), {"most": most})
        turn = _paid(Turn(step="hypotheses"), reply)
        if isinstance(reply.answer, Failure):
            return turn
        scored = [await self._scored(claim) for claim in reply.answer.value]
        return turn.model_copy(update={"hypotheses": tuple(scored)})

    async def _experiments(self, number: int) -> Turn:
        most = self._spec.experiments
        more = {"tools": tools_shown(self._kind.tools), "most": most, "rounds_left": self._spec.rounds - number + 1}
        by_tools = self._inputs.asker.capabilities.tools and not any(turn.note for turn in self._state.turns)
        reply = await self._ask(experiments_step(self._kind, most, by_tools=by_tools), more)
        turn = _paid(Turn(step="experiments", round=number), reply)
        if isinstance(reply.answer, Failure):
            return turn
        done: list[Experiment] = []
        for place, (tool, arguments) in enumerate(reply.answer.value.requests[: OVER * self._spec.experiments]):
            if place >= self._spec.experiments:
                why = f"at most {self._spec.experiments} experiments a round"
                done.append(Experiment(tool=str(tool)[:40], error=why))
            else:
                done.append(await self._experiment(tool, arguments, done))
        return turn.model_copy(update={"thought": reply.answer.value.thought, "experiments": tuple(done)})

    async def _revision(self, number: int) -> Turn:
        reply = await self._ask(revision_step(self._kind), {"rounds_left": self._spec.rounds - number})
        turn = _paid(Turn(step="revision", round=number), reply)
        if isinstance(reply.answer, Failure):
            return turn
        revised = reply.answer.value
        scored = [await self._scored(claim) for claim in revised.claims]
        if len(scored) > 1:
            reason = next((c.no_predicate for c in revised.claims if c.no_predicate), "")
            all_of_them = together([c.description for c in revised.claims], self._kind.form)
            scored.append(await self._scored(Claim(all_of_them, reason)))
        found = {"thought": revised.thought, "hypotheses": tuple(scored), "abstained": revised.abstain}
        return turn.model_copy(update=found)

    async def _ask(self, step: Step[T], more: Plain) -> Reply[T]:
        history = partial(history_view, self._state.turns, self._kind.form)
        material = Material(self._kind, self._inputs.evidence, history, more)
        return await self._inputs.asker.ask(step, material)

    async def _scored(self, claim: Claim) -> Hypothesis:
        said = claim.description
        if said.predicate is None or said.abstained:
            why = claim.no_predicate or "no predicate"
            return Hypothesis(description=said, no_predicate=why, standing="unscored", why=why)
        request = self._kind.tools.parse("score_predicate", self._kind.to_score(said))
        if isinstance(request, RequestError):
            return Hypothesis(description=said, standing="unscored", why=request.reason)
        numbers = await self._answered(request, self._inputs.scores)
        standing, why = standing_of(numbers, self._kind.least_precision)
        return Hypothesis(description=said, select=numbers, standing=standing, why=why)

    async def _experiment(self, tool: object, arguments: object, before: list[Experiment]) -> Experiment:
        name = tool if isinstance(tool, str) else ""
        tools = self._kind.tools
        request = tools.parse(name, arguments)
        if isinstance(request, RequestError):
            return Experiment(tool=name[:40], arguments=_shown(arguments), error=request.reason)
        key = request_key(request)
        earlier = next((e for e in self._all(before) if _key_of(e) == key), None)
        if earlier is not None:
            return earlier.model_copy(update={"repeated": True, "cost": 0})
        price = tools.cost(request)
        spent = self._state.cost + sum(e.cost for e in before if not e.error)
        if spent + price > self._kind.cost:
            why = f"it may feed {price} tokens to the model, and {self._kind.cost - spent} are left for this unit"
            return Experiment(tool=request.name, arguments=request.arguments, error=why)
        numbers = await self._answered(request, self._inputs.bench)
        error = numbers.get("error", "") if set(numbers) == {"error"} else ""
        return Experiment(
            tool=request.name,
            arguments=request.arguments,
            numbers={} if error else numbers,
            error=str(error)[:300],
            cost=price,
        )

    def _all(self, before: list[Experiment]) -> list[Experiment]:
        return [*(e for turn in self._state.turns for e in turn.experiments), *before]

    async def _answered(self, request: Request, bench: Bench) -> Plain:
        """Numbers of an experiment, from the journal where it was run before."""
        key = ("" if bench is self._inputs.scores else ASKED) + request_key(request)
        held = self._inputs.journal.answers().get(key)
        if held is not None:
            return held
        numbers: Plain = clipped(await bench.run(request))
        self._inputs.journal.add_answer(key, numbers)
        return numbers

    def result(self) -> LoopResult:
        """The best description so far, and the transcript."""
        state, first = self._state, self._inputs.one_shot
        best = state.best
        description, chosen = (first, "one shot") if best is None else (best.description, state.chosen)
        if state.abstained and (best is None or best.standing in ("refuted", "unscored")):
            description, chosen = _abstained(description), "abstained"
        scored = state.turns[0].hypotheses[0].select if state.turns else {}
        transcript = Transcript(
            k=self._spec.k,
            rounds=max((turn.round for turn in state.turns), default=0),
            stop=self._end or "the run was stopped",
            chosen=chosen,
            one_shot=first,
            one_shot_select=scored,
            turns=state.turns,
        )
        return LoopResult(description, transcript)


def _abstained(description: Description) -> Description:
    return description.model_copy(
        update={"label": "unclear", "labels": (), "abstained": True, "predicate": None, "confidence": 0.0}
    )


def _paid(turn: Turn, reply: Reply[Any]) -> Turn:
    """The turn with what the step has cost; for a step that failed also with the reason."""
    found: Plain = {
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
        "note": reply.note,
    }
    if isinstance(reply.answer, Failure):
        found["failure"] = f"{reply.answer.stage}: {reply.answer.reason}"[:1000]
    else:
        found |= {"repairs": reply.answer.repairs, "request_hashes": reply.answer.request_hashes}
    return turn.model_copy(update=found)


def _key_of(experiment: Experiment) -> str:
    return request_key(Request(experiment.tool, experiment.arguments))


def _shown(arguments: object) -> Plain:
    """What was asked for, as far as it can be kept."""
    short = clipped(arguments)
    kept = short if isinstance(short, dict) else {"given": short}
    return kept if len(json.dumps(kept)) <= SHOWN_ARGUMENTS else {"given": json.dumps(kept)[:SHOWN_ARGUMENTS]}
