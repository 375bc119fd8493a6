"""Token strings from ids: the tokenizer's own piece for each id, as text. Nothing is decoded and encoded again."""

from __future__ import annotations

import json
import re
from typing import Any

SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character


def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte, inverted (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


def token_strings(tokenizer: Any, size: int) -> list[str]:
    """One string per id in [0, size); bytes that are no whole UTF-8 character are written as \\xNN.

    Ids beyond the tokenizer (padded embeddings) are written as `<id N>`.
    """
    known = min(size, len(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
    special = set(tokenizer.all_special_ids)
    read = _byte_level if _is_byte_level(tokenizer) else _sentencepiece
    strings = [
        f"<id {i}>" if piece is None else piece if i in special else read(piece) for i, piece in enumerate(pieces)
    ]
    return strings + [f"<id {i}>" for i in range(known, size)]


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    parts = json.loads(backend.to_str())
    return '"ByteLevel"' in json.dumps([parts.get("decoder"), parts.get("pre_tokenizer")])


_ALPHABET = byte_alphabet()


def _byte_level(piece: str) -> str:
    if any(c not in _ALPHABET for c in piece):
        return piece  # an added token is stored as plain text
    return bytes(_ALPHABET[c] for c in piece).decode("utf-8", errors="backslashreplace")


def _sentencepiece(piece: str) -> str:
    match = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)
    if match:
        return bytes([int(match.group(1), 16)]).decode("utf-8", errors="backslashreplace")
    return piece.replace(SPACE_MARK, " ")


def offsets_by_accumulation(strings: list[str], text: str) -> list[tuple[int, int]]:
    """Character ranges for tokenizers without offsets: each piece is looked for from the end of the last one."""
    found: list[tuple[int, int]] = []
    at = 0
    for piece in strings:
        start, at = _find(text, piece, at)
        found.append((start, at))
    return found


def _find(text: str, piece: str, at: int) -> tuple[int, int]:
    """The nearest range at or soon after `at` that reads as the piece, with its outer spaces or, where the text
    lacks them, without; empty where there is none."""
    places: list[tuple[int, int]] = []
    for part in dict.fromkeys((piece, piece.strip())):
        start = text.find(part, at, at + len(part) + 8) if part else -1
        if start >= 0:
            places.append((start, start + len(part)))
    return min(places, key=lambda place: place[0], default=(at, at))
