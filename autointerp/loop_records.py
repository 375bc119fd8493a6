"""What the agent loop did about one unit: hypotheses, experiments, turns, and the transcript of all of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from autointerp.claim_records import Description
from autointerp.record_base import Record


class Hypothesis(Record):
    """A description that competes in a head's loop, with what the select split says of it."""

    description: Description
    no_predicate: str = ""  # the reason given for having none
    select: dict[str, Any] = Field(default_factory=dict)  # of the free score on select; empty without a predicate
    standing: Literal["settled", "partial", "open", "unscored", "refuted"] = "unscored"
    why: str = ""


class Experiment(Record):
    """One experiment that was asked for: the request, and its numbers or why it was refused."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    numbers: dict[str, Any] = Field(default_factory=dict)
    error: str = ""
    cost: int = 0  # tokens fed to the model, at most
    repeated: bool = False  # asked before: answered from the transcript


class Turn(Record):
    """One step of a head's loop. A revision of several claims holds each claim alone and, last, all of them as one."""

    step: Literal["one_shot", "hypotheses", "experiments", "revision"]
    round: int = 0
    thought: str = ""
    hypotheses: tuple[Hypothesis, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    abstained: bool = False
    failure: str = ""
    note: str = ""  # why the server's own tools are not used from here on, where they were used before
    prompt_tokens: int = 0
    completion_tokens: int = 0
    repairs: int = 0
    request_hashes: tuple[str, ...] = ()

    @property
    def named(self) -> list[tuple[str, Hypothesis]]:
        """The hypotheses with the names that they go by."""
        found = list(self.hypotheses)
        if self.step == "one_shot":
            return [("one shot", one) for one in found]
        if self.step == "hypotheses":
            return [(f"hypothesis {n}", one) for n, one in enumerate(found, 2)]
        alone = [(f"revision {self.round}, claim {n}", one) for n, one in enumerate(found[:-1], 1)]
        return [*alone, *((f"revision {self.round}", one) for one in found[-1:])]


class Transcript(Record):
    """What the agent loop did about one head, why it stopped, and the one-shot answer that it began with."""

    k: int
    rounds: int  # begun
    stop: str
    chosen: str  # which description was kept: `one shot`, `hypothesis 2`, `revision 1`, `abstained`
    one_shot: Description | None
    one_shot_select: dict[str, Any] = Field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    @property
    def tokens(self) -> tuple[int, int]:
        """(prompt, completion) tokens of all turns, the one-shot call included."""
        return sum(t.prompt_tokens for t in self.turns), sum(t.completion_tokens for t in self.turns)
