"""The text of `--corpus planted`: an endless seeded stream of short original documents in the planted vocabulary.

1. A document draws its cast (three names, two animals with colours, a place) and keeps to it, so that words come back.
2. It writes sentences of the kinds below in random order: plain ones, names after the words that call for one, counts,
   remarks in brackets and in quotation marks, lists, days in order, and a phrase that is said again word for word.

Document n is the same on every machine and for every seed of the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from autointerp.planted.words import CLASSES

SENTENCES = (5, 7)


@dataclass(frozen=True)
class Cast:
    """What one document is about, and its own random numbers."""

    draw: random.Random
    names: list[str]
    animals: list[str]  # with their colours
    place: str
    refrain: str

    @classmethod
    def of(cls, draw: random.Random) -> Cast:
        colours, animals = draw.sample(CLASSES["colour"], 2), draw.sample(CLASSES["animal"], 2)
        phrase = [draw.choice(CLASSES[name]) for name in ("adverb", "verb", "thing", "colour", "place", "verb")]
        draw.shuffle(phrase)
        names = draw.sample(CLASSES["name"], 3)
        animals = [f"{colour} {animal}" for colour, animal in zip(colours, animals, strict=True)]
        return cls(draw, names, animals, draw.choice(CLASSES["place"]), " ".join(phrase[: draw.randint(4, 6)]))

    def one(self, name: str) -> str:
        """A word of a class."""
        return self.draw.choice(CLASSES[name])

    def name(self) -> str:
        return self.draw.choice(self.names)

    def stop(self) -> str:
        return self.draw.choices(CLASSES["stop"], (8, 1, 1))[0]


def _plain(c: Cast) -> str:
    place = c.draw.choice((c.place, c.one("place")))
    where = c.draw.choice((f"in the {place}", f"near the {place}", f"at the {c.one('thing')}", c.one("adverb")))
    return f"{c.name()} {c.one('verb')} the {c.draw.choice(c.animals)} {where}{c.stop()}"


def _called(c: Cast) -> str:
    name, then = c.name(), c.draw.choice(("then they", "so they", "but they", "they"))
    return f"{name} {c.one('verb')} a {c.one('thing')}, {then} {c.one('cue')} {name}{c.stop()}"


def _count(c: Cast) -> str:
    start = c.draw.randint(1, 15)
    numbers = ", ".join(str(start + k) for k in range(c.draw.randint(3, 5)))
    return f"they {c.draw.choice(('counted', 'wrote'))} {numbers}{c.stop()}"


def _bracket(c: Cast) -> str:
    inner = c.draw.choice((
        f"the {c.one('colour')} {c.one('thing')} of {c.name()}", f"{c.draw.choice(c.animals)} by the {c.one('place')}",
        f"{c.name()} was there {c.one('adverb')}", f"a {c.one('colour')} {c.one('animal')} with {c.name()}",
    ))  # fmt: skip
    around = c.draw.choice(("({})", "[{}]")).format(inner)
    return f"{c.name()} {c.one('verb')} the {c.one('thing')} {around} {c.one('adverb')}{c.stop()}"


def _quote(c: Cast) -> str:
    said = c.draw.choice((f"the {c.one('animal')} was {c.one('colour')}", f"{c.name()} {c.one('verb')} it"))
    return f"{c.name()} wrote \u201c{said}\u201d on the {c.one('thing')}{c.stop()}"


def _list(c: Cast) -> str:
    things = c.draw.sample(CLASSES["thing"], 3)
    return f"in the {c.place} was a {things[0]}, a {things[1]}; then a {things[2]} from {c.name()}{c.stop()}"


def _days(c: Cast) -> str:
    first = c.draw.randrange(6)
    one, other = CLASSES["day"][first : first + 2]
    return f"on {one} {c.name()} {c.one('verb')} it, on {other} they {c.one('verb')} it {c.one('adverb')}{c.stop()}"


def _again(c: Cast) -> str:
    return f"{c.name()} wrote: {c.refrain}{c.stop()}"


KINDS: dict[Callable[[Cast], str], int] = {
    _plain: 4, _called: 4, _count: 3, _bracket: 4, _quote: 1, _list: 2, _days: 1, _again: 4,
}  # fmt: skip


def documents(stream: str = "planted") -> Iterator[str]:
    """Endless documents of a stream."""
    for index in count():
        cast = Cast.of(random.Random(f"{stream}:{index}"))
        kinds = cast.draw.choices(list(KINDS), list(KINDS.values()), k=cast.draw.randint(*SENTENCES))
        yield " ".join(write(cast) for write in kinds)
