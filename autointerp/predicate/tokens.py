"""What is known of tokens: properties of every vocabulary string, computed once, and of tokens in rows.

The definitions here are the only ones: detectors and predicates that speak of punctuation mean one thing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from autointerp.errors import BadInput
from autointerp.predicate.tree import ATTRIBUTES, Test

_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*%?")
_QUOTES = frozenset("\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb")
_APOSTROPHES = frozenset("'\u2019")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_MAX_CACHED_TESTS = 128


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Properties of each vocabulary id; build it once per tokenizer with `from_strings`.

    `text` and `lower` hold codes of interned strings: two ids have the same string where the codes are equal,
    across the two arrays too. `flags` holds one array per name. `spaced`: begins with white space;
    `starts_word`: its first other character is a letter or digit; `joins_next`: ends inside a word. Specials
    have no text: all their properties are false and their strings empty.
    """

    text: Int[np.ndarray, " vocab"]
    lower: Int[np.ndarray, " vocab"]
    length: Int[np.ndarray, " vocab"]
    flags: dict[str, Bool[np.ndarray, " vocab"]]
    spaced: Bool[np.ndarray, " vocab"]
    starts_word: Bool[np.ndarray, " vocab"]
    joins_next: Bool[np.ndarray, " vocab"]
    _codes: dict[str, int] = field(repr=False)
    _tests: dict[tuple[Test, str], Bool[np.ndarray, " code"]] = field(repr=False, default_factory=dict)

    @classmethod
    def from_strings(cls, strings: Sequence[str], special_ids: Collection[int] = ()) -> TokenTable:
        """Table of a vocabulary: `strings[id]` is the token as it stands in text, its leading space included.

        Byte-fallback and space-marker pieces must be turned into text by the caller. Raises BadInput for an
        entry that is not a string and for a special id outside the vocabulary.
        """
        size, specials = len(strings), np.zeros(len(strings), dtype=bool)
        outside = [number for number in special_ids if not 0 <= number < size]
        if outside:
            raise BadInput(f"special ids {outside} are outside the vocabulary of {size}; check the tokenizer")
        specials[list(special_ids)] = True
        texts = ["" if special else text for text, special in zip(strings, specials.tolist(), strict=True)]
        wrong = next((number for number, text in enumerate(texts) if not isinstance(text, str)), None)
        if wrong is not None:
            raise BadInput(f"vocabulary entry {wrong} is {strings[wrong]!r}; give a string, empty if need be")
        bare = [text.strip() for text in texts]
        folded = [text.casefold() for text in bare]
        codes: dict[str, int] = {}
        flags = _flags(texts, bare)
        flags["is_special"] = specials
        return cls(
            text=np.fromiter((codes.setdefault(text, len(codes)) for text in texts), np.int32, size),
            lower=np.fromiter((codes.setdefault(text, len(codes)) for text in folded), np.int32, size),
            length=np.fromiter(map(len, bare), np.int32, size),
            spaced=np.fromiter((text[:1].isspace() for text in texts), bool, size),
            starts_word=np.fromiter((text[:1].isalnum() for text in bare), bool, size),
            joins_next=np.fromiter((_ends_in_word(text[-1:]) for text in texts), bool, size),
            flags=flags,
            _codes=codes,
        )

    def __len__(self) -> int:
        return len(self.text)

    def code(self, string: str) -> int:
        """The code of a string, -1 where no token has it."""
        return self._codes.get(string, -1)

    def tested(self, test: Test, literal: str) -> Bool[np.ndarray, " code"]:
        """For each string code, whether the string passes; one pass over the vocabulary, then remembered."""
        found = self._tests.get((test, literal))
        if found is None:
            check: Callable[[str], bool] = {
                "contains": lambda string: literal in string,
                "startswith": lambda string: string.startswith(literal),
                "endswith": lambda string: string.endswith(literal),
            }[test]
            found = np.fromiter(map(check, self._codes), bool, len(self._codes))
            if len(self._tests) >= _MAX_CACHED_TESTS:
                self._tests.pop(next(iter(self._tests)))
            self._tests[(test, literal)] = found
        return found


def _ends_in_word(character: str) -> bool:
    return character.isalnum() or character in _APOSTROPHES


def _flags(texts: list[str], bare: list[str]) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Properties that follow from one token's string, by character sets made once for the vocabulary."""
    sorts = {character: unicodedata.category(character) for character in set("".join(texts))}
    # Other symbols (So) are no punctuation: emoji, and the replacement character of split UTF-8.
    signs = {character for character, sort in sorts.items() if sort[0] == "P" or sort in ("Sm", "Sc", "Sk")}
    letters = {character for character, sort in sorts.items() if sort[0] in "LM"}
    capitals = {character for character, sort in sorts.items() if sort in ("Lu", "Lt")}

    def each(check: Callable[[str], bool], over: list[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.fromiter(map(check, over), bool, len(over))

    some = each(bool, bare)
    punctuation = each(signs.issuperset, bare) & some
    return {
        "is_word": each(letters.issuperset, bare) & some,
        "is_capitalised": each(lambda text: text[:1] in capitals, bare),
        "is_number": each(lambda text: _NUMBER.fullmatch(text) is not None, bare),
        "is_punctuation": punctuation,
        "is_open_bracket": punctuation & ~each(_OPENING.isdisjoint, bare),
        "is_close_bracket": punctuation & ~each(_CLOSING.isdisjoint, bare),
        "is_quote": punctuation & ~each(_QUOTES.isdisjoint, bare),
        "is_newline": each(lambda text: "\n" in text or "\r" in text, texts),
        "is_space": each(str.isspace, texts),
    }


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Right-padded rows of ids with the properties of their tokens; what stands at pads is not specified.

    `ids`: vocabulary ids, anything at pads. `lengths`: fed ids of each row. Raises BadInput where they do not
    fit the table.
    """

    ids: Int[np.ndarray, "row pos"]
    lengths: Int[np.ndarray, " row"]
    table: TokenTable

    def __post_init__(self) -> None:
        width = self.ids.shape[1]
        if self.ids.shape[0] != len(self.lengths):
            raise BadInput(f"{self.ids.shape[0]} rows of ids but {len(self.lengths)} lengths; give one a row")
        if len(self.lengths) and not (self.lengths.min() >= 0 and self.lengths.max() <= width):
            raise BadInput(f"lengths {self.lengths.min()}..{self.lengths.max()} do not fit {width} positions")
        clean = np.where(self.valid, self.ids, 0).astype(np.int32)
        if clean.size and not (clean.min() >= 0 and clean.max() < len(self.table)):
            seen = f"token ids {clean.min()}..{clean.max()}"
            raise BadInput(f"{seen} do not fit a vocabulary of {len(self.table)}; use the model's own tokenizer")
        object.__setattr__(self, "ids", clean)

    @property
    def valid(self) -> Bool[np.ndarray, "row pos"]:
        """True at fed positions, False at pads."""
        return np.arange(self.ids.shape[1])[None, :] < self.lengths[:, None]

    def attribute(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """One attribute of every token, `[row pos]`: codes for `text` and `lower`, numbers, or booleans."""
        if name not in ATTRIBUTES:
            raise BadInput(f"{name!r} is no token attribute; known are {', '.join(ATTRIBUTES)}")
        position = np.broadcast_to(np.arange(self.ids.shape[1], dtype=np.int32), self.ids.shape)
        if name == "position":
            return position
        if name == "is_first":
            return np.asarray(position == 0)
        if name == "seen_before":
            return self._seen_before()
        if name == "is_word_start":
            return self._word_start()
        strings = {"text": self.table.text, "lower": self.table.lower, "length": self.table.length}
        column = self.table.flags[name] if name in self.table.flags else strings[name]
        return np.take(column, self.ids)

    def _seen_before(self) -> Bool[np.ndarray, "row pos"]:
        order = np.argsort(self.ids, axis=1, kind="stable")  # equal ids stay in the order of their positions
        ranked = np.take_along_axis(self.ids, order, axis=1)
        repeated = np.zeros(self.ids.shape, dtype=bool)
        repeated[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
        seen = np.empty_like(repeated)
        np.put_along_axis(seen, order, repeated, axis=1)
        return seen

    def _word_start(self) -> Bool[np.ndarray, "row pos"]:
        """Begins with a space and a letter or digit, or with one of these where no word is going on."""
        follows = np.zeros(self.ids.shape, dtype=bool)
        follows[:, 1:] = self.table.joins_next[self.ids][:, :-1]
        starts, spaced = self.table.starts_word[self.ids], self.table.spaced[self.ids]
        begins: Bool[np.ndarray, "row pos"] = starts & (spaced | ~follows)
        return begins
