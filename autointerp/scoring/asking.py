"""How scorers ask a language model about a unit's held-out items: one call for all items, repeats, named controls.

1. A call holds all items in a seeded order; where the prompt does not fit the server's context, halves of them.
2. Controls are other descriptions answered on the same items in the same order (scoring_validity rule 10).
3. A reply that is not usable after the repairs is a Failure, never a number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Int

from autointerp.llm import CONTEXT, Answer, Capabilities, ChatModel, ChatRequest, ask
from autointerp.prompting import Templates
from autointerp.records import Description, Failure, Unit

REPEATS_WITHOUT_LOGPROBS = 3
Controls = Mapping[str, Sequence[Description]]  # name of a control -> the descriptions whose mean it is

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Question(Generic[T]):
    """One call: a template with its values, the shape of the reply, and how the reply is read."""

    template: str
    values: Mapping[str, object]
    schema_name: str
    schema: Mapping[str, Any]
    parse: Callable[[dict[str, Any]], T]
    max_tokens: int
    purpose: str
    unit: Unit
    repeat: int = 0
    top_logprobs: int = 0


@dataclass(frozen=True)
class Asked:
    """How the same items are asked again: under which purpose, in which order, at most `size` in a call (0: all)."""

    purpose: str
    repeat: int = 0
    size: int = 0


@dataclass(frozen=True)
class Reading:
    """What one asking of all items gave: `e` in [0, 1] of each unit that the score is made of, and the answers as
    names of kinds (`said`), for agreement; an item may give several units."""

    e: Float[np.ndarray, " unit"]
    said: Int[np.ndarray, " unit"]
    n_items: int


@dataclass(frozen=True)
class Asker:
    """Sends questions; all settings change replies."""

    chat: ChatModel
    capabilities: Capabilities
    templates: Templates
    seed: int

    @property
    def repeats(self) -> int:
        """How often the same items are asked: once with log-probabilities (scoring_validity rule 9)."""
        return 1 if self.capabilities.logprobs else REPEATS_WITHOUT_LOGPROBS

    def order(self, unit: Unit, repeat: int, n: int) -> np.ndarray:
        """A seeded order of n items, another one for each repeat."""
        return self.draw(unit, repeat).permutation(n)

    def draw(self, unit: Unit, repeat: int, *more: int) -> np.random.Generator:
        """The generator of one call; `more` numbers tell apart calls that a repeat is cut into."""
        return np.random.default_rng([self.seed, unit.layer, unit.index, repeat, *more])

    async def ask(self, question: Question[T]) -> Answer[T] | Failure:
        """A checked answer. ServerError and BudgetExceeded pass through."""
        prompt = self.templates.render(question.template, question.values)
        request = ChatRequest(
            messages=prompt.messages,
            json_schema=dict(question.schema),
            schema_name=question.schema_name,
            max_tokens=question.max_tokens,
            seed=self.seed,
            top_logprobs=question.top_logprobs,
            repeat=question.repeat,
            purpose=question.purpose,
            unit=str(question.unit),
            template_hash=prompt.template_hash,
        )
        return await ask(self.chat, request, question.parse, self.repair_prompt, self.capabilities)

    def repair_prompt(self, reason: str) -> str:
        """The user message that asks for a corrected reply."""
        return self.templates.render("repair", {"reason": reason}).messages[-1]["content"]


async def in_parts(
    items: Sequence[I], once: Callable[[Sequence[I]], Awaitable[list[R] | Failure]], size: int = 0
) -> list[R] | Failure:
    """One result an item, at most `size` in a call (0: all); items that do not fit the server's context together are
    asked in halves."""
    if 0 < size < len(items):
        return await _each([items[start : start + size] for start in range(0, len(items), size)], once)
    found = await once(items)
    if not isinstance(found, Failure) or found.stage != CONTEXT or len(items) < 2:
        return found
    return await _each([items[: len(items) // 2], items[len(items) // 2 :]], once)


async def _each(
    parts: Sequence[Sequence[I]], once: Callable[[Sequence[I]], Awaitable[list[R] | Failure]]
) -> list[R] | Failure:
    results: list[R] = []
    for part in parts:
        found = await in_parts(part, once)
        if isinstance(found, Failure):
            return found
        results += found
    return results


async def answer_controls(
    controls: Controls, once: Callable[[Description], Awaitable[R | Failure]]
) -> dict[str, list[R]] | Failure:
    """The results of every control's descriptions; the first failure ends it and names its control."""
    found: dict[str, list[R]] = {}
    for name, descriptions in controls.items():
        for description in descriptions:
            result = await once(description)
            if isinstance(result, Failure):
                return Failure(stage=result.stage, reason=f"in the control {name!r}: {result.reason}", raw=result.raw)
            found.setdefault(name, []).append(result)
    return found
