"""A one-layer model with four heads whose effect is known, by hand-set weights: what the causal scorers are tested on.

Positions are one-hot and tokens random vectors of one length, in separate dimensions of the stream; there is no MLP.
H0 copies the previous token. H1 looks like H0 and writes nothing. H2 copies the previous token where the destination
is in GATED and rests on BOS elsewhere. H3 spreads over the last two tokens; tokens in SEEN are copied, the others go to
dimensions that no logit reads, with the same norm.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from autointerp.model import LanguageModel
from autointerp.notebook import open_model
from autointerp.scoring.held_out import HeldOutRows, text_rows
from tests.tiny_models import WORDS, boot, tiny_tokenizer

D_MODEL, D_HEAD, LENGTH = 160, 32, 24
TOKENS, PLACES, NOT_GATED, HIDDEN = 64, 64, 100, 112  # first dimension of positions, of the flag, of what none reads
NAMES = tuple(word for word in WORDS if word.isalpha())
GATED, SEEN = NAMES[::4], NAMES[::2]


@functools.cache
def causal_model() -> LanguageModel:
    """The model, proved; the tokenizer is the tiny one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        n_layer=1, n_embd=D_MODEL, n_head=5, vocab_size=len(tokenizer), n_positions=30, n_inner=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.transformer.h[0].ln_1.weight.fill_(1)
        network.transformer.h[0].ln_2.weight.fill_(1)
        network.transformer.ln_f.weight.fill_(1)
        _embed(network, tokenizer)
        for head in range(4):
            _attend(network, head)
    return open_model(boot(network.eval(), tokenizer)).model


def ids_of(words: tuple[str, ...]) -> list[int]:
    """Ids of words with a leading space."""
    vocabulary = tiny_tokenizer().get_vocab()
    return [vocabulary[f" {word}"] for word in words]


def _embed(network: Any, tokenizer: Any) -> None:
    draw = torch.Generator().manual_seed(1)
    wte = network.transformer.wte.weight
    for group, first in ((SEEN, 0), (tuple(n for n in NAMES if n not in SEEN), TOKENS // 2)):
        for token in ids_of(group):
            halves = torch.randn(2, TOKENS // 4, generator=draw)
            halves = halves - halves.mean(1, keepdim=True)
            wte[token, first : first + TOKENS // 2] = (3 * halves / halves.norm(dim=1, keepdim=True)).flatten()
    network.lm_head.weight.copy_(wte / 4)
    gated = ids_of(GATED)
    wte[[t for t in ids_of(NAMES) if t not in gated], NOT_GATED] = 1
    wte[gated, NOT_GATED + 1] = 1  # so that the norm before the attention treats all tokens alike
    for place in range(30):
        network.transformer.wpe.weight[place, PLACES + place] = 4


def _attend(network: Any, head: int) -> None:
    attention = network.transformer.h[0].attn
    weight, out = attention.c_attn.weight, attention.c_proj.weight
    query, key, value = (
        slice(part * D_MODEL + head * D_HEAD, part * D_MODEL + (head + 1) * D_HEAD) for part in range(3)
    )
    q, k, v = torch.zeros(3, D_MODEL, D_HEAD).unbind(0)
    for place in range(1, 30):
        q[PLACES + place, place - 1] = 0.3 if head == 3 else 8
        if head == 3 and place > 1:
            q[PLACES + place, place - 2] = 0.3
    for place in range(30):
        k[PLACES + place, place] = 4
    if head == 2:
        q[NOT_GATED, D_HEAD - 1], k[PLACES, D_HEAD - 1] = 60, 4
    if head == 3:  # half of the head for what is seen, half for what is hidden
        v[: TOKENS // 2, : D_HEAD // 2] = torch.eye(32)[:, :16]
        v[TOKENS // 2 : TOKENS, D_HEAD // 2 :] = torch.eye(32)[:, :16]
    else:
        v[: TOKENS // 2] += torch.eye(32)
        v[TOKENS // 2 : TOKENS] += torch.eye(32)
    weight[:, query], weight[:, key], weight[:, value] = q, k, v
    o = torch.zeros(D_HEAD, D_MODEL)
    if head in (0, 2):
        o[:, : TOKENS // 2] = o[:, TOKENS // 2 : TOKENS] = torch.eye(32)
    elif head == 3:
        o[:16, :16] = o[16:, HIDDEN : HIDDEN + 16] = 3 * torch.eye(16)
    out[head * D_HEAD : (head + 1) * D_HEAD] = o


def causal_rows(n: int = 48, seed: int = 0) -> HeldOutRows:
    """Random words after BOS, a document each."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(ids_of(NAMES), (n, LENGTH)).astype(np.int32)
    ids[:, 0] = causal_model().bos_id
    return text_rows(ids, np.full(n, LENGTH), np.arange(n), "test", causal_model().special_ids)
