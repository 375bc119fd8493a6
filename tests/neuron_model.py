"""A one-layer model whose neurons do known things, by hand-set weights: what the scorers of neurons are tested on.

The attention does next to nothing; tokens are random vectors of one length. Neurons of layer 0:
0 is active on `dog` and raises `ran`; 1 on `cat`, `red`, `blue` and raises `ball`; 2 as 0, but writes nothing;
3 as 0 with its sign turned (active below 0) and lowers `park`; 4 mixes ten tokens with random weights; 5 is never
active.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from autointerp.model import LanguageModel, UnitSite, neuron_site
from autointerp.notebook import open_model
from autointerp.records import Feature
from autointerp.scoring.held_out import HeldOutRows, text_rows
from tests.causal_model import NAMES, ids_of
from tests.tiny_models import boot, tiny_tokenizer

D_MODEL, LENGTH, N_NEURONS = 128, 24, 6
DOG, SEVERAL, RAISED = "dog", ("cat", "red", "blue"), {0: "ran", 1: "ball", 3: "park"}


@functools.cache
def neuron_model() -> LanguageModel:
    """The model, proved; the tokenizer is the tiny one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        n_layer=1, n_embd=D_MODEL, n_head=2, vocab_size=len(tokenizer), n_positions=30, n_inner=N_NEURONS,
        tie_word_embeddings=False, activation_function="gelu",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        block = network.transformer.h[0]
        for norm in (block.ln_1, block.ln_2, network.transformer.ln_f):
            norm.weight.fill_(1)
        tokens = torch.randn(len(tokenizer), D_MODEL, generator=draw)
        tokens = tokens - tokens.mean(1, keepdim=True)
        tokens = tokens / tokens.norm(dim=1, keepdim=True) * D_MODEL**0.5  # the norm before the MLP changes nothing
        network.transformer.wte.weight.copy_(tokens)
        network.lm_head.weight.copy_(torch.randn(len(tokenizer), D_MODEL, generator=draw) * 0.4)
        for weight in (block.attn.c_attn.weight, block.attn.c_proj.weight):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.01)
        _neurons(network, block.mlp, tokens / D_MODEL, draw)
    return open_model(boot(network.eval(), tokenizer)).model


def _neurons(network: Any, mlp: Any, readers: torch.Tensor, draw: torch.Generator) -> None:
    """`readers @ stream` is 1 on the token itself, within .5 of 0 on others."""
    dog, several = readers[ids_of((DOG,))].sum(0), readers[ids_of(SEVERAL)].sum(0)
    mix = (readers[ids_of(NAMES[:10])] * torch.randn(10, 1, generator=draw)).sum(0)
    for number, (reader, scale) in enumerate(((dog, 8.0), (several, 8.0), (dog, 8.0), (dog, -8.0), (mix, 2.0))):
        mlp.c_fc.weight[:, number] = reader * scale
        mlp.c_fc.bias[number] = {8.0: -5.5, -8.0: 5.5, 2.0: 0.0}[scale]
    mlp.c_fc.bias[5] = -9.0
    unembedding = network.lm_head.weight
    for number, word in RAISED.items():
        row = unembedding[ids_of((word,))[0]]
        mlp.c_proj.weight[number] = 0.5 * row / row.norm()


class Sites:
    """Sites as a set of units, one a layer."""

    def __init__(self, sites: tuple[UnitSite, ...]) -> None:
        self.sites = sites

    def place(self, feature: Feature) -> tuple[int, int]:
        return next(n for n, site in enumerate(self.sites) if site.layer == feature.layer), feature.index


class Neurons(Sites):
    """The model's neurons."""

    def __init__(self) -> None:
        super().__init__((neuron_site(neuron_model(), 0),))


def neuron(index: int) -> Feature:
    return Feature(kind="neuron", layer=0, index=index)


def neuron_rows(split: str, n: int, seed: int) -> HeldOutRows:
    """Random words, one window a document; `dog` is every eighth word or so."""
    model, rng = neuron_model(), np.random.default_rng(seed)
    ids = rng.choice(np.array(ids_of(NAMES)), (n, LENGTH))
    ids[rng.random(ids.shape) < 0.1] = ids_of((DOG,))[0]
    ids[:, 0] = model.bos_id
    lengths = rng.integers(LENGTH - 4, LENGTH + 1, n)
    return text_rows(ids, lengths, np.arange(n), split, model.special_ids)  # type: ignore[arg-type]
