"""Finds matching brackets and quotation marks in a text, as pairs of characters."""

from __future__ import annotations

_CLOSING = {")": "(", "]": "[", "}": "{", ">": "<", "\u201d": "\u201c"}
_OPENING = frozenset(_CLOSING.values())
_STRAIGHT = '"'


def bracket_pairs(text: str) -> list[tuple[int, int]]:
    """(offset of opening sign, offset of closing sign), in order of closing; unmatched signs are left out."""
    stack: list[tuple[str, int]] = []
    pairs: list[tuple[int, int]] = []
    for offset, char in enumerate(text):
        closes = _STRAIGHT if char == _STRAIGHT else _CLOSING.get(char)
        if closes is not None and stack and stack[-1][0] == closes:
            pairs.append((stack.pop()[1], offset))
        elif char in _OPENING or char == _STRAIGHT:
            stack.append((char, offset))
    return pairs
