"""The neurons of the planted feature model: what each reads, says, and what is true of it.

A neuron is `gain * relu(bias + what it reads)`. It reads which token stands here, which stood one and two places
before, and the position. The truth (`planted.heads.Truth`) is for the benchmark alone.

| kind | active where |
|---|---|
| token, token_set, token_pair | one token; several unrelated ones, or a word class; a token (or set) after another |
| either | one token, or another pair: two conditions |
| mix | twelve unrelated things of much the same weight, of four sorts: no simple rule holds much of it |
| noise | a random weight on everything |
| zero_output, unread_output | like the first three; its weights out are 0, or nothing reads what it writes |
| dead, dense | never; nearly everywhere |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from autointerp.planted.counts import counts
from autointerp.planted.heads import Truth
from autointerp.planted.space import N_CTX

FEATURE_LAYERS, NEURONS = 2, 18
KINDS: dict[str, int] = {
    "token": 5, "token_set": 5, "token_pair": 5, "either": 3, "mix": 3, "noise": 5,
    "zero_output": 3, "unread_output": 3, "dead": 2, "dense": 2,
}  # fmt: skip
"""Kind -> neurons of that kind in every seed."""
DESCRIBED = ("token", "token_set", "token_pair")
NOISE_SPREAD = (0.8, 0.8, 1.0, 1.3)  # of random weights on the token here, one and two before, and the position
IDLE = ("zero_output", "unread_output")


@dataclass(frozen=True)
class Reads:
    """Weights by token id (here, one before, two before) and by position, and the bias."""

    bias: float
    token: Mapping[int, float] = field(default_factory=dict)
    before: Mapping[int, float] = field(default_factory=dict)
    before2: Mapping[int, float] = field(default_factory=dict)
    position: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlantedNeuron:
    """A neuron. `says`: the tokens that it raises, each by 1 for an activation of 1 (times the model's gain)."""

    reads: Reads
    gain: float
    truth: Truth
    output: Literal["said", "unread", "nothing"] = "said"
    says: tuple[int, ...] = ()

    def activation(self, ids: Int[np.ndarray, "row pos"]) -> Float[np.ndarray, "row pos"]:
        """By definition, from the ids as fed (BOS first)."""
        rows, size = ids.shape
        total = np.full((rows, size), self.reads.bias)
        for back, weights in enumerate((self.reads.token, self.reads.before, self.reads.before2)):
            table = np.zeros(max(int(ids.max(initial=0)), *weights, 0) + 1)
            table[list(weights)] = list(weights.values())
            total[:, back:] += table[ids[:, : size - back]]
        places = np.array([self.reads.position.get(place, 0.0) for place in range(size)])
        return np.asarray(self.gain * np.maximum(total + places, 0.0))


def noise_reads(generator: np.random.Generator, bias: float, size: float = 1.0) -> Reads:
    """Random weights on all that can be read, bounded, so that a high activation takes several high weights at once:
    no token, pair of tokens or position decides."""

    def drawn(keys: range | tuple[int, ...], spread: float) -> dict[int, float]:
        values = spread * size * np.sqrt(3) * generator.uniform(-1, 1, len(keys))
        return {key: float(value) for key, value in zip(keys, values, strict=True)}

    coded = counts().coded
    here, before, before2 = (drawn(coded, spread) for spread in NOISE_SPREAD[:3])
    return Reads(bias, here, before, before2, drawn(range(1, N_CTX), NOISE_SPREAD[3]))
