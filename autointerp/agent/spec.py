"""How much one head's loop may do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoopSpec:
    """How much one head's loop may do."""

    rounds: int = 2
    k: int = 3
    experiments: int = 4  # a round
    tokens: int = 60_000  # prompts and replies
