"""Two-person sentences: "When A and B went to the park, B gave a ball to A.", some combinations kept back.

1. A template names both persons once, the giver (`{giver}`) a second time, and ends with the receiver.
2. Either person may be named first (ABBA and BABA).
3. `is_reserved` hashes the pair, the template and the object: one pair in eight, and one combination in eight
   of the other pairs, is never written into any document; `ioi_prompts` draws from these alone.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from autointerp.demo.grammar import Scene, articles, polish
from autointerp.demo.people import FIRST_NAMES
from autointerp.demo.words import NOUNS

TEMPLATES: tuple[str, ...] = (
    "when {first} and {second} went to the {place}, {giver} {gave} {object} to",
    "after {first} and {second} {vi} {WHERE}, {giver} {gave} {object} to",
    "{first} and {second} were {adj} {WHEN}. {giver} {gave} {object} to",
    "while {first} and {second} were working at the {adj} {place}, {giver} {gave} {object} to",
    "{first} and {second} had an argument about the {abstract}, and {giver} {gave} {object} to",
    "{WHEN}, {first} met {second} at the {place}, and {giver} {gave} {object} to",
    "the {place} was {adj} when {first} and {second} arrived, so {giver} {gave} {object} to",
    "at the {adj} {place}, {first} sat beside {second}. {giver} {gave} {object} to",
    "{first} had been looking for {second} {WHERE}. Then {giver} {gave} {object} to",
    "because {first} and {second} shared {THING}, {giver} {gave} {object} to",
    "{first} walked to {town} with {second}. {conn}, {giver} {gave} {object} to",
    "the {role} saw {first} and {second} {WHERE}; {giver} {gave} {object} to",
    "as soon as {first} found {second} in the {place}, {giver} {gave} {object} to",
    "friends of {firm}, {first} and {second} {vt} {THING}. {giver} {gave} {object} to",
    "{first} and {second} {vt} the {adj} {noun}, but {giver} {gave} {object} to",
    "one {weekday} {first} and {second} went {prep} the {place}. {giver} {gave} {object} to",
)
"""The sentence up to its last word; the receiver's name follows."""

GIVING = "gave handed passed lent sold offered sent brought returned showed".split()
_OBJECTS = ("a {adj} {thing}", "the {thing}", "a {thing}", "the {colour} {thing}", "a {material} {thing}")
_TAILS = (
    ".",
    ".",
    ".",
    " {WHEN}.",
    " and {vi} {adv}.",
    ", who {vt} it.",
    " with {quality}.",
    " {link} {FACT}.",
)
_RESERVED_SHARE = 8


@dataclass(frozen=True, slots=True)
class IoiPrompt:
    """A two-person prompt without its last word; `correct` and `wrong` are names with a leading space."""

    prompt: str
    correct: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Combination:
    """What `is_reserved` looks at: the unordered pair, the template's index and the object's noun."""

    names: tuple[str, str]
    template: int
    noun: str


def _bucket(key: str) -> int:
    return zlib.crc32(key.encode()) % _RESERVED_SHARE


def is_reserved(combination: Combination) -> bool:
    """Whether the combination is kept for tests and never written into a document."""
    pair = " ".join(sorted(combination.names))
    return _bucket(pair) == 0 or _bucket(f"{pair} {combination.template} {combination.noun}") == 0


def _draw(rng: random.Random, *, reserved: bool) -> Combination:
    while True:
        first, second = rng.sample(FIRST_NAMES, 2)
        drawn = Combination((first, second), rng.randrange(len(TEMPLATES)), rng.choice(NOUNS))
        if is_reserved(drawn) == reserved:
            return drawn


def _write(scene: Scene, drawn: Combination) -> IoiPrompt:
    """The prompt in a random order of the two persons; names[0] is the giver."""
    giver, receiver = drawn.names
    first, second = drawn.names if scene.rng.random() < 0.5 else (receiver, giver)
    thing = scene.rng.choice(_OBJECTS).replace("{thing}", drawn.noun)
    bound = {
        "first": first,
        "second": second,
        "giver": giver,
        "gave": scene.rng.choice(GIVING),
        "object": thing,
    }
    template = TEMPLATES[drawn.template]
    for slot, text in bound.items():
        template = template.replace("{" + slot + "}", text)
    return IoiPrompt(polish(scene.expand(template)), f" {receiver}", f" {giver}")


def pair_sentence(scene: Scene) -> str:
    """A whole two-person sentence of an unreserved combination."""
    written = _write(scene, _draw(scene.rng, reserved=False))
    return written.prompt + written.correct + articles(scene.expand(scene.rng.choice(_TAILS)))


def ioi_prompts(seed: int, n: int) -> list[IoiPrompt]:
    """`n` prompts whose combinations no document of the corpus contains, the same for the same seed."""
    return list(_prompts(random.Random(f"ioi:{seed}"), n))


def _prompts(rng: random.Random, n: int) -> Iterator[IoiPrompt]:
    for _ in range(n):
        yield _write(Scene(rng), _draw(rng, reserved=True))
