"""Numbers and tokens as a language model is shown them: three digits, short strings, and an answer that has an end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from autointerp.records import TokenValue

ANSWER_CHARACTERS = 1500
TOKEN_CHARACTERS = 24
ERROR_CHARACTERS = 300
Plain = dict[str, Any]


def number(value: float) -> float | None:
    """Three significant digits; None where it is undefined."""
    return float(f"{value:.3g}") if math.isfinite(value) else None


def token(text: str) -> str:
    """A token as it stands in text, cut where it is long; half characters are shown as such."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole if len(whole) <= TOKEN_CHARACTERS else whole[: TOKEN_CHARACTERS - 1] + "…"


def values(found: Iterable[TokenValue], n: int) -> list[list[object]]:
    """`[token, logits]` of the first n."""
    return [[token(v.token), number(v.value)] for v in list(found)[:n]]


def ending(tokens: Sequence[str], dst: int, most: int, *, bos: bool) -> str:
    """The text up to a destination, which stands in `>` and `<`; `most` characters before it at the most. `bos`: the
    first token is BOS and no part of the text; who copied it into a text would write its characters."""
    before = "".join(tokens[int(bos) : dst]).encode("utf-8", "replace").decode("utf-8")
    cut = "…" + before[-most:] if len(before) > most else before
    return f"{cut}>{token(tokens[dst])}<"


def bounded(answer: Plain, most: int = ANSWER_CHARACTERS) -> Plain:
    """The answer with its longest lists and then texts shortened until its JSON fits; `shortened` says so."""
    kept: Plain = json.loads(json.dumps(answer))
    while _size(kept) > most:
        kept["shortened"] = True
        longest = max(_lists(kept), key=_size, default=None)
        if longest is not None:
            longest.pop()
        elif not _halve(kept):
            return {"error": "the answer is too long to show; ask about less"}
    return kept


def _size(value: object) -> int:
    return len(json.dumps(value))  # with every character outside ASCII escaped: the longest form


def _lists(value: object) -> Iterator[list[Any]]:
    """Lists that can lose an entry: those of records down to one, those of plain values down to two."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, list) and value and len(value) > (1 if isinstance(value[-1], dict | list) else 2):
        yield value
    for part in parts:
        yield from _lists(part)


def _halve(answer: Plain) -> bool:
    name = max((k for k, v in answer.items() if isinstance(v, str)), key=lambda k: len(answer[k]), default=None)
    if name is None or len(answer[name]) < 2:
        return False
    answer[name] = answer[name][: len(answer[name]) // 2]
    return True
