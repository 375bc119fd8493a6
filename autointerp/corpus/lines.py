"""Chunks of text to lines and to paragraphs, both of bounded size whatever the file looks like.

A paragraph is a run of lines that are not blank; a line of white space only separates and belongs to none.
A longer paragraph than the bound is cut at the last line end inside it, a longer line at the last white
space, and where there is none at the bound itself. Where the cuts fall does not depend on how the text was
chunked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_PARAGRAPH_CHARS = 1 << 20


class Line(NamedTuple):
    """A line without its end, or a piece of one over the bound (`ends` is False for all but the last)."""

    number: int  # 1-based
    text: str
    ends: bool


def lines_of(chunks: Iterable[str], limit: int) -> Iterator[Line]:
    """Lines of at most `limit` characters; a longer line comes in pieces whose concatenation is the line."""
    carry: list[str] = []
    size, number = 0, 1
    for chunk in chunks:
        start = 0
        while (end := chunk.find("\n", start)) >= 0:
            yield from _pieces("".join(carry) + chunk[start:end], limit, number)
            carry, size, start = [], 0, end + 1
            number += 1
        carry.append(chunk[start:])
        size += len(chunk) - start
        if size > limit:
            *whole, rest = _pieces("".join(carry), limit, number)
            yield from (Line(number, piece.text, ends=False) for piece in whole)
            carry, size = [rest.text], len(rest.text)
    if size:
        yield from _pieces("".join(carry), limit, number)


def _pieces(line: str, limit: int, number: int) -> Iterator[Line]:
    while len(line) > limit:
        cut = word_cut(line, limit)
        yield Line(number, line[:cut], ends=False)
        line = line[cut:]
    yield Line(number, line, ends=True)


def word_cut(text: str, limit: int) -> int:
    """Where to end a piece of at most `limit` characters: after its last white space, else at `limit`."""
    # Far back a word border is no better a place than any: looking there would make cutting slow.
    tail_start = max(0, limit - 1000)
    spaces = list(re.finditer(r"\s", text[tail_start:limit]))
    return tail_start + spaces[-1].end() if spaces else limit


def paragraphs_of(chunks: Iterable[str], limit: int = MAX_PARAGRAPH_CHARS) -> Iterator[str]:
    """Paragraphs of at most `limit` characters, without white space at their edges."""
    held: list[str] = []
    size = 0
    for line in lines_of(chunks, limit):
        blank = line.ends and not line.text.strip() and (not held or held[-1].endswith("\n"))
        if held and (blank or size + len(line.text) > limit):
            yield from _joined(held)
            held, size = [], 0
        if not blank:
            held.append(line.text + "\n" if line.ends else line.text)
            size += len(held[-1])
    yield from _joined(held)


def _joined(held: list[str]) -> Iterator[str]:
    text = "".join(held).strip()
    if text:
        yield text
