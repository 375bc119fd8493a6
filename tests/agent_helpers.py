"""A bench whose answers are made up, chat models that play an agent, and one head's loop put together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from autointerp.agent.allowance import LoopChat
from autointerp.agent.head_kind import HEADS
from autointerp.agent.journal import Journal
from autointerp.agent.loop import LoopInputs, LoopResult, UnitLoop
from autointerp.agent.requests import Request
from autointerp.agent.spec import LoopSpec
from autointerp.agent.steps import StepAsker
from autointerp.chat import FakeChat
from autointerp.llm import Budget, Capabilities, ChatModel, ChatRequest, Prices, PromptRoom
from autointerp.model import LanguageModel
from autointerp.prompting import Templates
from autointerp.records import Description, Evidence, Head, Provenance
from tests.report_fixtures import evidence

HEAD = Head(layer=1, index=2)
Plain = dict[str, Any]
GOOD = {
    "metric": "f1", "value": 0.9, "low": 0.85, "high": 0.95, "chance": 0.1, "coverage": 0.9, "nulls_beaten": True,
    "rival": {"rule": "previous token", "value": 0.4, "difference": [0.4, 0.6], "beaten": True},
    "right_place_no_effect": {"rows": 0, "of_tested": 24},
}  # fmt: skip
OPEN = {**GOOD, "value": 0.45, "rival": {"rule": "previous token", "value": 0.44, "difference": [-0.1, 0.1]}}
BAD = {**GOOD, "value": 0.05, "nulls_beaten": False}


def claim(predicate: str = "distance == 2", **fields: Any) -> Plain:
    return {
        "looks_at": f"rule {predicate}", "writes": "nothing", "label": "fixed_offset", "predicate": predicate,
        "no_predicate": "", "domain": "text", "conditions": "", "confidence": 50, **fields,
    }  # fmt: skip


def asked(tool: str, **arguments: Any) -> Plain:
    return {"tool": tool, "arguments": arguments}


ATTEND = asked("attend", texts=[{"text": "a b c", "mark": "last", "occurrence": 1}])


class FakeBench:
    """Scores of predicates as told, the same numbers for any other experiment; counts what was run."""

    def __init__(self, scores: Mapping[str, Plain] | None = None, default: Plain | None = None) -> None:
        self.scores, self.default = dict(scores or {}), default or OPEN
        self.ran: list[Request] = []

    async def run(self, request: Request) -> Plain:
        self.ran.append(request)
        await asyncio.sleep(0)
        if request.name == "score_predicate":
            return dict(self.scores.get(request.arguments["predicate"], self.default))
        return {"rows": [{"at": "x", "sources": []}], "nan": float("nan")}


Replies = Mapping[str, Callable[[int], Any]]  # by schema name: what the n-th request of that kind gets


def chat_of(replies: Replies) -> FakeChat:
    """A chat model that answers each kind of step in turn."""
    seen: dict[str, int] = {}

    def respond(request: ChatRequest) -> Any:
        if request.purpose == "repair":
            return replies.get("repair", lambda n: "prose again")(0)
        seen[request.schema_name] = seen.get(request.schema_name, 0) + 1
        return replies[request.schema_name](seen[request.schema_name])

    return FakeChat(respond)


def usual(experiments: list[Plain] | None = None, claims: list[Plain] | None = None, **revision: Any) -> Replies:
    """Replies that are always valid."""
    tried = [ATTEND] if experiments is None else experiments
    made = [claim()] if claims is None else claims
    return {
        "agent_hypotheses": lambda n: {"hypotheses": [claim("distance == 3"), claim("distance == 4")]},
        "agent_experiments": lambda n: {"thought": "look", "experiments": tried},
        "agent_revision": lambda n: {"thought": "so", "claims": made, "abstain": False, **revision},
    }


def first(predicate: str | None = "distance == 1", **fields: Any) -> Description:
    return Description(
        summary="s", looks_at="the token before", writes="w", label="previous_token", predicate=predicate, **fields
    )


def some_evidence(*, hostile: bool = False) -> Evidence:
    return evidence(random.Random(5), HEAD, hostile=hostile, per_stratum=2)


def asker_of(chat: ChatModel, tokens: int | None = None, **can: Any) -> StepAsker:
    within = LoopChat(chat, Budget(Prices(0.0, 0.0, "none"), tokens=tokens))
    found = Capabilities(**can)
    return StepAsker(within, found, Templates(), 0.0, 0, PromptRoom(found))


def loop_of(chat: ChatModel, bench: FakeBench, journal: Journal | None = None, **more: Any) -> UnitLoop[Evidence]:
    spec = more.pop("spec", LoopSpec())
    return UnitLoop(
        LoopInputs(
            kind=more.pop("kind", HEADS),
            evidence=more.pop("evidence", None) or some_evidence(),
            one_shot=more.pop("one_shot", None) or first(),
            provenance=Provenance(explainer="llm", prompt_tokens=100, completion_tokens=10),
            asker=more.pop("asker", None) or asker_of(chat, **more.pop("can", {})),
            bench=more.pop("bench", bench),
            scores=bench,
            journal=journal or Journal(),
            spec=spec,
            **more,
        )
    )


def run_loop(loop: UnitLoop[Any]) -> LoopResult:
    async def whole() -> LoopResult:
        await loop.begin()
        if not loop.over:
            await loop.run()
        return loop.result()

    return asyncio.run(whole())


@contextmanager
def tokens_fed(model: LanguageModel) -> Iterator[list[int]]:
    """How many tokens go through the model's first block, as the one number of a list."""
    counts = [0]

    def count(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        counts[0] += stream.shape[0] * stream.shape[1]

    handle = model.bridge.blocks[0].register_forward_pre_hook(count, with_kwargs=True)
    yield counts
    handle.remove()
