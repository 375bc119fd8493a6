"""The loops of a run on disk: `cache/agent.jsonl` gets a line for each turn and each answer, as they happen.

A line names its unit and the description that its loop began with: a unit that was described anew begins anew.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

from pydantic import AliasChoices, Field

from autointerp.agent.journal import Entry, Journal
from autointerp.records import Description, Unit
from autointerp.store import RunFolder, read_as

AGENT = "cache/agent.jsonl"


class JournalLine(Entry):
    """A line of `cache/agent.jsonl`."""

    unit: Unit = Field(validation_alias=AliasChoices("unit", "head"))
    basis: str


class RunJournals:
    """All loops of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._held: dict[tuple[Unit, str], list[JournalLine]] = defaultdict(list)
        for line in read_as(run.path(AGENT), JournalLine):
            self._held[line.unit, line.basis].append(line)

    def of(self, unit: Unit, one_shot: Description) -> Journal:
        """The journal of one unit's loop."""
        basis = hashlib.sha256(one_shot.model_dump_json().encode()).hexdigest()[:16]

        def keep(entry: Entry) -> None:
            line = JournalLine(unit=unit, basis=basis, turn=entry.turn, key=entry.key, numbers=entry.numbers)
            self._run.append(AGENT, line)

        return Journal(self._held.pop((unit, basis), ()), keep)
