"""`calls.jsonl`: one line for each logical request of a run, with or without a reply."""

from __future__ import annotations

from collections.abc import Mapping

from autointerp.store.folder import RunFolder

CALLS = "calls.jsonl"


class CallLog:
    """Writes the lines; a request whose reply this run has already written down is not written again."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._answered: set[str] = set()
        self._used: dict[str, list[int]] = {}  # by model
        for line in run.read(CALLS):
            self._note(line)

    @property
    def tokens_used(self) -> tuple[int, int]:
        """(prompt, completion) tokens of the replies that this run received, all processes together."""
        return sum(used[0] for used in self._used.values()), sum(used[1] for used in self._used.values())

    def tokens_of(self, model: str) -> tuple[int, int]:
        """(prompt, completion) tokens of the replies that one model gave."""
        used = self._used.get(model, (0, 0))
        return used[0], used[1]

    def add(self, record: Mapping[str, object]) -> None:
        """Write a line, unless a line with a reply is there for the same hash."""
        if record.get("hash") in self._answered:
            return
        self._run.append(CALLS, record)
        self._note(record)

    def _note(self, record: Mapping[str, object]) -> None:
        if record.get("reply") is None:
            return
        self._answered.add(str(record.get("hash")))
        usage = record.get("usage")
        if isinstance(usage, Mapping) and not record.get("cached"):
            used = self._used.setdefault(str(record.get("model")), [0, 0])
            for place, name in enumerate(("prompt_tokens", "completion_tokens")):
                count = usage.get(name)
                used[place] += count if isinstance(count, int) else 0
