"""Decode from ids, greedily or by sampling, and score given continuations.

1. With a cache the prompt runs once and each later step feeds one token; without, every step runs everything.
2. All rows of a batch have the same length, so that nothing is padded and position p is position p in every row.
3. A row ends with its first stop id, which counts as generated; what is fed after it is not read.

Hooks of the caller stay active through all forwards and must themselves tell a prompt from a step (`lenses.surgery`
does). Scoring gathers the log-probabilities wanted and never keeps `[batch pos d_vocab]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.model.language_model import LanguageModel

SCORED_POSITIONS = 64  # positions whose logits exist at once while scoring


@dataclass(frozen=True)
class Decoding:
    """How to decode: `temperature` 0 is greedy; sampling needs a `generator`. `cached=False` runs everything anew."""

    max_new_tokens: int = 30
    temperature: float = 0.0
    generator: torch.Generator | None = None
    cached: bool = True

    def check(self) -> None:
        """Raises BadInput for values that cannot be used."""
        if self.max_new_tokens < 1:
            raise BadInput(f"max_new_tokens is {self.max_new_tokens}; give at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise BadInput(f"the temperature is {self.temperature}; give 0 (greedy) or a positive number.")
        if self.temperature > 0 and self.generator is None:
            raise BadInput("sampling needs a seeded torch.Generator (Decoding(generator=...)), or temperature 0.")


@dataclass(frozen=True, eq=False)
class Generated:
    """`ids[row]`: generated ids up to and including the first stop id; `entropy`: of the first step, nats."""

    ids: tuple[tuple[int, ...], ...]
    entropy: Float[Tensor, " row"]


def stop_ids(model: LanguageModel) -> frozenset[int]:
    """Ids that end a text: the tokenizer's EOS and those of the model's generation settings."""
    settings = getattr(model.bridge.original_model, "generation_config", None)
    named: Any = getattr(settings, "eos_token_id", None)
    listed = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(i) for i in [*listed, model.tokenizer.eos_token_id] if i is not None)


def check_room(model: LanguageModel, length: int, new: int) -> None:
    """Raises BadInput where a prompt and what is to be generated do not fit the model's context."""
    if length + new > model.n_ctx:
        raise BadInput(
            f"a prompt of {length} tokens and {new} to generate pass the context of {model.name} ({model.n_ctx} "
            "tokens). Shorten the text or generate less."
        )


def generate(model: LanguageModel, ids: Int[Tensor, "batch pos"], decoding: Decoding) -> Generated:
    """Continue every row of `ids`. Raises BadInput for a batch that does not fit the context."""
    decoding.check()
    check_room(model, ids.shape[1], decoding.max_new_tokens)
    ends = torch.tensor(sorted(stop_ids(model)), dtype=torch.long, device=ids.device)
    steps = _Steps(model, cached=decoding.cached)
    made: list[Tensor] = []
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    entropy = torch.zeros(len(ids))
    for step in range(decoding.max_new_tokens):
        log_probs = torch.log_softmax(steps.next_logits(ids), dim=-1)
        if step == 0:
            entropy = -(log_probs.exp() * log_probs.clamp_min(-1e30)).sum(-1).cpu()
        chosen = _choose(log_probs, decoding)
        made.append(chosen)
        done = done | torch.isin(chosen, ends)
        if bool(done.all()):
            break
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    stops = set(ends.tolist())
    return Generated(tuple(_until_stop(row, stops) for row in torch.stack(made, dim=1).tolist()), entropy)


def answer_log_probs(
    model: LanguageModel, ids: Int[Tensor, "batch pos"], answers: Sequence[Sequence[int]]
) -> list[Float[Tensor, " token"]]:
    """Log-probability (nats) of every token of each row's answer, given the row and the answer before it.

    One teacher-forced forward without a cache. Raises BadInput where it does not fit the context.
    """
    size = max((len(answer) for answer in answers), default=0)
    if size == 0:
        return [torch.zeros(0) for _ in answers]
    check_room(model, ids.shape[1], size)
    first = ids.shape[1] - 1
    fed = torch.zeros(len(ids), size - 1, dtype=ids.dtype, device=ids.device)
    for row, answer in enumerate(answers):
        short = torch.tensor(answer[: size - 1], dtype=ids.dtype, device=ids.device)
        fed[row, : len(short)] = short
    hidden = model.final_states(torch.cat([ids, fed], dim=1))[1][:, first : first + size]
    lengths = [len(answer) for answer in answers]
    states = torch.cat([hidden[row, :n] for row, n in enumerate(lengths)])
    wanted = torch.tensor([i for answer in answers for i in answer], dtype=torch.long, device=ids.device)
    parts = []
    for start in range(0, len(states), SCORED_POSITIONS):
        part = slice(start, start + SCORED_POSITIONS)
        log_probs = torch.log_softmax(model.unembed(states[part]), dim=-1)
        parts.append(log_probs.gather(1, wanted[part, None])[:, 0].cpu())
    return list(torch.cat(parts).split(lengths))


class _Steps:
    """Next-token logits of a growing batch."""

    def __init__(self, model: LanguageModel, *, cached: bool) -> None:
        self._model = model
        self._original = model.bridge.original_model
        self._accepts = frozenset(inspect.signature(self._original.forward).parameters)
        self._cached = cached and "past_key_values" in self._accepts
        self._past: Any = None

    def next_logits(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch d_vocab"]:
        """Float32 logits after the last position; with a cache only what is new is fed."""
        if not self._cached:
            return self._model.unembed(self._model.final_states(ids)[1][:, -1])
        fed = ids if self._past is None else ids[:, -1:]
        extra = {"logits_to_keep": 1} if "logits_to_keep" in self._accepts else {}
        with torch.no_grad():
            out = self._original(fed, past_key_values=self._past, use_cache=True, **extra)
        self._past = out.past_key_values
        logits: Tensor = out.logits[:, -1].float()
        return logits


def _choose(log_probs: Float[Tensor, "batch d_vocab"], decoding: Decoding) -> Int[Tensor, " batch"]:
    if decoding.temperature == 0:
        return log_probs.argmax(-1)
    weights = torch.softmax(log_probs / decoding.temperature, dim=-1)
    return torch.multinomial(weights, 1, generator=decoding.generator)[:, 0]


def _until_stop(row: list[int], stops: set[int]) -> tuple[int, ...]:
    end = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
    return tuple(row[: end + 1])
