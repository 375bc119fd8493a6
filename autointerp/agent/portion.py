"""How much of what is known of a unit a prompt of the loop shows, and what is left out first where room is short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic

from autointerp.agent.kind import E, fewer
from autointerp.agent.view import FEWEST
from autointerp.explain.asked import FEW_EXAMPLES
from autointerp.explain.brief import brief_view

Plain = dict[str, Any]


@dataclass(frozen=True)
class Portion(Generic[E]):
    """Evidence with these examples, all of its measurements or few, history in some detail."""

    evidence: E
    detail: int
    few_measured: bool = False

    @property
    def spare(self) -> bool:
        """Whether there is something left that costs little to leave out."""
        return len(self.evidence.examples) > FEW_EXAMPLES or self.detail > FEWEST

    def view(self, show: Callable[[E], Plain]) -> Plain:
        """The evidence as plain values."""
        return brief_view(show(self.evidence)) if self.few_measured else show(self.evidence)

    def less(self) -> Portion[E] | None:
        """The same without what is missed least; None where nothing is left to leave out."""
        if len(self.evidence.examples) > FEW_EXAMPLES:
            return replace(self, evidence=fewer(self.evidence))
        if self.detail > FEWEST:
            return replace(self, detail=self.detail - 1)
        if not self.few_measured:
            return replace(self, few_measured=True)
        if self.detail > 0:
            return replace(self, detail=self.detail - 1)
        return replace(self, evidence=fewer(self.evidence)) if self.evidence.examples else None
