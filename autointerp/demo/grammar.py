"""Expands the rules of the demo corpus with a random generator; words already used in a document come back.

1. A rule symbol picks one alternative, uniformly; each slot of it is expanded from left to right.
2. A word symbol picks a word of the document with probability `REUSE`, else a new one from its list.
3. A finished sentence gets its capital letter and "an" before vowels.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import zip_longest

from autointerp.demo.people import BY_MENTION, ENTITIES, FIRST_NAMES, Entity, EntityClass
from autointerp.demo.rules import RULES
from autointerp.demo.words import TERMINALS

REUSE = 0.3
"""Probability that a word of the same symbol, used earlier in the document, is used again."""

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.!?] ))\w")
_BY_CLASS: dict[EntityClass, tuple[Entity, ...]] = {
    kind: tuple(entity for entity in ENTITIES if entity.kind == kind) for kind in ("person", "town", "firm")
}


@cache
def _parts(template: str) -> tuple[tuple[str, str], ...]:
    """The template as (literal text, slot after it) pairs; the last slot may be empty."""
    pieces = _SLOT.split(template)
    return tuple(zip_longest(pieces[::2], pieces[1::2], fillvalue=""))


def articles(text: str) -> str:
    """ "a" to "an" before a vowel."""
    return _ARTICLE.sub(r"\1n ", text)


def polish(text: str) -> str:
    """Capitals at the beginning and after each full stop, "an" before vowels."""
    return _SENTENCE_START.sub(lambda match: match[0].upper(), articles(text))


class Scene:
    """One document being written: the random generator and the words the document has used so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._used: dict[str, list[str]] = defaultdict(list)
        self._last: dict[EntityClass, Entity] = {}

    def expand(self, template: str) -> str:
        """The template with every slot filled; KeyError for an unknown slot."""
        return "".join(text + (self.symbol(slot) if slot else "") for text, slot in _parts(template))

    def symbol(self, name: str) -> str:
        """One expansion of a symbol: a rule, a word list, a name, an entity or a number."""
        if name in RULES:
            return self.expand(self.rng.choice(RULES[name]))
        if name in TERMINALS:
            return self._word(name, TERMINALS[name])
        return _SPECIAL[name](self)

    def sentence(self, symbol: str = "SENTENCE") -> str:
        """A polished sentence of the given rule."""
        return polish(self.symbol(symbol))

    def passage(self, n_sentences: int, symbol: str = "SENTENCE") -> str:
        """Sentences of one rule, joined by spaces."""
        return " ".join(self.sentence(symbol) for _ in range(n_sentences))

    def first_name(self) -> str:
        """A single-token first name; the document's earlier names come back more often than other words."""
        return self._word("name", FIRST_NAMES)

    def entity(self, kind: EntityClass) -> Entity:
        """A fictional entity, remembered as the latest of its class."""
        used = self._used[kind]
        if used and self.rng.random() < REUSE:
            chosen = BY_MENTION[self.rng.choice(used)]
        else:
            chosen = self.rng.choice(_BY_CLASS[kind])
            used.append(chosen.mention)
        self._last[kind] = chosen
        return chosen

    def latest(self, kind: EntityClass) -> Entity:
        """The entity of this class mentioned last (a new one where there is none)."""
        return self._last.get(kind) or self.entity(kind)

    def _word(self, name: str, words: tuple[str, ...]) -> str:
        used = self._used[name]
        if len(used) > 1 and self.rng.random() < REUSE:
            return self.rng.choice(used[:-1])
        word = self.rng.choice(words)
        used.append(word)
        return word


def _clock(scene: Scene) -> str:
    return f"{scene.rng.randrange(24)}:{scene.rng.randrange(12) * 5:02d}"


_SPECIAL: dict[str, Callable[[Scene], str]] = {
    "name": Scene.first_name,
    "person": lambda scene: scene.entity("person").mention,
    "town": lambda scene: scene.entity("town").mention,
    "firm": lambda scene: scene.entity("firm").mention,
    "person_role": lambda scene: scene.latest("person").role,
    "person_home": lambda scene: scene.latest("person").home,
    "firm_home": lambda scene: scene.latest("firm").home,
    "goods": lambda scene: scene.latest("firm").goods,
    "town_goods": lambda scene: scene.latest("town").goods,
    "day": lambda scene: str(scene.rng.randrange(1, 29)),
    "hour": _clock,
    "count": lambda scene: str(scene.rng.randrange(2, 100)),
    "amount": lambda scene: f"{scene.rng.randrange(2, 100)} crowns",
    "percent": lambda scene: f"{scene.rng.randrange(1, 40)}%",
}
"""Slots that are neither rules nor word lists."""
