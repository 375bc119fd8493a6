"""What the loop has to know of a kind of units: which experiments there are, what a claim is, what prompts show.

The loop itself, its steps, journal and stop rules are the same for heads (`head_kind`) and for neurons and latents
(`feature_kind`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from autointerp.agent.claims import ClaimForm
from autointerp.agent.requests import Toolset
from autointerp.explain.brief import firing_view
from autointerp.explain.view import drop_examples
from autointerp.records import Description, Unit

BRIEF_EXAMPLES = 10
Plain = dict[str, Any]


class Shown(Protocol):
    """Evidence with examples, of which fewer can be shown."""

    @property
    def examples(self) -> tuple[Any, ...]: ...

    def model_copy(self, *, update: dict[str, Any] | None = None) -> Self: ...


E = TypeVar("E", bound=Shown)


@dataclass(frozen=True, eq=False)
class LoopKind(Generic[E]):
    """A kind of units. `view`: all that a prompt shows of the evidence · `to_score`: the arguments of
    `score_predicate` for a description · `cost`: tokens that experiments on one unit may feed to the model ·
    `suffix`: of its templates · `least_precision`: on select, below which a rule may still lack a condition."""

    tools: Toolset
    form: ClaimForm
    unit: Callable[[E], Unit]
    view: Callable[[E], Plain]
    to_score: Callable[[Description], Plain]
    cost: int
    suffix: str = ""
    least_precision: float = 0.0

    def template(self, step: str) -> str:
        """The name of the template of `hypotheses`, `experiments` or `revision`."""
        return f"agent_{step}{self.suffix}"

    def brief(self, evidence: E) -> Plain:
        """What a prompt shows beside experiments: of the measurements those that fire, or else the highest."""
        return firing_view(self.view(evidence))


def fewer(evidence: E) -> E:
    """The evidence without the example that is missed least."""
    return evidence.model_copy(update={"examples": drop_examples(evidence.examples)})


def few_examples(evidence: E) -> E:
    """The evidence with a few of its examples, of each stratum at least two where it has as many."""
    while len(evidence.examples) > BRIEF_EXAMPLES:
        evidence = fewer(evidence)
    return evidence
