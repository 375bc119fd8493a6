"""What a head's loop has already done: turns that are over, and answers of experiments, each kept as it happens.

A loop that starts again takes its turns from here without a call, and never runs an experiment twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from autointerp.agent.requests import Request
from autointerp.records import Turn

ASKED = "asked:"  # before the key of an answer that is not about the head itself
Plain = dict[str, Any]


class Journal(Protocol):
    """The memory of one head's loop."""

    def turns(self) -> Sequence[Turn]:
        """The turns that earlier processes ended, in order."""
        ...

    def answers(self) -> Mapping[str, Plain]:
        """Answers of experiments by `request_key`."""
        ...

    def add_turn(self, turn: Turn) -> None:
        """Keep a turn that is over."""
        ...

    def add_answer(self, key: str, numbers: Plain) -> None:
        """Keep the answer of an experiment."""
        ...


class Memory:
    """A journal that ends with the process."""

    def __init__(self, turns: Sequence[Turn] = (), answers: Mapping[str, Plain] | None = None) -> None:
        self._turns, self._answers = list(turns), dict(answers or {})

    def turns(self) -> Sequence[Turn]:
        """See `Journal.turns`."""
        return tuple(self._turns)

    def answers(self) -> Mapping[str, Plain]:
        """See `Journal.answers`."""
        return self._answers

    def add_turn(self, turn: Turn) -> None:
        """See `Journal.add_turn`."""
        self._turns.append(turn)

    def add_answer(self, key: str, numbers: Plain) -> None:
        """See `Journal.add_answer`."""
        self._answers[key] = numbers


def request_key(request: Request) -> str:
    """Equal for requests that ask the same."""
    return json.dumps([request.name, request.arguments], sort_keys=True, ensure_ascii=True)
