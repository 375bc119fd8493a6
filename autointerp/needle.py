"""Where a string stands in a text, whether a border lies within a word, and what is like a string."""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence


def inside_word(text: str, at: int) -> bool:
    """Whether the border before character `at` lies within a word."""
    return 0 < at < len(text) and _in_word(text[at - 1]) and _in_word(text[at])


def _in_word(char: str) -> bool:
    # Scripts without case (Lo) may be written without spaces, so that no border can be told within them.
    return (
        char == "_" or unicodedata.category(char)[0] in "MN" or (char.isalpha() and unicodedata.category(char) != "Lo")
    )


def occurrences(text: str, needle: str, *, case: bool) -> Iterator[tuple[int, int]]:
    """Character ranges where the needle stands, overlapping ones too."""
    hay, origin = (text, range(len(text) + 1)) if case else _folded(text)
    wanted = needle if case else needle.casefold()
    at = hay.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        # One character may fold into several ("ß" into "ss"): a match has to hold all of each.
        whole_first = at == 0 or origin[at] != origin[at - 1]
        whole_last = end == len(hay) or origin[end] != origin[end - 1]
        if whole_first and whole_last:
            yield origin[at], origin[end - 1] + 1
        at = hay.find(wanted, at + 1)


def _folded(text: str) -> tuple[str, Sequence[int]]:
    pieces = [char.casefold() for char in text]
    return "".join(pieces), [at for at, piece in enumerate(pieces) for _ in piece]


def nearest(needle: str, tokens: Mapping[str, int], count: int = 3) -> str:
    """The `count` tokens most like the needle with their positions, for a message."""

    def unlike(token: str) -> tuple[float, int]:
        likeness = difflib.SequenceMatcher(None, needle.strip().lower(), token.strip().lower()).ratio()
        return -likeness, tokens[token]

    shown = sorted(tokens, key=unlike)[:count]
    return ", ".join(f"{json.dumps(token, ensure_ascii=False)} at {tokens[token]}" for token in shown)
