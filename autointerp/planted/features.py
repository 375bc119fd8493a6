"""The planted feature model of a seed: two layers whose neurons are known, and the directions that they write.

1. The stream holds, each in dimensions of its own behind one random rotation: a one-hot code of the token here, of the
   one before and of the one two places before (two heads of layer 0 bring them), the position, a constant, and
   `FEATURES` dimensions for what neurons write.
2. Each neuron writes along a unit direction of its own. Directions are not at right angles, but independent, so that a
   linear reading of the stream gives every neuron's activation back; the unembedding reads the stream in that way.
3. The constant is long beside all else: what nothing reads does not move predictions through the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from autointerp.model import InstrumentReport, LanguageModel
from autointerp.model.native import AttentionWeights, MlpWeights, NativeWeights, load_native
from autointerp.planted.circuits import Where
from autointerp.planted.counts import counts
from autointerp.planted.model import seed_of
from autointerp.planted.neuron_draws import NeuronDraws
from autointerp.planted.neurons import FEATURE_LAYERS, NEURONS, PlantedNeuron
from autointerp.planted.space import N_CTX, PRIOR, Space, log_frequencies
from autointerp.planted.tokenizer import planted_tokenizer
from autointerp.planted.words import vocabulary

FEATURE_SPEC = "planted-features"
CONSTANT = 100.0
FEATURES = 48  # dimensions for the neurons' directions
SAID_GAIN = 2.0  # logits of a token that a neuron with activation 1 says
EXACT, REST = 40.0, 20.0  # scores of an offset head: all else has e^-20 of its attention
OFFSETS = ("before", "before2")


def feature_seed_of(spec: str) -> int | None:
    """The seed of `planted-features` or `planted-features:SEED`; None for any other model. Raises BadInput."""
    return seed_of(spec, FEATURE_SPEC)


@dataclass(frozen=True, eq=False)
class PlantedFeatures:
    """All that is planted in a seed: neurons by number (layer by layer), their directions, and the stream."""

    seed: int
    neurons: tuple[PlantedNeuron, ...]
    directions: Float[np.ndarray, "neuron d_model"]  # what one unit of activation writes; 0 for `nothing`
    readers: Float[np.ndarray, "neuron d_model"]  # product with the stream gives the activation; 0 for `nothing`
    space: Space  # its codes are one-hot, over `counts().coded`

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, seed: int) -> PlantedFeatures:
        """What is planted in a seed."""
        generator = np.random.default_rng([seed, 2])
        neurons = tuple(NeuronDraws(generator).all_neurons())
        space = feature_space(generator)
        own = generator.normal(size=(len(neurons), FEATURES))
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        written = np.array([neuron.output != "nothing" for neuron in neurons])
        readers = np.zeros_like(own)
        readers[written] = np.linalg.pinv(own[written]).T
        own[~written] = 0.0
        part = space.part("feature")
        return cls(seed, neurons, own @ part, readers @ part, space)

    def layer(self, layer: int) -> range:
        """Numbers of a layer's neurons."""
        return range(layer * NEURONS, (layer + 1) * NEURONS)

    def weights(self) -> NativeWeights:
        """The whole model."""
        space = self.space
        positions = space.position_embedding()
        attention = [_attention(space, OFFSETS), *[_attention(space, ())] * (FEATURE_LAYERS - 1)]
        mlps = [self._mlp(layer) for layer in range(FEATURE_LAYERS)]
        return NativeWeights(self._embedding(), positions, attention, self._unembedding(), mlps)

    def _embedding(self) -> Float[np.ndarray, "token d_model"]:
        found = self.space.codes @ self.space.part("token") + CONSTANT * self.space.part("constant")
        found[0] += self.space.part("rest")[0]
        return np.asarray(found)

    def _mlp(self, layer: int) -> MlpWeights:
        numbers = list(self.layer(layer))
        read = np.stack([self._reading(self.neurons[n]) for n in numbers], axis=1)
        bias = np.array([self.neurons[n].gain * self.neurons[n].reads.bias for n in numbers])
        return MlpWeights(read, bias, self.directions[numbers])

    def _reading(self, neuron: PlantedNeuron) -> Float[np.ndarray, " d_model"]:
        """Weights in of a neuron."""
        found = np.zeros(self.space.d_model)
        reads = neuron.reads
        for name, weights in (("token", reads.token), ("before", reads.before), ("before2", reads.before2)):
            for token, weight in weights.items():
                found += weight * self.space.codes[token] @ self.space.part(name)
        for place, weight in reads.position.items():
            found += weight * self.space.part("position")[place - 1]
        return neuron.gain * found

    def _unembedding(self) -> Float[np.ndarray, "token d_model"]:
        norm = np.sqrt((CONSTANT**2 + 4.0) / self.space.d_model)
        said = np.zeros((len(vocabulary()), len(self.neurons)))
        for number, neuron in enumerate(self.neurons):
            said[list(neuron.says), number] = SAID_GAIN
        prior = PRIOR * log_frequencies()[:, None] / CONSTANT * self.space.part("constant")
        return np.asarray(norm * (said @ self.readers + prior))


def feature_space(generator: np.random.Generator) -> Space:
    """The rotated stream; codes are one-hot for the tokens of running text, 0 for others."""
    coded = counts().coded
    codes = np.zeros((len(vocabulary()), len(coded)))
    codes[list(coded), np.arange(len(coded))] = 1.0
    sizes = {
        "token": len(coded), "before": len(coded), "before2": len(coded), "position": N_CTX - 1,
        "feature": FEATURES, "constant": 1, "rest": 1,
    }  # fmt: skip
    ends = np.cumsum(list(sizes.values()))
    starts = {name: (int(end) - size, int(end)) for (name, size), end in zip(sizes.items(), ends, strict=True)}
    rotation = np.linalg.qr(generator.normal(size=(int(ends[-1]), int(ends[-1]))))[0]
    return Space(codes, rotation, starts)


def load_planted_features(
    seed: int, device: str = "auto", dtype: str = "auto"
) -> tuple[LanguageModel, InstrumentReport]:
    """The proved planted feature model of a seed."""
    weights = PlantedFeatures.of(seed).weights()
    return load_native(weights, planted_tokenizer(), f"{FEATURE_SPEC}:{seed}", device, dtype)


def _attention(space: Space, parts: Sequence[str]) -> AttentionWeights:
    """Head k brings the code of the token k + 1 places before into `parts[k]`; heads without a part do nothing."""
    places, size = len(space.part("position")), space.codes.shape[1]
    d_head = max(places + 1, size)
    query, key, value = np.zeros((3, len(OFFSETS), space.d_model, d_head))
    output = np.zeros((len(OFFSETS), d_head, space.d_model))
    for number, part in enumerate(parts):
        scores = Where(EXACT, number + 1).scores()
        query[number, :, :places] = np.sqrt(d_head) * space.part("position").T @ scores
        key[number, :, :places] = space.part("position").T
        query[number, :, places] = np.sqrt(d_head) * space.part("constant")[0] / CONSTANT
        key[number, :, places] = REST * space.part("rest")[0]
        value[number, :, :size] = space.part("token").T
        output[number, :size] = space.part(part)
    return AttentionWeights(query, key, value, output)
