"""Draws the neurons of a seed: tokens, sets and pairs that the planted text holds often enough to be tested on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from autointerp.planted.counts import counts
from autointerp.planted.heads import Truth
from autointerp.planted.neurons import FEATURE_LAYERS, IDLE, KINDS, NEURONS, PlantedNeuron, Reads, noise_reads
from autointerp.planted.words import CLASSES, SIGN_CLASSES, ids_of_class, vocabulary

IN_DOCUMENTS = 0.33  # of the documents must hold a place where the neuron is active
MEMBER_DOCUMENTS = 0.08  # the same for each member of a set
OFTEN = 0.05  # of all places: a token that stands at more is too common to be told from the text
PART_OF_PAIR = 0.6  # at most so much of either token's places may be those of the pair
SAID, OFTEN_AFTER = 3, 8  # tokens that a neuron raises, of so many that stand most often after its places
LOUDEST, QUIET = 2.0, 0.6  # gains reach from half of it: of neurons with a function, and of others
MIXED, MIXED_PLACES = 6, 4  # tokens two places before, and positions, of a mix
NOISE_BIAS, DEAD_BIAS, DENSE_SIZE = -2.1, -40.0, 0.2
UNEVEN = 3  # times as often as the rarest may the commonest member of a set or pair be active
TRIES = 20_000


class NeuronDraws:
    """Draws neurons from one generator; no token, set or pair is drawn twice."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._counts = counts()
        self._taken: set[str] = set()

    def all_neurons(self) -> list[PlantedNeuron]:
        """Every neuron of the seed, in random order."""
        found = [self._neuron(kind) for kind, n in KINDS.items() for _ in range(n)]
        assert len(found) == FEATURE_LAYERS * NEURONS
        return [found[int(k)] for k in self._generator.permutation(len(found))]

    def _neuron(self, kind: str) -> PlantedNeuron:
        if kind in IDLE:
            one = self._neuron(("token", "token_set", "token_pair")[int(self._generator.integers(3))])
            truth = replace(one.truth, kind=kind, matters=False)
            return replace(one, truth=truth, output="nothing" if kind == "zero_output" else "unread", says=())
        draws: dict[str, Callable[[], tuple[Reads, Truth]]] = {
            "token": self._token, "token_set": self._token_set, "token_pair": self._token_pair,
            "either": self._either, "mix": self._mix, "noise": self._noise, "dead": self._dead, "dense": self._dense,
        }  # fmt: skip
        reads, truth = draws[kind]()
        loudest = LOUDEST if truth.labels else QUIET
        one = PlantedNeuron(reads, float(self._generator.uniform(loudest / 2, loudest)), truth)
        return replace(one, says=tuple(self._some(self._following(one), SAID, SAID)))

    def _following(self, neuron: PlantedNeuron) -> list[int]:
        """Tokens that often stand after places where a neuron is active; any words for one that is not."""
        active = neuron.activation(self._counts.ids) > 0
        return self._counts.after(active)[:OFTEN_AFTER] or self._words

    @cached_property
    def _words(self) -> list[int]:
        """Words in running text that can stand in a set."""
        signs = {i for name in SIGN_CLASSES for i in ids_of_class(name)}
        often = (i for i in self._counts.coded if self._counts.document_share([i]) >= MEMBER_DOCUMENTS)
        return [i for i in often if i not in signs]

    def _fits(self, tokens: Collection[int], before: Collection[int] | None = None) -> bool:
        often = OFTEN if len(tokens) == 1 else 3 * OFTEN
        enough = self._counts.document_share(tokens, before) >= IN_DOCUMENTS
        return enough and self._counts.row_share(tokens, before) <= often

    def _new(self, predicate: str) -> bool:
        """Whether a rule is drawn for the first time."""
        found = predicate not in self._taken
        self._taken.add(predicate)
        return found

    def _until(self, draw: Callable[[], tuple[Reads, Truth] | None]) -> tuple[Reads, Truth]:
        for _ in range(TRIES):
            found = draw()
            if found is not None and (found[1].predicate is None or self._new(found[1].predicate)):
                return found
        raise RuntimeError("the planted text holds too few places for another unit")

    def _even(self, rows: Sequence[int]) -> bool:
        """Whether no member of a set is so common that it stands for the set."""
        return max(rows) <= UNEVEN * min(rows)

    def _some(self, pool: Sequence[int], least: int, most: int) -> list[int]:
        n = min(int(self._generator.integers(least, most + 1)), len(pool))
        return sorted(pool[int(k)] for k in self._generator.choice(len(pool), n, replace=False))

    def _one_token(self) -> list[int] | None:
        tokens = self._some(self._counts.coded, 1, 1)
        return tokens if self._fits(tokens) else None

    def _token(self) -> tuple[Reads, Truth]:
        def draw() -> tuple[Reads, Truth] | None:
            tokens = self._one_token()
            if tokens is None:
                return None
            return Reads(-1.0, {tokens[0]: 2.0}), Truth("token", ("token",), where(tokens))

        return self._until(draw)

    def _token_set(self) -> tuple[Reads, Truth]:
        def draw() -> tuple[Reads, Truth] | None:
            whole = self._generator.random() < 0.2
            tokens = self._class() if whole else self._some(self._words, 3, 6)
            if not self._fits(tokens) or not (whole or self._even([self._counts.rows([i]).sum() for i in tokens])):
                return None
            weights = {i: float(self._generator.uniform(1.2, 1.8)) for i in tokens}
            return Reads(-0.5, weights), Truth("token_set", ("token_set",), where(tokens), allowed=("token_class",))

        return self._until(draw)

    def _class(self) -> list[int]:
        """All words of a class that running text holds; of names and numerals an attribute says much the same."""
        names = [n for n in CLASSES if n not in (*SIGN_CLASSES, "function", "name", "numeral")]
        name = names[int(self._generator.integers(len(names)))]
        return [i for i in ids_of_class(name) if i in self._counts.coded]

    def _one_pair(self) -> tuple[list[int], list[int]] | None:
        """(tokens before, tokens), often enough together, and often enough apart."""
        row = int(self._generator.integers(len(self._counts.token)))
        first = int(self._counts.before[row])
        if first < 0:
            return None
        after = np.unique(self._counts.token[self._counts.before == first])
        tokens = {int(self._counts.token[row]), *self._some([int(i) for i in after], 0, 2)}
        befores = np.unique(self._counts.before[self._counts.rows(tokens)])
        before = {first, *self._some([int(i) for i in befores if i >= 0], 0, 1)}
        if not self._fits(tokens, before):
            return None
        parts = [[self._counts.rows([i], before).sum() for i in tokens],
                 [self._counts.rows(tokens, [i]).sum() for i in before]]  # fmt: skip
        if not all(map(self._even, parts)):
            return None
        together = self._counts.rows(tokens, before).sum()
        apart = min(self._counts.rows(tokens).sum(), self._counts.after_any(before).sum())
        return (sorted(before), sorted(tokens)) if together <= PART_OF_PAIR * apart else None

    def _token_pair(self) -> tuple[Reads, Truth]:
        def draw() -> tuple[Reads, Truth] | None:
            pair = self._one_pair()
            if pair is None:
                return None
            before, tokens = pair
            truth = Truth("token_pair", ("token_pair",), where(tokens, before))
            return Reads(-3.0, dict.fromkeys(tokens, 2.0), dict.fromkeys(before, 2.0)), truth

        return self._until(draw)

    def _either(self) -> tuple[Reads, Truth]:
        def draw() -> tuple[Reads, Truth] | None:
            one, pair = self._one_token(), self._one_pair()
            if one is None or pair is None:
                return None
            before, tokens = pair
            if one[0] in tokens or self._counts.rows(one, before).any():
                return None
            if not 0.5 <= self._counts.row_share(one) / self._counts.row_share(tokens, before) <= 2.0:
                return None
            truth = Truth("either", ("token", "token_pair"), f"{where(one)} or ({where(tokens, before)})",
                          allowed=("token_set", "other"))  # fmt: skip
            return Reads(-1.0, {one[0]: 2.0, **dict.fromkeys(tokens, 0.9)}, dict.fromkeys(before, 0.9)), truth

        return self._until(draw)

    def _mix(self) -> tuple[Reads, Truth]:
        """One token here, one before, others two places before, some positions, each at much the same share of rows."""
        even = [i for i in self._words if 0.006 <= self._counts.row_share([i]) <= 0.014]
        tokens = [even[int(k)] for k in self._generator.choice(len(even), 2 + MIXED, replace=False)]
        places = [int(p) for p in 4 + self._generator.choice(26, MIXED_PLACES, replace=False)]
        weights = [{key: float(self._generator.uniform(1.2, 1.6))} for key in (*tokens, *places)]
        here, before, *rest = weights
        before2, position = (dict(pair for one in part for pair in one.items())
                             for part in (rest[:MIXED], rest[MIXED:]))  # fmt: skip
        return Reads(-0.4, here, before, before2, position), Truth("mix", (), None)

    def _noise(self) -> tuple[Reads, Truth]:
        return noise_reads(self._generator, NOISE_BIAS), Truth("noise", (), None, matters=False)

    def _dead(self) -> tuple[Reads, Truth]:
        return noise_reads(self._generator, DEAD_BIAS), Truth("dead", (), None, matters=False)

    def _dense(self) -> tuple[Reads, Truth]:
        return noise_reads(self._generator, 1.0, DENSE_SIZE), Truth("dense", (), None, matters=False)


def where(tokens: Sequence[int], before: Sequence[int] | None = None) -> str:
    """The predicate of a token or a set, after another where that is given."""
    here = _named("dst.text", tokens)
    return here if before is None else f"{here} and {_named('dst.prev.text', before)}"


def _named(what: str, tokens: Sequence[int]) -> str:
    texts = [json.dumps(vocabulary()[i][0], ensure_ascii=False) for i in tokens]
    return f"{what} == {texts[0]}" if len(texts) == 1 else f"{what} in {{{', '.join(texts)}}}"
