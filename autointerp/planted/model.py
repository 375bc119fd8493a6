"""The planted model of a seed: heads drawn and put into layers, weights set, booted without training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autointerp.errors import BadInput
from autointerp.model import InstrumentReport, LanguageModel
from autointerp.model.native import AttentionWeights, NativeWeights, load_native
from autointerp.planted.circuits import Weights, head_weights
from autointerp.planted.heads import HEADS, LAYERS, PlantedHead, all_heads
from autointerp.planted.space import Space
from autointerp.planted.tokenizer import planted_tokenizer

SPEC = "planted"


def seed_of(spec: str, model: str = SPEC) -> int | None:
    """The seed of `planted` or `planted:SEED`; None for any other model. Raises BadInput for a seed that is none."""
    name, colon, seed = spec.partition(":")
    if name != model:
        return None
    if colon and not seed.isdecimal():
        raise BadInput(f"--model {spec!r} has no seed after the colon. Write {model}, or {model}:3.")
    return int(seed or 0)


def placed_heads(seed: int) -> list[list[PlantedHead]]:
    """The heads of a seed, by layer and index."""
    generator = np.random.default_rng([seed, 1])
    heads = all_heads(generator)
    free = [(layer, index) for layer in range(LAYERS) for index in range(HEADS)]
    places: dict[tuple[int, int], PlantedHead] = {}
    before = next(head for head in heads if head.write.to == "before")
    order = [before, *sorted((h for h in heads if h is not before), key=lambda h: h.layers[1] - h.layers[0])]
    lowest = 0
    for head in order:
        least = max(head.layers[0], lowest if head.needs_before else 0)
        fitting = [place for place in free if least <= place[0] <= head.layers[1]]
        chosen = fitting[int(generator.integers(len(fitting)))]
        free.remove(chosen)
        places[chosen] = head
        if head is before:
            lowest = chosen[0] + 1
    return [[places[layer, index] for index in range(HEADS)] for layer in range(LAYERS)]


def load_planted(seed: int, device: str = "auto", dtype: str = "auto") -> tuple[LanguageModel, InstrumentReport]:
    """The proved planted model of a seed."""
    generator = np.random.default_rng([seed, 0])
    space = Space.of(generator)
    layers = [[head_weights(space, head.look, head.write, generator) for head in row] for row in placed_heads(seed)]
    weights = NativeWeights(
        space.embedding(), space.position_embedding(), [_attention(row) for row in layers], space.unembedding()
    )
    return load_native(weights, planted_tokenizer(), f"{SPEC}:{seed}", device, dtype)


def _attention(heads: Sequence[Weights]) -> AttentionWeights:
    """The matrices of one layer, heads first."""
    parts = ("query", "key", "value", "output")
    return AttentionWeights(*(np.stack([getattr(head, part) for head in heads]) for part in parts))
