"""All of a loop so far: its turns, the best description among them, and what counts towards stopping."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autointerp.agent.spec import LoopSpec
from autointerp.agent.standing import as_good, better
from autointerp.records import Hypothesis, Turn

ROUNDS_WITHOUT_GAIN, REPEATS, FAILED_STEPS = 2, 2, 2


@dataclass(frozen=True)
class LoopState:
    """All of a loop so far."""

    turns: tuple[Turn, ...] = ()
    chosen: str = "one shot"
    best: Hypothesis | None = None
    without_gain: int = 0
    repeats: int = 0
    failed: int = 0
    cost: int = 0
    abstained: bool = False

    def after(self, turn: Turn) -> LoopState:
        """The state with one more turn: what is best now, and what counts towards stopping."""
        state = replace(self, turns=(*self.turns, turn), failed=self.failed + bool(turn.failure))
        gained, revised = False, turn.step == "revision"
        alone: Hypothesis | None = None  # the claim of this revision that is the best so far
        for name, hypothesis in turn.named:
            rise, takes = better(hypothesis, state.best, revised=revised)
            if takes or (alone is not None and hypothesis is turn.hypotheses[-1] and as_good(hypothesis, alone)):
                alone = hypothesis if revised else None
                state = replace(state, best=hypothesis, chosen=name)
            gained = gained or rise
        asked = sum(e.cost for e in turn.experiments if not e.repeated and not e.error)
        again = sum(e.repeated for e in turn.experiments)
        idle = 0 if gained or turn.step != "revision" else self.without_gain + 1
        return replace(
            state,
            without_gain=idle if turn.step == "revision" else self.without_gain,
            cost=self.cost + asked,
            repeats=self.repeats + again,
            abstained=turn.abstained,
        )

    @property
    def tokens(self) -> int:
        return sum(t.prompt_tokens + t.completion_tokens for t in self.turns if t.step != "one_shot")

    def stop(self, spec: LoopSpec) -> str:
        """Why the loop ends now; empty where it goes on."""
        best = self.best
        if self.repeats >= REPEATS:
            return f"the same experiment was asked for again {self.repeats} times"
        if self.abstained:
            return "the model abstained"
        if best is not None and best.standing == "settled":
            return f"decided on the select split: {best.why}"
        if self.without_gain >= ROUNDS_WITHOUT_GAIN:
            return f"no gain in {ROUNDS_WITHOUT_GAIN} rounds"
        if self.failed >= FAILED_STEPS:
            return f"{self.failed} steps without a valid reply"
        if self.tokens >= spec.tokens:
            return f"{self.tokens} tokens are used, of {spec.tokens} for one unit"
        return ""
