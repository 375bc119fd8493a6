"""List-like kinds of the demo corpus: lists, inventories, roll calls with repeats marked, tables, code."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from autointerp.demo.grammar import Scene, articles, polish
from autointerp.demo.people import FIRST_NAMES
from autointerp.demo.words import (
    ADJECTIVES,
    BASE,
    FOODS,
    IDENTIFIERS,
    NOUNS,
    NUMBERS,
    PLACES,
    PLURALS,
    ROLES,
    TRANSITIVE,
)

SEEN_MARKS: tuple[tuple[str, str], ...] = (
    (" (new)", " (again)"),
    (" first", " again"),
    (": yes", ": no"),
    (" +", " -"),
    (" open", " closed"),
)
"""(mark after an item that did not occur yet, mark after one that did)."""

_POOLS = (FIRST_NAMES, NOUNS, PLACES, PLURALS, FOODS, ROLES, IDENTIFIERS, ADJECTIVES, TRANSITIVE, NUMBERS)


def listing(scene: Scene) -> str:
    """A numbered or dashed list under a title."""
    rng = scene.rng
    title = polish(scene.expand(rng.choice(("{adj} {plural} for {town}", "to {base} before {weekday}", "{abstract}"))))
    bullet = rng.choice(("- ", "* ", "", None))
    lines = [
        f"{f'{number}. ' if bullet is None else bullet}{articles(scene.symbol('ITEM'))}"
        for number in range(1, rng.randrange(7, 20))
    ]
    return f"{title}:\n" + "\n".join(lines)


def _with_repeats(rng: random.Random) -> list[str]:
    """Items of one or several word lists, about two in five of them repeats."""
    pool = rng.choice(_POOLS) if rng.random() < 0.6 else sum(rng.sample(_POOLS, 3), ())
    items: list[str] = []
    for _ in range(rng.randrange(16, 60)):
        items.append(rng.choice(items) if items and rng.random() < 0.4 else rng.choice(pool))
    return items


def roll_call(scene: Scene) -> str:
    """Items, each followed by a mark that says whether it occurred before."""
    rng = scene.rng
    new, again = rng.choice(SEEN_MARKS)
    separator = rng.choice((",", ";", "."))
    seen: set[str] = set()
    parts = []
    for item in _with_repeats(rng):
        parts.append(f" {item}{again if item in seen else new}")
        seen.add(item)
    return polish(scene.expand("{adj} {abstract}")) + ":" + separator.join(parts) + "."


def tally(scene: Scene) -> str:
    """Items with their running count: "key 1, boat 1, key 2"."""
    counts: Counter[str] = Counter()
    parts = []
    for item in _with_repeats(scene.rng):
        counts[item] += 1
        parts.append(f" {item} {counts[item]}")
    return polish(scene.expand("{colour} {noun}")) + ":" + ",".join(parts) + "."


def table(scene: Scene) -> str:
    """Records with the same keys on every line; values of earlier lines come back."""
    rng = scene.rng
    fields = rng.sample(("name", "role", "place", "colour", "count", "food", "town", "material"), 3)
    lines = ["; ".join(f"{field}={scene.symbol(field)}" for field in fields) for _ in range(rng.randrange(6, 15))]
    return "\n".join(lines)


def _function(rng: random.Random) -> str:
    """One small function over a few identifiers."""
    name = f"{rng.choice(BASE)}_{rng.choice(IDENTIFIERS)}"
    first, second, third = rng.sample(IDENTIFIERS, 3)
    noun = rng.choice(NOUNS)
    number = rng.randrange(2, 100)
    bodies = (
        f"for {third} in {first}:\n  {second}[{third}] += {number}\n return {second}",
        f"if {first} > {second}:\n  return {first} - {number}\n return {third}({second}, {first})",
        f'{third} = [{first}, "{noun}", {second}]\n return {third}[{number}]',
        f"while {first}:\n  {second}.{rng.choice(BASE)}({first}, ({number} * {third}))\n return ({second}, {third})",
        f'{third} = {{"{noun}": {second}, "{rng.choice(NOUNS)}": {first}}}\n print({third}["{noun}"])',
        f"{third} = {second}({first}[{number}:], {{{number}: {second}}})\n assert {third} != {first}",
    )
    return f"def {name}({first}, {second}):\n {rng.choice(bodies)}\n"


def _call(rng: random.Random) -> str:
    """A nested call with bracketed arguments."""
    first, second = rng.sample(IDENTIFIERS, 2)
    return (
        f"{first} = {rng.choice(BASE)}({rng.choice(BASE)}({second}[{rng.randrange(50)}], "
        f'["{rng.choice(NOUNS)}", {first}]), {{"{rng.choice(PLURALS)}": ({rng.randrange(50)}, {second})}})\n'
    )


def code(scene: Scene) -> str:
    """Functions and calls; a function may be written twice."""
    rng = scene.rng
    blocks: list[str] = []
    for _ in range(rng.randrange(2, 9)):
        if blocks and rng.random() < 0.15:
            blocks.append(rng.choice(blocks))
        else:
            blocks.append(_function(rng) if rng.random() < 0.65 else _call(rng))
    return "\n".join(blocks)


LEDGERS: dict[str, tuple[int, Callable[[Scene], str]]] = {
    "list": (6, listing),
    "roll_call": (8, roll_call),
    "tally": (3, tally),
    "table": (3, table),
    "code": (8, code),
}
"""Kind -> (weight in the stream, writer)."""
