"""The demo model before training: its configuration and its seeded initial weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


OUTPUT_SCALE = 0.35


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the weights (beside library versions and the processor)."""

    seed: int = 0
    n_tokens: int = 6_500_000
    batch_tokens: int = 2048
    vocab_size: int = 2600
    tokenizer_documents: int = 6000
    n_ctx: int = 256
    short_ctx: int = 32
    short_share: float = 0.33
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 8
    d_mlp: int = 256
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-4
    warmup_share: float = 0.04
    weight_decay: float = 0.05
    random_share: float = 0.15
    short_random_share: float = 0.5
    pair_share: float = 0.4
    pair_from: float = 0.25
    duplicate_head: tuple[int, int] = (0, 7)
    duplicate_weight: float = 0.1
    duplicate_until: float = 0.0


def second_stage(config: TrainConfig, n_tokens: int = 2_000_000) -> TrainConfig:
    """The shorter run that follows: for its first two fifths one head of layer 0 is pushed to look at equal tokens
    (`train.duplicate_loss`), then it is left alone, so that what stays is what the text keeps."""
    return replace(
        config,
        n_tokens=n_tokens,
        learning_rate=2e-3,
        warmup_share=0.05,
        short_share=0.3,
        pair_from=0.0,
        duplicate_until=0.4,
    )


def build_model(config: TrainConfig, bos: int) -> GPT2LMHeadModel:
    """A GPT-2 without dropout whose weights come from the seed alone, scaled by fan-in.

    Position embeddings start as sinusoids (Vaswani et al. 2017, arXiv 1706.03762) and are trained like the
    rest: a fixed offset is then one linear map for all positions, and heads that look back by one form early.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.n_ctx,
        n_embd=config.d_model,
        n_layer=config.n_layers,
        n_head=config.n_heads,
        n_inner=config.d_mlp,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=bos,
        eos_token_id=bos,
    )
    model = GPT2LMHeadModel(shape)
    generator = torch.Generator().manual_seed(config.seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        scale = 0.04 if "wte" in name else 0.8 / math.sqrt(parameter.shape[0])
        if name.endswith("c_proj.weight"):
            scale /= math.sqrt(2 * config.n_layers)
        with torch.no_grad():
            parameter.normal_(0.0, scale, generator=generator)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(sinusoids(config.n_ctx, config.d_model))
        for block in model.transformer.h:
            _start_attention(block.attn, generator)
    return model


def _start_attention(attention: Any, generator: torch.Generator) -> None:
    """W_Q = W_K and W_O = OUTPUT_SCALE * W_V transposed (mimetic start, Trockman and Kolter 2023, arXiv 2305.09828):
    alike tokens see each other from the first step, and no head is given a task."""
    weight = attention.c_attn.weight
    size = weight.shape[0]
    query, value = (torch.randn(size, size, generator=generator) / math.sqrt(size) for _ in range(2))
    weight[:, :size] = query
    weight[:, size : 2 * size] = query
    weight[:, 2 * size :] = value
    attention.c_proj.weight.copy_(OUTPUT_SCALE * value.T)


def sinusoids(n_positions: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Sines and cosines of the position at geometrically spaced wavelengths, 4 to 2 * n_positions tokens."""
    ratio = torch.linspace(0, 1, d_model // 2)
    wavelengths = 4 * (n_positions / 2) ** ratio
    angles = 2 * math.pi * torch.arange(n_positions)[:, None] / wavelengths
    return 0.04 * torch.cat((angles.sin(), angles.cos()), dim=1)
