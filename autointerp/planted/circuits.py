"""From what a head is meant to do to its four weight matrices.

A score is the sum of up to three terms: where the source stands (waves of the distance), what it is (its code against
something the destination holds), and which class it has (for destinations of some classes, or all). BOS has a fixed
score of its own, so that a head without a target rests there. A write is a linear map of the attended token.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from autointerp.planted.space import ANY, CODE, CONSTANT, KINDS, N_CTX, REST, Space
from autointerp.planted.words import CLASSES, vocabulary

Matrix = Float[np.ndarray, "from to"]


@dataclass(frozen=True)
class Where:
    """A score of the distance: `exact` for the source `offset` tokens back; `slope` less for each further token; `own`
    less for the destination itself. 0 at distance 1 where none of these applies."""

    exact: float = 0.0
    offset: int = 0
    slope: float = 0.0
    own: float = 0.0

    def scores(self) -> Float[np.ndarray, "dst src"]:
        """By position, without position 0; above the diagonal nothing is ever used."""
        places = np.arange(N_CTX - 1)
        distance = places[:, None] - places
        near = -self.slope * np.maximum(distance - 1, 0)
        return np.asarray(near + self.exact * (distance == self.offset) - self.own * (distance == 0))


@dataclass(frozen=True)
class Match:
    """A score of what the destination holds against what the source holds."""

    query: Literal["identity", "said"]
    key: Literal["identity", "before"]
    strength: float


@dataclass(frozen=True)
class Look:
    """Where a head attends: terms that add up, and the score of resting on BOS."""

    rest: float
    where: Where = field(default_factory=Where)
    match: Match | None = None
    kinds: Mapping[str, float] = field(default_factory=dict)  # score of a source by class
    only_from: tuple[str, ...] = (ANY,)  # classes of destinations to which `kinds` applies
    noise: float = 0.0  # size of random products of codes


@dataclass(frozen=True)
class Write:
    """What a head adds to the stream for the attended token.

    `to`: the part it goes to. `copy`: how much of the attended token itself. `pairs`: attended tokens and the tokens
    that are said for them. `follow`: for each class of source the class that is raised.
    """

    to: Literal["said", "before", "dead", "nothing"] = "said"
    copy: float = 0.0
    pairs: tuple[tuple[int, int], ...] = ()
    follow: Mapping[str, str] = field(default_factory=dict)
    strength: float = 1.0
    stray: float = 0.0  # a random map besides, so that no two tokens tie


@dataclass(frozen=True)
class Weights:
    """One head's matrices, from and to the stream; scores are divided by the root of `d_head`."""

    query: Float[np.ndarray, "d_model d_head"]
    key: Float[np.ndarray, "d_model d_head"]
    value: Float[np.ndarray, "d_model d_head"]
    output: Float[np.ndarray, "d_head d_model"]


def d_head_of(space: Space) -> int:
    """Room for positions, one code, the score of a class and that of resting."""
    return len(space.part("position")) + CODE + 2


def head_weights(space: Space, look: Look, write: Write, generator: np.random.Generator) -> Weights:
    """The matrices of one head."""
    d_head, places = d_head_of(space), len(space.part("position"))
    query, key = np.zeros((2, space.d_model, d_head))
    query[:, :places] = space.part("position").T @ look.where.scores()
    key[:, :places] = space.part("position").T
    codes = slice(places, places + CODE)
    if look.match is not None:
        query[:, codes] = look.match.strength * space.part(look.match.query).T
        key[:, codes] = space.part(look.match.key).T
    elif look.noise:
        query[:, codes] = look.noise * space.part("identity").T @ generator.normal(size=(CODE, CODE))
        key[:, codes] = space.part("identity").T
    kind = space.part("kind")
    query[:, -2] = sum(kind[_kind(name)] for name in look.only_from)
    key[:, -2] = sum((score * kind[_kind(name)] for name, score in look.kinds.items()), np.zeros(space.d_model))
    query[:, -1] = space.part("constant")[0] / CONSTANT
    key[:, -1] = look.rest * kind[_kind(REST)]
    return Weights(query * np.sqrt(d_head), key, *_value_and_output(space, write, d_head, generator))


def _kind(name: str) -> int:
    return len(KINDS) + (ANY, REST).index(name) if name in (ANY, REST) else KINDS.index(name)


def _value_and_output(
    space: Space, write: Write, d_head: int, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "d_model d_head"], Float[np.ndarray, "d_head d_model"]]:
    """The value holds the attended token's code and class; the output maps them to where they go."""
    value = np.zeros((space.d_model, d_head))
    output = np.zeros((d_head, space.d_model))
    value[:, :CODE] = space.part("identity").T
    value[:, CODE : CODE + len(KINDS)] = space.part("kind").T[:, : len(KINDS)]
    if write.to == "nothing":
        return value, output
    if write.to == "dead":
        room = len(space.part("dead"))
        output[:CODE] = write.strength * generator.normal(size=(CODE, room)) / np.sqrt(CODE) @ space.part("dead")
        return value, output
    code = write.copy * np.eye(CODE) + write.stray * generator.normal(size=(CODE, CODE)) / np.sqrt(CODE)
    output[:CODE] = write.strength * (code + _associates(space, write)) @ space.part(write.to)
    for name, raised in write.follow.items():
        output[CODE + KINDS.index(name)] += write.strength * space.part("said_kind")[KINDS.index(raised)]
    return value, output


def _associates(space: Space, write: Write) -> Matrix:
    """The least map of codes that sends each pair's first code to its second."""
    if not write.pairs:
        return np.zeros((CODE, CODE))
    first, second = (space.codes[[pair[k] for pair in write.pairs]] for k in (0, 1))
    return np.asarray(np.linalg.pinv(first) @ second)


def successors(kind: str) -> tuple[tuple[int, int], ...]:
    """Pairs of ids (member, next member as it stands in running text) of an ordered class."""
    ids = {token: number for number, (token, _) in enumerate(vocabulary())}
    following = itertools.pairwise(CLASSES[kind])
    return tuple((ids[form], ids[f" {after}"]) for one, after in following for form in (one, f" {one}") if form in ids)


def closings() -> tuple[tuple[int, int], ...]:
    """Pairs of ids (opening sign, its closing sign)."""
    ids = {token: number for number, (token, _) in enumerate(vocabulary())}
    signs = zip(CLASSES["opening"], CLASSES["closing"], strict=True)
    return tuple((ids[form], ids[last]) for one, last in signs for form in (one, f" {one}"))
