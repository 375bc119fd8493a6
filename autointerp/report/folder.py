"""Reading a run folder: config.json, run.json, calls.jsonl and heads.jsonl, each as far as it is there.

A head may stand in several lines of heads.jsonl (a retry): the last whole line wins. A half-written last line
is left out. Reports are read one at a time, so memory does not grow with the number of heads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autointerp.errors import RunFolderError
from autointerp.records import Head, HeadReport

Json = dict[str, Any]
_HEAD = re.compile(rb'\s*\{\s*"head"\s*:\s*\{\s*"layer"\s*:\s*(\d+)\s*,\s*"index"\s*:\s*(\d+)\s*\}')


@dataclass(frozen=True)
class CallTotals:
    """Counts over calls.jsonl: requests written, those answered from the cache, retries made."""

    calls: int = 0
    from_cache: int = 0
    retries: int = 0


@dataclass(frozen=True)
class HeadFile:
    """heads.jsonl with the place of each head's last whole line, sorted by layer and index."""

    path: Path
    places: tuple[tuple[Head, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def reports(self) -> Iterator[HeadReport]:
        """The reports in head order; RunFolderError where a line does not hold one."""
        with self.path.open("rb") as file:
            for head, place in self.places:
                file.seek(place)
                yield _parse(file.readline(), f"{self.path}, head {head}")


def open_heads(folder: Path) -> HeadFile:
    """Index heads.jsonl of a run; RunFolderError where it is missing or a line in the middle is damaged."""
    path = folder / "heads.jsonl"
    if not path.is_file():
        raise RunFolderError(f"{folder} holds no heads.jsonl, so it is no run folder. Give the folder of a run.")
    places: dict[Head, int] = {}
    with path.open("rb") as file:
        place = 0
        for number, line in enumerate(file, start=1):
            head = _head_of(line, f"{path}, line {number}") if line.strip() else None
            if head is not None:
                places[head] = place
            place += len(line)
    return HeadFile(path, tuple(sorted(places.items())))


def _head_of(line: bytes, where: str) -> Head | None:
    match = _HEAD.match(line)
    if line.endswith(b"\n") and match is not None:
        return Head(layer=int(match.group(1)), index=int(match.group(2)))
    try:
        return _parse(line, where).head
    except RunFolderError:
        if line.endswith(b"\n"):
            raise
        return None


def _parse(line: bytes, where: str) -> HeadReport:
    try:
        return HeadReport.model_validate_json(line)
    except ValidationError as first:
        try:  # the fast reader refuses lone surrogates, which tokens of odd vocabularies can hold
            return HeadReport.model_validate(_lists_to_tuples(json.loads(line)))
        except (ValueError, RecursionError):
            problem = first.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise RunFolderError(
                f"{where}: not a head report ({place}: {problem['msg']}). Run the same command again to rewrite it."
            ) from None


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists_to_tuples(item) for key, item in value.items()}
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value


def read_json(path: Path) -> Json:
    """A JSON object, or an empty one where the file is missing; RunFolderError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path} is not JSON ({error}). Restore it, or start a new run folder.") from None
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}, not an object. Start a new run folder.")
    return value


def count_calls(path: Path) -> CallTotals | None:
    """Totals over calls.jsonl, or None where there is none; a half-written line is not counted."""
    if not path.is_file():
        return None
    calls = cached = retries = 0
    with path.open("rb") as file:
        for line in file:
            try:
                call = json.loads(line)
            except ValueError:
                continue
            if isinstance(call, dict):
                calls += 1
                cached += bool(call.get("cached") or call.get("from_cache"))
                retries += int(call.get("retries") or 0)
    return CallTotals(calls, cached, retries)
