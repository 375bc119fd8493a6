"""The heads of the planted model: what each does, how it is built, and what is true of it.

The truth (`Truth`) is for the benchmark alone. `labels` are the functions that a description must name, `allowed`
labels that are true of the head as well (an induction head copies; opening brackets are punctuation) and count neither
for nor against it. `predicate` says where it looks, `matters` whether the model's predictions depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autointerp.planted.circuits import Look, Match, Where, Write, closings, successors
from autointerp.planted.words import CLASSES, SIGN_CLASSES

REST = 4.0  # of a head whose other sources score 0
EXACT = 9.0
SLOPE, CLASS = 1.4, 190.0  # the nearest of a class: further ones lose, and none is too far
MATCH, MATCH_SLOPE, MATCH_REST = 48.0, 0.22, 14.0  # the same for a token that matches
NOT_SELF = 12.0
MATCH_EXACT = 16.0  # what a head does that finds no match
LAYERS, HEADS = 6, 6
COPIES = (1, LAYERS - 1)  # the detectors of copying are not defined at layer 0
DEAD_STRENGTH = 0.03  # so small beside the stream that the final norm does not feel it
FOLLOWERS = {
    "name": "verb", "verb": "function", "cue": "name", "colour": "animal", "animal": "adverb", "thing": "stop",
    "place": "stop", "day": "name", "adverb": "stop", "function": "colour", "numeral": "comma", "comma": "numeral",
    "stop": "name", "opening": "colour", "closing": "adverb", "quote": "name",
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What is true of a head, by construction."""

    kind: str
    labels: tuple[str, ...]
    predicate: str | None
    matters: bool = True
    allowed: tuple[str, ...] = ()
    domain: str = "text"


@dataclass(frozen=True)
class PlantedHead:
    """A head: its circuit, what is true of it, and in which layers it can stand."""

    look: Look
    write: Write
    truth: Truth
    layers: tuple[int, int] = (0, LAYERS - 1)
    needs_before: bool = False  # stands after the head that writes `before`


def all_heads(generator: np.random.Generator) -> list[PlantedHead]:
    """The 36 heads of one seed, in no order."""
    offsets = [int(k) for k in generator.permutation(np.arange(2, 9))[:3]]
    classes = [str(c) for c in generator.permutation(["colour", "animal", "thing", "place", "verb"])[:3]]
    follow = _Followers(generator)
    heads = [
        replace(previous(Write("before", copy=1.0)), layers=(0, 2)), previous(follow.write()),
        current(follow.write(FOLLOWERS)), current(follow.write()),
        first(), first(),
        *(duplicate(follow.write()) for _ in range(2)),
        induction(), induction(),
        *(fixed_offset(k, follow.write()) for k in offsets[:2]),
        delimiter(("opening",)), delimiter(("opening",)),
        punctuation(SIGN_CLASSES, follow.write()), punctuation(SIGN_CLASSES, follow.write()),
        copy_name(("cue",)), copy_name(("cue", "verb")),
        copy_suppression(), copy_suppression(),
        successor(("comma",)), successor(("comma", "function")),
        *(token_class(name, follow.write()) for name in classes),
        previous_or_duplicate(follow.write()), current_or_induction(follow.write()),
        *_idle(offsets[2], generator),
        *(noise(generator) for _ in range(5)),
    ]  # fmt: skip
    return heads


class _Followers:
    """Draws, for each class, another class that its tokens raise."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def write(self, follow: dict[str, str] | None = None) -> Write:
        names = list(FOLLOWERS)
        if follow is None:
            turn = int(self._generator.integers(1, len(names)))
            order = [str(n) for n in self._generator.permutation(names)]
            follow = {one: order[(k + turn) % len(order)] for k, one in enumerate(order)}
        return Write("said", follow=follow, stray=0.15)


def previous(write: Write) -> PlantedHead:
    look = Look(REST, Where(EXACT, 1))
    return PlantedHead(look, write, Truth("previous_token", ("previous_token",), "distance == 1"))


def current(write: Write) -> PlantedHead:
    look = Look(REST, Where(EXACT, 0))
    return PlantedHead(look, write, Truth("current_token", ("current_token",), "distance == 0"))


def first() -> PlantedHead:
    """Its output is the same everywhere, so that nothing depends on it."""
    truth = Truth("first_token", ("first_token",), "src.is_first", matters=False)
    return PlantedHead(Look(10.0, noise=0.3), Write("said", stray=0.3), truth)


def fixed_offset(k: int, write: Write) -> PlantedHead:
    truth = Truth("fixed_offset", ("fixed_offset",), f"distance == {k}")
    return PlantedHead(Look(REST, Where(EXACT, k)), write, truth)


def _repeated(rest: float = MATCH_REST) -> Look:
    return Look(rest, Where(slope=MATCH_SLOPE, own=NOT_SELF + MATCH), Match("identity", "identity", MATCH))


def duplicate(write: Write) -> PlantedHead:
    truth = Truth("duplicate_token", ("duplicate_token",), "nearest(src == dst and distance > 0)")
    return PlantedHead(_repeated(), write, truth)


def induction() -> PlantedHead:
    """Finds the destination's token in what the previous-token head left at the source."""
    look = Look(MATCH_REST, Where(slope=MATCH_SLOPE), Match("identity", "before", MATCH))
    truth = Truth(
        "induction", ("induction",), "nearest(src.prev == dst and distance > 0)", allowed=("copying", "name_mover")
    )
    return PlantedHead(look, Write(copy=1.0), truth, COPIES, needs_before=True)


def _of_classes(kinds: Sequence[str], only_from: tuple[str, ...] = ("any",)) -> Look:
    where = Where(slope=SLOPE, own=NOT_SELF + CLASS)
    return Look(REST, where, kinds=dict.fromkeys(kinds, CLASS), only_from=only_from)


def delimiter(kinds: Sequence[str]) -> PlantedHead:
    truth = Truth(
        "delimiter_matching", ("delimiter_matching",), "nearest(src.is_open_bracket and distance > 0)",
        allowed=("punctuation", "token_class"),
    )  # fmt: skip
    return PlantedHead(_of_classes(kinds), Write(pairs=closings(), strength=0.8), truth)


def punctuation(kinds: Sequence[str], write: Write) -> PlantedHead:
    truth = Truth(
        "punctuation", ("punctuation",), "nearest(src.is_punctuation and distance > 0)", allowed=("token_class",)
    )
    return PlantedHead(_of_classes(kinds), write, truth)


def copy_name(cues: tuple[str, ...]) -> PlantedHead:
    """From words that call for a name to the last name, which it says again."""
    predicate = f"dst.lower in {_words(*cues)} and nearest(src.lower in {_words('name')} and distance > 0)"
    truth = Truth("copying", ("copying",), predicate, allowed=("token_class", "name_mover"))
    return PlantedHead(_of_classes(["name"], cues), Write(copy=1.0), truth, (1, 3))


def copy_suppression() -> PlantedHead:
    """Attends to earlier tokens that the stream is about to say, and lowers them."""
    truth = Truth("copy_suppression", ("copy_suppression",), None, allowed=("induction", "token_class"))
    signs = dict.fromkeys(SIGN_CLASSES, -40.0)  # words only
    look = Look(8.0, match=Match("said", "identity", 16.0), kinds=signs)
    return PlantedHead(look, Write(copy=-0.5), truth, (4, LAYERS - 1))


def successor(cues: tuple[str, ...]) -> PlantedHead:
    """From separators to the last numeral; says the next one."""
    predicate = f"dst.lower in {_words(*cues)} and nearest(src.is_number and distance > 0)"
    truth = Truth("successor", ("successor",), predicate, allowed=("token_class",))
    return PlantedHead(_of_classes(["numeral"], cues), Write(pairs=successors("numeral")), truth, COPIES)


def token_class(name: str, write: Write) -> PlantedHead:
    predicate = f"nearest(src.lower in {_words(name)} and distance > 0)"
    return PlantedHead(_of_classes([name]), write, Truth("token_class", ("token_class",), predicate))


def previous_or_duplicate(write: Write) -> PlantedHead:
    """The last copy of a token that came before, else the token before."""
    where = Where(MATCH_EXACT, 1, MATCH_SLOPE, NOT_SELF + MATCH)
    look = Look(REST, where, Match("identity", "identity", MATCH))
    predicate = "nearest(src == dst and distance > 0) or (distance == 1 and not dst.seen_before)"
    return PlantedHead(look, write, Truth("two_functions", ("previous_token", "duplicate_token"), predicate))


def current_or_induction(write: Write) -> PlantedHead:
    """The token after the last copy of this one, else the token itself."""
    look = Look(REST, Where(MATCH_EXACT, 0, MATCH_SLOPE), Match("identity", "before", MATCH))
    predicate = "nearest(src.prev == dst and distance > 0) or (distance == 0 and not dst.seen_before)"
    truth = Truth("two_functions", ("current_token", "induction"), predicate)
    return PlantedHead(look, write, truth, COPIES, needs_before=True)


def _idle(offset: int, generator: np.random.Generator) -> list[PlantedHead]:
    """Heads that look and do nothing: two whose output is zero, two that write where nothing reads."""
    write = Write("nothing")
    kinds = [previous(write), duplicate(write), fixed_offset(offset, write), punctuation(SIGN_CLASSES, write),
             replace(delimiter(("opening",)), write=write)]  # fmt: skip
    chosen = [kinds[int(k)] for k in generator.permutation(len(kinds))[:4]]
    return [
        replace(
            head,
            write=write if n < 2 else Write("dead", strength=DEAD_STRENGTH),
            truth=replace(head.truth, kind="zero_output" if n < 2 else "unread_output", matters=False),
        )
        for n, head in enumerate(chosen)
    ]


def noise(generator: np.random.Generator) -> PlantedHead:
    size = float(generator.uniform(0.1, 0.35))
    return PlantedHead(Look(0.0, noise=size), Write("said", stray=0.3), Truth("noise", (), None, matters=False))


def _words(*classes: str) -> str:
    return "{" + ", ".join(f'"{word.casefold()}"' for name in classes for word in CLASSES[name]) + "}"
