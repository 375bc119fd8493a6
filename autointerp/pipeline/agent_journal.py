"""The loops of a run on disk: `cache/agent.jsonl` gets a line for each turn and each answer, as they happen.

A line names its head and the description that its loop began with: a head that was described anew begins anew.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from autointerp.records import Description, Head, Record, Turn
from autointerp.store import RunFolder

AGENT = "cache/agent.jsonl"
Plain = dict[str, Any]


class JournalLine(Record):
    """A line of `cache/agent.jsonl`: a turn, or an experiment's key with its answer."""

    head: Head
    basis: str
    turn: Turn | None = None
    key: str = ""
    numbers: dict[str, Any] | None = None


class RunJournals:
    """All loops of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._held: dict[tuple[Head, str], list[JournalLine]] = defaultdict(list)
        for line in map(JournalLine.model_validate, run.read(AGENT)):
            self._held[line.head, line.basis].append(line)

    def of(self, head: Head, one_shot: Description) -> HeadJournal:
        """The journal of one head's loop."""
        basis = hashlib.sha256(one_shot.model_dump_json().encode()).hexdigest()[:16]
        return HeadJournal(self._run, head, basis, self._held.pop((head, basis), ()))


class HeadJournal:
    """See `agent.journal.Journal`."""

    def __init__(self, run: RunFolder, head: Head, basis: str, lines: Sequence[JournalLine]) -> None:
        self._run, self._head, self._basis = run, head, basis
        self._turns = [line.turn for line in lines if line.turn is not None]
        self._answers = {line.key: line.numbers or {} for line in lines if line.turn is None}

    def turns(self) -> Sequence[Turn]:
        return tuple(self._turns)

    def answers(self) -> Mapping[str, Plain]:
        return self._answers

    def add_turn(self, turn: Turn) -> None:
        self._turns.append(turn)
        self._run.append(AGENT, JournalLine(head=self._head, basis=self._basis, turn=turn))

    def add_answer(self, key: str, numbers: Plain) -> None:
        self._answers[key] = numbers
        self._run.append(AGENT, JournalLine(head=self._head, basis=self._basis, key=key, numbers=numbers))
