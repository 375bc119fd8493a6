"""A probe dataset from disk: a JSONL file, or a Python generator `file.py:callable`.

A line: `{"text": "...", "span": " it", "label": "lantern", "groups": {"template": "t1"}}`. `span` is a string (its
first place, its last with `"last": true`) or a character range `[start, stop]`; `position` instead is a token
position as fed. `group` is short for one group named "group". `ablate` (heads), `cut` ([from, to] pairs), `correct`
and `incorrect` (continuations) may be given. A generator takes no argument and yields such dicts or `ProbeItem`s.
No model is needed here.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autointerp.errors import BadInput
from autointerp.probing.items import Position, ProbeItem
from autointerp.records import Head

KEYS = frozenset(
    {"text", "span", "position", "last", "label", "group", "groups", "ablate", "cut", "correct", "incorrect"}
)


def read_items(spec: str) -> list[ProbeItem]:
    """All items of a dataset. Raises BadInput with the line or item at fault."""
    place, _, name = spec.rpartition(":")
    if place and not Path(spec).is_file():
        return list(_generated(spec, place, name))
    path = Path(spec).expanduser()
    if not path.is_file():
        raise BadInput(f"{spec} is no file. Give a .jsonl file, or file.py:callable for a generator.")
    if path.suffix == ".py":
        raise BadInput(f"{spec} is Python; name its generator: {spec}:items.")
    return list(_lines(path))


def _lines(path: Path) -> Iterator[ProbeItem]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}). Save it again as UTF-8.") from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number} is no JSON ({error}). Give one object a line.") from None
        yield item_of(row, f"{path}, line {number}")


def item_of(row: object, where: str) -> ProbeItem:
    """A `ProbeItem` from a dict; `where` stands in the messages. Raises BadInput."""
    if isinstance(row, ProbeItem):
        return row
    if not isinstance(row, dict):
        raise BadInput(f"{where} is {type(row).__name__}, not an object with text, span, label and groups.")
    unknown = sorted(set(row) - KEYS)
    if unknown:
        raise BadInput(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(KEYS))}.")
    text, label = row.get("text"), row.get("label")
    if not isinstance(text, str) or not text:
        raise BadInput(f"{where} has no text ({text!r}). Give a string.")
    if label is None or isinstance(label, dict | list) or label == "":
        raise BadInput(f"{where} has no label ({label!r}). Label every item.")
    continuations = {k: row[k] for k in ("correct", "incorrect") if row.get(k) is not None}
    if any(not isinstance(value, str) or not value for value in continuations.values()):
        raise BadInput(f"{where}: correct and incorrect are strings, here {continuations}.")
    try:
        ablate = tuple(Head.parse(head) for head in row.get("ablate", ()))
        cut = tuple((int(source), int(destination)) for source, destination in row.get("cut", ()))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{where}: ablate and cut are lists of heads and of [from, to] pairs ({error}).") from None
    groups = _groups(row, where)
    return ProbeItem(
        text, _position(row, where), str(label), groups, ablate, cut, bool(row.get("last")), **continuations
    )


def _groups(row: dict[str, Any], where: str) -> dict[str, str]:
    groups = row.get("groups", {})
    if not isinstance(groups, dict):
        raise BadInput(f'{where}: groups is {groups!r}, not an object such as {{"template": "t1"}}.')
    named = {str(name): str(value) for name, value in groups.items() if value is not None}
    if row.get("group") is not None:
        named["group"] = str(row["group"])
    if not named:
        raise BadInput(f"{where} has no group. Name what a split may hold out: template, lexeme, document, ...")
    return named


def _position(row: dict[str, Any], where: str) -> Position:
    span, position = row.get("span"), row.get("position")
    if (span is None) == (position is None):
        raise BadInput(f"{where} has {'both' if span is not None else 'neither'} span and position; give one of them.")
    if position is not None:
        if not isinstance(position, int) or isinstance(position, bool):
            raise BadInput(f"{where}: position {position!r} is no token position. Give a whole number.")
        return position
    if isinstance(span, str):
        return span
    if isinstance(span, list) and len(span) == 2 and all(isinstance(s, int) and not isinstance(s, bool) for s in span):
        return int(span[0]), int(span[1])
    raise BadInput(f"{where}: the span {span!r} is neither a string nor a character range [start, stop].")


def _generated(spec: str, place: str, name: str) -> Iterator[ProbeItem]:
    try:
        module = _import(place)
    except (ImportError, FileNotFoundError, SyntaxError, ValueError) as error:
        raise BadInput(f"{spec}: {place!r} cannot be imported ({error}). Check the path.") from error
    build: Callable[[], Any] | None = getattr(module, name, None)
    if not callable(build):
        raise BadInput(f"{spec}: {place} has no callable {name!r}. Name a function that yields items.")
    found = build()
    if isinstance(found, str | dict) or not hasattr(found, "__iter__"):
        raise BadInput(f"{spec} gave a {type(found).__name__}, not items. Yield ProbeItems or dicts.")
    for number, row in enumerate(found, 1):
        yield item_of(row, f"{spec}, item {number}")


def _import(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    found = importlib.util.spec_from_file_location(f"probe_dataset_{path.stem}", path)
    if found is None or found.loader is None:
        raise FileNotFoundError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
