"""Finds the JSON object in a model's reply, whatever stands around it. Nothing is evaluated.

Candidates, best first: the whole reply; fenced blocks, last first; objects anywhere, last first. Reasoning
in `<think>` tags is cut away before. Trailing commas and raw line breaks in strings are accepted; NaN,
infinities and nesting beyond Python's limit are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from autointerp.llm.body import well_formed

LONGEST = 200_000  # characters of a reply that are looked at
MOST_STARTS = 300  # opening braces that are tried
MOST_MENDED = 200_000  # characters that are walked in search of trailing commas, all starts together
THINKING = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
THINKING_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\r?\n(.*?)```", re.DOTALL)

T = TypeVar("T")


class _NotAllowedError(ValueError):
    pass


def _refuse(name: str) -> float:
    raise _NotAllowedError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse)


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """All JSON objects in a reply, the likeliest answer first; none where there is none."""
    bare = without_reasoning(text[:LONGEST])
    seen: list[dict[str, Any]] = []
    for piece in (bare, *reversed(FENCE.findall(bare))):
        for found in _objects(piece, whole=True):
            if found not in seen:
                seen.append(found)
                yield found
    for found in reversed(_objects(bare)):
        if found not in seen:
            seen.append(found)
            yield found


def parse_reply(text: str, parse: Callable[[dict[str, Any]], T]) -> T:
    """The first object in the reply that `parse` accepts.

    Raises ValueError with the reason of the likeliest object, or where the reply holds none.
    """
    first: ValueError | None = None
    for found in json_objects(text):
        try:
            return parse(found)
        except (ValueError, TypeError, KeyError) as error:  # a hostile value may have any type
            first = first or ValueError(_reason(error))
    raise first or ValueError("the reply holds no JSON object" if text.strip() else "the reply is empty")


def without_reasoning(text: str) -> str:
    """The reply after its `<think>` part, opening tag or not; empty where that never ends."""
    text = text.lstrip("\ufeff")
    ends = [match.end() for match in THINKING_END.finditer(text)]
    if ends:
        return text[ends[-1] :] if "{" in text[ends[-1] :] else text
    return "" if THINKING.match(text) else text


def _reason(error: Exception) -> str:
    return f"the field {error} is missing" if isinstance(error, KeyError) else str(error)


def _objects(text: str, *, whole: bool = False) -> list[dict[str, Any]]:
    """The objects in a text in order; with `whole`, only one that the text consists of."""
    found: list[dict[str, Any]] = []
    text = text.strip() if whole else text
    position, starts, walk = text.find("{"), 0, MOST_MENDED
    while position >= 0 and starts < MOST_STARTS and (position == 0 or not whole):
        starts += 1
        value, end = _strict(text, position)
        if value is None and walk > 0:
            value, end = _mended(text, position, walk)
            walk -= end - position
        if value is not None and not (whole and end < len(text)):
            found.append(value)
        position = text.find("{", end if value is not None else position + 1)
    return found


def _strict(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    """The object that starts at `start`, and the index after it."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return _cleaned(value), end


def _mended(text: str, start: int, walk: int) -> tuple[dict[str, Any] | None, int]:
    """The same without trailing commas, looking at `walk` characters at most, and how far it looked."""
    kept: list[int] = []
    depth, in_string, escaped, place = 0, False, False, start
    for place in range(start, min(len(text), start + walk)):
        char = text[place]
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            _drop_comma(text, kept)
        kept.append(place)
        if depth == 0:
            break
    value, _ = _strict("".join(text[kept_place] for kept_place in kept), 0)
    return value, place + 1


def _drop_comma(text: str, kept: list[int]) -> None:
    back = len(kept) - 1
    while back >= 0 and text[kept[back]].isspace():
        back -= 1
    if back >= 0 and text[kept[back]] == ",":
        del kept[back]


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(name): _cleaned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return value
