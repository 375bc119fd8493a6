"""Reading a run folder: config.json, run.json, calls.jsonl, heads.jsonl or features.jsonl, each as far as it is there.

A unit may stand in several lines of its file (a retry): the last whole line wins. A half-written last line is left
out. Reports are read one at a time, so memory does not grow with the number of units.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from autointerp.errors import RunFolderError
from autointerp.feature_records import FeatureReport
from autointerp.records import Feature, Head, HeadReport
from autointerp.store import REMOVE_FILE

Json = dict[str, Any]
U = TypeVar("U", Head, Feature)
R = TypeVar("R", HeadReport, FeatureReport)
_NUMBERS = rb'"layer"\s*:\s*(\d+)\s*,\s*"index"\s*:\s*(\d+)\s*\}'
_HEAD = re.compile(rb'\s*\{\s*"head"\s*:\s*\{\s*' + _NUMBERS)
_FEATURE = re.compile(rb'\s*\{\s*"unit"\s*:\s*\{\s*"kind"\s*:\s*"(neuron|latent)"\s*,\s*' + _NUMBERS)


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
        for head, line in _lines(self.path, self.places):
            yield _parse(line, f"{self.path}, head {head}", HeadReport)


@dataclass(frozen=True)
class FeatureFile:
    """features.jsonl with the place of each unit's last whole line, sorted."""

    path: Path
    places: tuple[tuple[Feature, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def reports(self) -> Iterator[FeatureReport]:
        """The reports in unit order; RunFolderError where a line does not hold one."""
        for unit, line in _lines(self.path, self.places):
            yield _parse(line, f"{self.path}, unit {unit}", FeatureReport)


def open_heads(folder: Path) -> HeadFile:
    """Index heads.jsonl of a run; RunFolderError where it is missing or a line in the middle is damaged."""
    path = folder / "heads.jsonl"
    if holds_features(folder):
        raise RunFolderError(f"{folder} is a run over neurons or latents, not over heads: it holds features.jsonl.")
    return HeadFile(path, tuple(sorted(_places(path, _head_of).items())))


def open_features(folder: Path) -> FeatureFile:
    """Index features.jsonl of a run; RunFolderError where it is missing or a line in the middle is damaged."""
    path = folder / "features.jsonl"
    return FeatureFile(path, tuple(sorted(_places(path, _feature_of).items())))


def holds_features(folder: Path) -> bool:
    """Whether the folder is that of a run over neurons or latents."""
    return (folder / "features.jsonl").is_file() and not (folder / "heads.jsonl").is_file()


def _places(path: Path, unit_of: Callable[[bytes, str], U | None]) -> dict[U, int]:
    """Where each unit's last whole line starts."""
    if not path.is_file():
        raise RunFolderError(f"{path.parent} holds no {path.name}, so it is no run folder. Give the folder of a run.")
    places: dict[U, int] = {}
    with path.open("rb") as file:
        place = 0
        for number, line in enumerate(file, start=1):
            unit = unit_of(line, f"{path}, line {number}") if line.strip() else None
            if unit is not None:
                places[unit] = place
            place += len(line)
    return places


def _lines(path: Path, places: tuple[tuple[U, int], ...]) -> Iterator[tuple[U, bytes]]:
    with path.open("rb") as file:
        for unit, place in places:
            file.seek(place)
            yield unit, file.readline()


def _head_of(line: bytes, where: str) -> Head | None:
    match = _HEAD.match(line)
    if line.endswith(b"\n") and match is not None:
        return Head(layer=int(match.group(1)), index=int(match.group(2)))
    found = _parse_or_cut(line, where, HeadReport)
    return None if found is None else found.head


def _feature_of(line: bytes, where: str) -> Feature | None:
    match = _FEATURE.match(line)
    if line.endswith(b"\n") and match is not None:
        kind: Literal["neuron", "latent"] = "neuron" if match.group(1) == b"neuron" else "latent"
        return Feature(kind=kind, layer=int(match.group(2)), index=int(match.group(3)))
    found = _parse_or_cut(line, where, FeatureReport)
    return None if found is None else found.unit


def _parse_or_cut(line: bytes, where: str, record: type[R]) -> R | None:
    """The report of a line, None of one that was cut off."""
    try:
        return _parse(line, where, record)
    except RunFolderError:
        if line.endswith(b"\n"):
            raise
        return None


def _parse(line: bytes, where: str, record: type[R]) -> R:
    try:
        return record.model_validate_json(line)
    except ValidationError as first:
        try:  # the fast reader refuses lone surrogates, which tokens of odd vocabularies can hold
            return record.model_validate(_lists_to_tuples(json.loads(line)))
        except (ValueError, RecursionError):
            problem = first.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            name = "head" if record is HeadReport else "unit"
            raise RunFolderError(f"{where}: not a {name} report ({place}: {problem['msg']}). {REMOVE_FILE}") from None


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


def replace_file(path: Path, text: str) -> None:
    """Write a file whole: under a temporary name that then takes the place. Raises RunFolderError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(
            f"cannot write {path} ({error.strerror}). "
            "Make room or check the rights, then run `autointerp report` again."
        ) from None
