"""Trains the embedded demo model and its tokenizer from nothing: `python -m autointerp.demo.train --out DIR`.

1. The corpus generator writes text; a byte-level BPE tokenizer is trained on its first part.
2. A small GPT-2 (no dropout, tied embeddings) is initialised from the seed.
3. AdamW with warm-up and cosine decay over batches of text windows and, for a fixed share, windows of
   repeated random tokens (`autointerp.demo.windows`).
4. The HuggingFace folder (config, tokenizer, float32 safetensors) and `training.json` (facts for the model
   card) are written to DIR.

What it does not do: resume, use a GPU, or choose hyperparameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import platform
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autointerp.demo.corpus import documents, ioi_prompts
from autointerp.demo.measure import detector_scores, ioi_result, patterns, repeated_random
from autointerp.demo.tokenizer import mark_ids, train_tokenizer
from autointerp.demo.windows import (
    IGNORE,
    RandomIds,
    Window,
    batches,
    encode_documents,
    ordinary_ids,
    random_window,
    text_windows,
)

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the weights (beside library versions and the processor)."""

    seed: int = 0
    n_tokens: int = 6_000_000
    batch_tokens: int = 2048
    vocab_size: int = 2600
    tokenizer_documents: int = 6000
    n_ctx: int = 256
    short_ctx: int = 32
    short_share: float = 0.35
    d_model: int = 160
    n_layers: int = 4
    n_heads: int = 8
    d_mlp: int = 320
    learning_rate: float = 3e-3
    final_learning_rate: float = 1e-4
    warmup_share: float = 0.04
    weight_decay: float = 0.05
    random_share: float = 0.15
    short_random_share: float = 0.5


def build_model(config: TrainConfig, bos: int) -> GPT2LMHeadModel:
    """A GPT-2 without dropout whose weights come from the seed alone, scaled by fan-in.

    Position embeddings start as sinusoids (Vaswani et al. 2017, arXiv 1706.03762) and are trained like the rest:
    a fixed offset is then one linear map for all positions, and heads that look back by one form early.
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
    return model


def sinusoids(n_positions: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Sines and cosines of the position at geometrically spaced wavelengths of 4 to 2 * n_positions tokens."""
    ratio = torch.linspace(0, 1, d_model // 2)
    wavelengths = 4 * (n_positions / 2) ** ratio
    angles = 2 * math.pi * torch.arange(n_positions)[:, None] / wavelengths
    return 0.04 * torch.cat((angles.sin(), angles.cos()), dim=1)


def window_stream(
    tokenizer: PreTrainedTokenizerFast, made_of: RandomIds, config: TrainConfig
) -> Iterator[Window]:
    """Endless training windows: text of fresh documents, mixed with random windows; short windows come first."""
    rng = random.Random(f"windows:{config.seed}")
    sent = 0
    for ids in encode_documents(tokenizer, documents(config.seed)):
        short = sent < config.short_share * config.n_tokens
        length = config.short_ctx if short else config.n_ctx
        random_share = config.short_random_share if short else config.random_share
        for window in text_windows(ids, made_of.bos, length, rng):
            while rng.random() < random_share:
                drawn = random_window(made_of, length, rng)
                sent += len(drawn.ids)
                yield drawn
            sent += len(window.ids)
            yield window


def collate(windows: Sequence[Window], pad: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Ids padded on the right, and the target of each position (IGNORE where it does not count)."""
    width = max(len(window.ids) for window in windows)
    ids = torch.full((len(windows), width), pad)
    targets = torch.full((len(windows), width), IGNORE)
    for row, window in enumerate(windows):
        tokens = torch.tensor(window.ids)
        counts = torch.tensor(window.predictable)
        ids[row, : len(tokens)] = tokens
        targets[row, : len(tokens) - 1] = torch.where(counts[1:], tokens[1:], IGNORE)
    return ids, targets


def learning_rate(config: TrainConfig, share_done: float) -> float:
    """Linear warm-up, then a cosine to the final rate; `share_done` in [0, 1]."""
    if share_done < config.warmup_share:
        return config.learning_rate * share_done / config.warmup_share
    progress = (share_done - config.warmup_share) / (1 - config.warmup_share)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _loss(
    model: GPT2LMHeadModel, ids: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    hidden = model.transformer(ids, use_cache=False).last_hidden_state
    counted = targets != IGNORE
    return nn.functional.cross_entropy(model.lm_head(hidden[counted]), targets[counted])


def fit(
    model: GPT2LMHeadModel, stream: Iterator[Window], config: TrainConfig, probe: Probe
) -> tuple[int, int]:
    """Trains in place until `n_tokens` ids were seen; returns (steps, tokens)."""
    # HuggingFace's gelu_new is a chain of elementwise operations; the fused form is the same function.
    originals = [block.mlp.act for block in model.transformer.h]
    for block in model.transformer.h:
        block.mlp.act = nn.GELU(approximate="tanh")
    optimizer = _optimizer(model, config)
    tokens = step = 0
    began = time.monotonic()
    for batch in batches(stream, config.batch_tokens, random.Random(f"batches:{config.seed}")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, tokens / config.n_tokens)
        ids, targets = collate(batch, probe.bos)
        loss = _loss(model, ids, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        tokens += sum(len(window.ids) for window in batch)
        if step % 100 == 0:
            rate = tokens / (time.monotonic() - began)
            logger.info("step %d, %d tokens, loss %.3f, %.0f tokens/s", step, tokens, loss.item(), rate)
        if step % 400 == 0:
            probe.report(model)
        if tokens >= config.n_tokens:
            break
    for block, original in zip(model.transformer.h, originals, strict=True):
        block.mlp.act = original
    return step, tokens


@dataclass(frozen=True)
class Probe:
    """What is logged on the way: the best head of each detector, and two-person sentences."""

    tokenizer: PreTrainedTokenizerFast
    ordinary: Sequence[int]
    bos: int

    def report(self, model: GPT2LMHeadModel) -> None:
        """Logs the measures; the model's attention implementation is put back afterwards."""
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        scores = detector_scores(patterns(model, repeated_random(self.ordinary, self.bos, 1)[:10]))
        model.set_attn_implementation(before)
        best = ", ".join(
            f"{name} {'/'.join(f'{value:.2f}' for value in score.flatten().topk(3).values.tolist())}"
            for name, score in scores.items()
        )
        pairs = ioi_result(model, self.tokenizer, ioi_prompts(1, 100))
        logger.info("%s; pairs %d/%d, difference %.2f", best, pairs.n_right, pairs.n, pairs.mean_difference)


def train(out: Path, config: TrainConfig) -> None:
    """The whole job: tokenizer, model, training, files in `out` (created where missing)."""
    import tokenizers
    import transformers

    began = time.monotonic()
    texts = [document.text for document in islice(documents(config.seed), config.tokenizer_documents)]
    tokenizer = train_tokenizer(texts, config.vocab_size, config.n_ctx)
    bos = tokenizer.bos_token_id
    sample = islice(documents(config.seed), config.tokenizer_documents)
    ordinary = ordinary_ids(encode_documents(tokenizer, sample))
    logger.info("%d ids, %d of them ordinary", len(tokenizer), len(ordinary))
    model = build_model(config, bos)
    made_of = RandomIds(ordinary, mark_ids(tokenizer), bos)
    stream = window_stream(tokenizer, made_of, config)
    steps, tokens = fit(model, stream, config, Probe(tokenizer, ordinary, bos))
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        "config": dataclasses.asdict(config),
        "steps": steps,
        "tokens": tokens,
        "wall_seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--tokens", type=int, default=TrainConfig.n_tokens, help="training tokens")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    train(options.out, TrainConfig(seed=options.seed, n_tokens=options.tokens))


if __name__ == "__main__":
    main()
