"""One shot at the cost of a loop: the same explain call asked k times, and the best answer on the select split kept."""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.agent.claims import Claim
from autointerp.agent.kind import E
from autointerp.agent.loop import LoopInputs, UnitLoop
from autointerp.explain.outcome import Explains
from autointerp.records import Failure, Hypothesis, Turn


class BestOf(UnitLoop[E]):
    """A loop without experiments: further answers to the explain prompt, each by an explainer of its own draw."""

    def __init__(self, inputs: LoopInputs[E], explainers: Sequence[Explains[E]]) -> None:
        super().__init__(inputs)
        self._explainers: Sequence[Explains[E]] = explainers

    async def _work(self) -> str:
        await self._turn(self._samples)
        return f"best of {len(self._explainers) + 1} one-shot answers"

    async def _samples(self, number: int) -> Turn:
        scored: list[Hypothesis] = []
        failures: list[str] = []
        prompt = completion = repairs = 0
        for explainer in self._explainers:
            found = await explainer.explain(self._inputs.evidence)
            made = found.provenance
            prompt, completion = prompt + made.prompt_tokens, completion + made.completion_tokens
            repairs += made.repairs
            if isinstance(found.outcome, Failure):
                failures.append(found.outcome.reason)
            else:
                scored.append(await self._scored(Claim(found.outcome, "the answer has none")))
        return Turn(
            step="hypotheses",
            hypotheses=tuple(scored),
            failure=f"{len(failures)} answers failed; the first: {failures[0]}"[:1000] if failures else "",
            prompt_tokens=prompt,
            completion_tokens=completion,
            repairs=repairs,
        )
