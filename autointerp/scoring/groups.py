"""Which heads of a run are alike: the group that is removed together where one head is backed up by others.

Alike in the predicate, in the same domain; where no other head has it, alike in the first label. `other` and `unclear`
say nothing that heads could share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autointerp.records import Description, Failure, Head
from autointerp.scoring.predicted import predicate_of

NO_FUNCTION = ("other", "unclear")


@dataclass(frozen=True)
class Group:
    """Two heads or more, ascending, and what they have in common."""

    heads: tuple[Head, ...]
    alike_in: Literal["predicate", "label"]


def group_of(head: Head, outcomes: Mapping[Head, Description | Failure]) -> Group | None:
    """The heads described like this one, itself among them; None where it stands alone or is not described."""
    said = outcomes.get(head)
    if not isinstance(said, Description) or said.abstained:
        return None
    described = {h: o for h, o in sorted(outcomes.items()) if isinstance(o, Description) and not o.abstained}
    there = {h: o for h, o in described.items() if o.domain == said.domain}
    same_rule = tuple(h for h, o in there.items() if predicate_of(o) == predicate_of(said))
    if predicate_of(said) is not None and len(same_rule) > 1:
        return Group(same_rule, "predicate")
    same_label = tuple(h for h, o in there.items() if _label(o) == _label(said))
    if _label(said) not in NO_FUNCTION and len(same_label) > 1:
        return Group(same_label, "label")
    return None


def _label(said: Description) -> str:
    return said.labels[0] if said.labels else said.label
