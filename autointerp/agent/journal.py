"""What a head's loop has already done: turns that are over, and answers of experiments, each kept as it happens.

A loop that starts again takes its turns from here without a call, and never runs an experiment twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autointerp.agent.requests import Request
from autointerp.records import Record, Turn

ASKED = "asked:"  # before the key of an answer that is not about the head itself
Plain = dict[str, Any]


class Entry(Record):
    """One thing that was done: a turn, or an experiment's key with its answer."""

    turn: Turn | None = None
    key: str = ""
    numbers: dict[str, Any] | None = None


class Journal:
    """The memory of one head's loop; `keep` writes each new entry down before the loop goes on."""

    def __init__(self, entries: Sequence[Entry] = (), keep: Callable[[Entry], None] = lambda entry: None) -> None:
        self._turns = [entry.turn for entry in entries if entry.turn is not None]
        self._answers = {entry.key: entry.numbers or {} for entry in entries if entry.turn is None}
        self._keep = keep

    def turns(self) -> Sequence[Turn]:
        """The turns that are over, in order."""
        return tuple(self._turns)

    def answers(self) -> Mapping[str, Plain]:
        """Answers of experiments by `request_key`."""
        return self._answers

    def add_turn(self, turn: Turn) -> None:
        """Keep a turn that is over."""
        self._turns.append(turn)
        self._keep(Entry(turn=turn))

    def add_answer(self, key: str, numbers: Plain) -> None:
        """Keep the answer of an experiment."""
        self._answers[key] = numbers
        self._keep(Entry(key=key, numbers=numbers))


def request_key(request: Request) -> str:
    """Equal for requests that ask the same."""
    return json.dumps([request.name, request.arguments], sort_keys=True, ensure_ascii=True)
