"""The vocabulary of the planted model: whole words by class, signs, and single characters for any other text.

A word stands in the vocabulary with its leading space, as in running text; words that may open a document or follow
an opening sign stand there without it too.
"""

from __future__ import annotations

from functools import cache

BOS, UNKNOWN = "<bos>", "<unk>"

CLASSES: dict[str, tuple[str, ...]] = {
    "name": tuple("Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Kara Leo Mona Nils Olga Peter".split()),
    "colour": tuple("red blue green black white brown grey yellow".split()),
    "animal": tuple("fox cat dog horse bird mouse bear owl".split()),
    "thing": tuple("spoon basket lamp door boat chair stone bell".split()),
    "place": tuple("river garden kitchen market forest bridge tower harbour".split()),
    "day": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "verb": tuple("saw found carried painted washed sold lost hid".split()),
    "cue": tuple("told asked met thanked called helped".split()),
    "adverb": tuple("again slowly early late often quietly once there".split()),
    "function": tuple("the a and then in at near with to was of by but so they it on who from counted wrote".split()),
    "numeral": tuple(str(n) for n in range(21)),
    "comma": (",", ";", ":"),
    "stop": (".", "!", "?"),
    "opening": ("(", "["),
    "closing": (")", "]"),
    "quote": ("\u201c", "\u201d"),
}
"""Class -> its words; a sign of `comma`, `stop` and `closing` follows the word before it without a space."""

WORD_CLASSES = ("name", "colour", "animal", "thing", "place", "day", "verb", "cue", "adverb", "function", "numeral")
SIGN_CLASSES = ("comma", "stop", "opening", "closing", "quote")
BARE_CLASSES = ("name", "colour", "animal", "thing", "numeral", "day")  # may open a document or follow an opening sign
BARE_WORDS = ("the", "a", "they", "on", "in", "then")


@cache
def vocabulary() -> tuple[tuple[str, str], ...]:
    """(token string, class) by id; control tokens have the class `control`, single characters `character`."""
    found: dict[str, str] = {BOS: "control", UNKNOWN: "control"}
    for name in WORD_CLASSES:
        found |= {f" {word}": name for word in CLASSES[name]}
    for name in BARE_CLASSES:
        found |= {word: name for word in CLASSES[name]}
    found |= {word: "function" for word in BARE_WORDS}
    for name in SIGN_CLASSES:
        found |= {sign: name for sign in CLASSES[name]}
    found |= {f" {sign}": "opening" for sign in CLASSES["opening"]} | {" \u201c": "quote"}
    for code in (10, *range(32, 127)):
        found.setdefault(chr(code), "character")
    return tuple(found.items())


def ids_of_class(name: str) -> list[int]:
    """Ids of a class, ascending."""
    return [i for i, (_, own) in enumerate(vocabulary()) if own == name]
