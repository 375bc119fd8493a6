"""What an explainer gives back, and the protocol that all explainers follow."""

from __future__ import annotations

from typing import Protocol, TypeVar

from autointerp.feature_records import FeatureEvidence
from autointerp.records import Description, Evidence, Failure, Provenance, Record

E = TypeVar("E", contravariant=True)


class Explanation(Record):
    """The outcome for one unit; `failures` holds what went wrong on the way without ending it."""

    outcome: Description | Failure
    provenance: Provenance
    failures: tuple[Failure, ...] = ()


class Explains(Protocol[E]):
    """Describes one unit from its evidence."""

    async def explain(self, evidence: E) -> Explanation:
        """A description, an abstention (a description with `abstained`), or a failure as a value."""
        ...


Explainer = Explains[Evidence]
FeatureExplainer = Explains[FeatureEvidence]
