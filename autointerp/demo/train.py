"""Trains the embedded demo model and its tokenizer from nothing: `python -m autointerp.demo.train --out DIR`.

1. The corpus generator writes text; a byte-level BPE tokenizer is trained on its first part.
2. A small GPT-2 (no dropout, tied embeddings) is initialised from the seed.
3. AdamW with warm-up and cosine decay over batches of text windows and, for a fixed share, windows of
   repeated random tokens (`autointerp.demo.windows`).
4. A second, shorter run, at whose beginning one head is pushed towards equal tokens (`build.second_stage`).
5. The HuggingFace folder (config, tokenizer, float32 safetensors) and `training.json` (facts for the model
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
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autointerp.demo.build import TrainConfig, build_model, second_stage
from autointerp.demo.corpus import documents, ioi_prompts
from autointerp.demo.measure import detector_scores, ioi_result, patterns, repeated_random, single_id
from autointerp.demo.people import FIRST_NAMES
from autointerp.demo.tokenizer import mark_ids, train_tokenizer
from autointerp.demo.windows import (
    Vocabulary,
    Window,
    batches,
    encode_documents,
    ordinary_ids,
    pair_windows,
    random_window,
    text_windows,
)

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


def window_stream(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, config: TrainConfig) -> Iterator[Window]:
    """Endless training windows, short ones first: text of fresh documents, mixed with random windows and with
    windows of two-person sentences alone."""
    rng = random.Random(f"windows:{config.seed}")
    sent = 0
    pairs = pair_windows(tokenizer, vocabulary, random.Random(f"pairs:{config.seed}"))
    for ids in encode_documents(tokenizer, documents(config.seed)):
        short = sent < config.short_share * config.n_tokens
        length = config.short_ctx if short else config.n_ctx
        random_share = config.short_random_share if short else config.random_share
        pair_share = config.pair_share if sent >= config.pair_from * config.n_tokens else 0.0
        for window in text_windows(ids, vocabulary, length, rng):
            while rng.random() < pair_share:
                drawn = next(pairs)
                sent += len(drawn.ids)
                yield drawn
            while rng.random() < random_share:
                drawn = random_window(vocabulary, length, rng)
                sent += len(drawn.ids)
                yield drawn
            sent += len(window.ids)
            yield window


@dataclass(frozen=True)
class Batch:
    """Ids padded on the right; the target of position i is id i + 1, with its weight (0 at padding)."""

    ids: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch target"]


def collate(windows: Sequence[Window], pad: int) -> Batch:
    """One batch; the last position has no target."""
    width = max(len(window.ids) for window in windows)
    ids = torch.full((len(windows), width), pad)
    weights = torch.zeros(len(windows), width - 1)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.tensor(window.ids)
        weights[row, : len(window.ids) - 1] = torch.tensor(window.weights[1:])
    return Batch(ids, weights)


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


def _loss(model: GPT2LMHeadModel, batch: Batch) -> Float[Tensor, ""]:
    """Weighted mean of the cross-entropy over targets of weight above 0."""
    hidden = model.transformer(batch.ids, use_cache=False).last_hidden_state[:, :-1]
    counted = batch.weights > 0
    logits = model.lm_head(hidden[counted])
    losses = nn.functional.cross_entropy(logits, batch.ids[:, 1:][counted], reduction="none")
    weights = batch.weights[counted]
    return (losses * weights).sum() / weights.sum()


def duplicate_loss(model: GPT2LMHeadModel, batch: Batch, head: tuple[int, int], bos: int) -> Float[Tensor, ""]:
    """Mean of -log of one head's attention to earlier copies of the destination's token, where there are any.

    A push for a while (`build.second_stage`): nothing in a small corpus makes a head match equal tokens, since
    induction heads find the same places one position later. The head must be in layer 0, whose input needs no other
    layer; raises ValueError else.
    """
    layer, index = head
    if layer != 0:
        raise ValueError(f"the head with a pushed pattern must be in layer 0, not {layer}")
    block, size = model.transformer.h[0], model.config.n_embd
    width = size // model.config.n_head
    places = torch.arange(batch.ids.shape[1])
    stream = block.ln_1(model.transformer.wte(batch.ids) + model.transformer.wpe(places))
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    query, key = (
        stream @ weight[:, start : start + width] + bias[start : start + width]
        for start in (index * width, size + index * width)
    )
    past = places[:, None] >= places
    scores = (query @ key.transpose(1, 2) / math.sqrt(width)).masked_fill(~past, -torch.inf)
    copies = (batch.ids[:, :, None] == batch.ids[:, None, :]) & (places[:, None] > places) & (batch.ids != bos)[:, None]
    there = copies.any(-1) & (batch.ids != bos)
    matched = scores.masked_fill(~copies, -1e9).logsumexp(-1) - scores.logsumexp(-1)
    found: Tensor = -(matched * there).sum() / there.sum().clamp_min(1)
    return found


@contextmanager
def _fused_activations(model: GPT2LMHeadModel) -> Iterator[None]:
    """HuggingFace's gelu_new is a chain of elementwise operations; the fused form is the same function."""
    mlps: list[Any] = [block.get_submodule("mlp") for block in model.transformer.h]
    originals = [mlp.act for mlp in mlps]
    for mlp in mlps:
        mlp.act = nn.GELU(approximate="tanh")
    try:
        yield
    finally:
        for mlp, original in zip(mlps, originals, strict=True):
            mlp.act = original


def fit(model: GPT2LMHeadModel, stream: Iterator[Window], config: TrainConfig, probe: Probe) -> tuple[int, int]:
    """Trains in place until `n_tokens` ids were seen; returns (steps, tokens)."""
    optimizer = _optimizer(model, config)
    tokens = step = 0
    began = time.monotonic()
    for batch in batches(stream, config.batch_tokens, random.Random(f"batches:{config.seed}")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, tokens / config.n_tokens)
        collated = collate(batch, probe.bos)
        loss = _loss(model, collated)
        if tokens < config.duplicate_until * config.n_tokens:
            loss = loss + config.duplicate_weight * duplicate_loss(model, collated, config.duplicate_head, probe.bos)
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
    vocabulary = Vocabulary(
        ordinary,
        mark_ids(tokenizer),
        bos,
        to=single_id(tokenizer, " to"),
        names=frozenset(single_id(tokenizer, f" {name}") for name in FIRST_NAMES),
    )
    stages = (config, second_stage(config, round(config.n_tokens * 2 / 6.5)))
    steps = tokens = 0
    with _fused_activations(model):
        for stage in stages:
            stream = window_stream(tokenizer, vocabulary, stage)
            done = fit(model, stream, stage, Probe(tokenizer, ordinary, bos))
            steps, tokens = steps + done[0], tokens + done[1]
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        "config": dataclasses.asdict(config),
        "second_stage": dataclasses.asdict(stages[1]),
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
