"""What an explainer gives back, and the protocol that both explainers follow."""

from __future__ import annotations

from typing import Protocol

from autointerp.records import Description, Evidence, Failure, Provenance, Record


class Explanation(Record):
    """The outcome for one head; `failures` holds what went wrong on the way without ending it."""

    outcome: Description | Failure
    provenance: Provenance
    failures: tuple[Failure, ...] = ()


class Explainer(Protocol):
    """Describes one head from its evidence."""

    async def explain(self, evidence: Evidence) -> Explanation:
        """A description, an abstention (a description with `abstained`), or a failure as a value."""
        ...
