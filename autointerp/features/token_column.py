"""One token of every learning row (the one here, or the one before) as codes of strings, with what strings are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from autointerp.predicate import TokenTable

PARTS = (1, 2, 3, 4)  # characters of a beginning or an ending
FLAGS = (
    "is_word", "is_capitalised", "is_number", "is_punctuation", "is_open_bracket", "is_close_bracket", "is_quote",
    "is_newline", "is_space",
)  # fmt: skip
"""Attributes that follow from the string alone."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Strings put together under names: `of[code]` is the group of a string, -1 for none."""

    names: list[str]
    of: Int[np.ndarray, " code"]

    @classmethod
    def by(cls, keys: Sequence[str | None]) -> Groups:
        """One group for each key but None."""
        known: dict[str, int] = {}
        of = [-1 if key is None else known.setdefault(key, len(known)) for key in keys]
        return cls(list(known), np.array(of, dtype=np.int64))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over each group."""
        mine = self.of >= 0
        return np.bincount(self.of[mine], weights=values[mine], minlength=len(self.names))


@dataclass(frozen=True, eq=False)
class TokenColumn:
    """`codes` count from 0; `strings[code]` is the string (empty for a control token), `counts[code]` its rows.

    Two tokens with one string are one, as a predicate sees them.
    """

    name: Literal["dst", "dst.prev"]
    codes: Int[np.ndarray, " row"]
    strings: list[str]
    counts: Int[np.ndarray, " code"]
    flags: dict[str, Bool[np.ndarray, " code"]]
    word_start: Bool[np.ndarray, " row"]

    @classmethod
    def of(
        cls,
        name: Literal["dst", "dst.prev"],
        ids: Int[np.ndarray, " row"],
        word_start: Bool[np.ndarray, " row"],
        table: TokenTable,
        strings: Sequence[str],
    ) -> TokenColumn:
        """The tokens with these ids."""
        found, first, codes = np.unique(table.text[ids], return_index=True, return_inverse=True)
        some = ids[first]  # one id of each string
        special = table.flags["is_special"]
        return cls(
            name,
            codes.astype(np.int32),
            ["" if special[i] else strings[i] for i in some],
            np.bincount(codes, minlength=len(found)),
            {flag: table.flags[flag][some] for flag in FLAGS},
            word_start,
        )

    @cached_property
    def usable(self) -> Bool[np.ndarray, " code"]:
        """Which strings a rule may name: control tokens have none."""
        return np.array([string != "" for string in self.strings], bool)

    @cached_property
    def lower(self) -> Groups:
        """Strings that are one without case and spaces around them."""
        return Groups.by([string.strip().casefold() or None for string in self.strings])

    @cached_property
    def beginnings(self) -> list[Groups]:
        """Of the strings without case and spaces; one grouping for each of `PARTS`."""
        return [self._parts(size, slice(None, size)) for size in PARTS]

    @cached_property
    def endings(self) -> list[Groups]:
        """As `beginnings`."""
        return [self._parts(size, slice(-size, None)) for size in PARTS]

    def _parts(self, size: int, part: slice) -> Groups:
        cut = [string.strip().casefold()[part] for string in self.strings]
        return Groups.by([c if len(c) == size and c == c.strip().casefold() else None for c in cut])

    @cached_property
    def flag_matrix(self) -> np.ndarray:
        """`flags` as numbers, [flag code]."""
        return np.stack([self.flags[name] for name in FLAGS]).astype(np.float64)

    @cached_property
    def _by_code(self) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " bound"]]:
        return np.argsort(self.codes, kind="stable"), np.concatenate([[0], np.cumsum(self.counts)])

    def rows_of(self, code: int) -> Int[np.ndarray, " some"]:
        """The rows with this string."""
        order, bounds = self._by_code
        return order[bounds[code] : bounds[code + 1]]
