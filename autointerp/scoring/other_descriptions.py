"""The nulls of scores that ask: other units' descriptions, fixed wrong ones, a guess without evidence (rule 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from autointerp.records import Description, Failure, Feature, Head

DONORS, MIN_DONORS = 5, 3
NO_EVIDENCE = "no evidence"
U = TypeVar("U", Head, Feature)


def donors_of(
    unit: U, described: Mapping[U, Description], differs: Callable[[Description], bool], seed: int
) -> list[Description]:
    """Up to DONORS descriptions of other units that differ from this unit's, in seeded order."""
    others = [u for u, d in described.items() if u != unit and differs(d)]
    return [described[others[i]] for i in _order(unit, len(others), seed)]


def wrong_descriptions(unit: Head | Feature, kinds: Mapping[str, str], looks_at: str, seed: int) -> list[Description]:
    """DONORS of fixed wrong descriptions in seeded order: `kinds` are things by name, put into `looks_at`."""
    names = list(kinds)
    return [
        Description(
            summary=f"generic: {names[i]}",
            looks_at=looks_at.format(kinds[names[i]]),
            writes=f"Raises {kinds[names[i]]} as the next token.",
            label="other",
        )
        for i in _order(unit, len(names), seed)
    ]


def nulls(
    donors: Sequence[Description], wrong: Sequence[Description], guess: Description | Failure | None
) -> dict[str, list[Description]]:
    """Controls by name: the donors, or the wrong descriptions where there are too few, and the guess if any."""
    if len(donors) >= MIN_DONORS:
        controls = {f"shuffled explanation ({len(donors)} donors)": list(donors)}
    else:
        controls = {f"generic descriptions ({DONORS})": list(wrong)}
    return controls | ({NO_EVIDENCE: [guess]} if isinstance(guess, Description) else {})


def _order(unit: Head | Feature, n: int, seed: int) -> list[int]:
    order: list[int] = np.random.default_rng([seed, unit.layer, unit.index]).permutation(n).tolist()
    return order[:DONORS]
