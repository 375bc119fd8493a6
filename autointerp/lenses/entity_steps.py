"""Pieces of a training run: the order of items, what is put before the model, losses by layer, the best states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.lenses.entity_filter import Filter
from autointerp.lenses.entity_frame import Frame, Ids, stripped
from autointerp.lenses.entity_run import Prefix, PromptRunner, Scored
from autointerp.lenses.entity_vectors import Sources
from autointerp.model import LanguageModel


@dataclass(frozen=True)
class Order:
    """Endless seeded batches of item numbers, a fresh order each epoch."""

    n: int
    size: int
    seed: int

    def take(self, steps: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed)
        found: list[list[int]] = []
        while len(found) < steps:
            order = torch.randperm(self.n, generator=generator).tolist()
            found += [order[start : start + self.size] for start in range(0, self.n, self.size)]
        return found[:steps]


@contextmanager
def frozen(model: LanguageModel) -> Iterator[None]:
    """No parameter of the model takes a gradient inside the block."""
    learning = [p for p in model.bridge.original_model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)  # noqa: FBT003
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)  # noqa: FBT003


class Keeper:
    """Copies of the best states by layer, and which layers still rise."""

    def __init__(self, theta: Float[Tensor, "layer d_model"], patience: int = 2) -> None:
        self.best = theta.clone()
        self.match = torch.full((len(theta),), -1.0)
        self._waited = [0] * len(theta)
        self._patience = patience

    def offer(
        self, theta: Float[Tensor, "layer d_model"], match: Float[Tensor, " layer"], learning: list[int]
    ) -> list[int]:
        """Take what is better; returns the layers that go on."""
        for place in learning:
            self._waited[place] += 1
            if match[place] > self.match[place]:
                self.match[place], self._waited[place] = match[place], 0
                self.best[place] = theta[place]
        return [place for place in learning if self._waited[place] < self._patience]


def layer_losses(scored: Scored, layer: Int[Tensor, " target"], n: int) -> Float[Tensor, " layer"]:
    """Mean negative log-probability of each layer's targets; 0 for a layer without."""
    layer = layer.to(scored.log_prob.device)
    zeros = torch.zeros(n, device=layer.device)
    counts = zeros.index_add(0, layer, torch.ones_like(scored.log_prob))
    return (zeros.index_add(0, layer, -scored.log_prob) / counts.clamp_min(1)).cpu()


def layer_rows(
    runner: PromptRunner, items: Sources, places: Sequence[int]
) -> tuple[Prefix, Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Every item at every layer: the contexts once, and each row's item and place of its layer."""
    if len({len(one) for one in items.contexts}) == 1 and len(items.contexts[0]) == 1:
        prefix = runner.prefix([items.contexts[0]])
    else:
        prefix = runner.prefix(items.contexts)
    of = torch.arange(len(items)).repeat(len(places))
    return prefix, of, torch.tensor(list(places)).repeat_interleave(len(items))


def contexts_of(items: Sources, of: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Each row's context: its item's, or the one start token that all share."""
    return of if any(len(one) > 1 for one in items.contexts) else torch.zeros_like(of)


def with_stop(frame: Frame, items: Sources) -> list[Ids]:
    """Target ids with the stop token."""
    return [np.append(target, frame.stop) for target in items.targets]


def score_items(
    runner: PromptRunner, items: Sources, theta: Float[Tensor, "layer d_model"], places: Sequence[int],
    change: Filter | None = None,
) -> tuple[Scored, Int[Tensor, " target"]]:  # fmt: skip
    """Scores of the items' targets at the layers in `places`, and each target's layer; gradients flow to `theta` and
    to the filter."""
    prefix, of, layer = layer_rows(runner, items, places)
    h = items.h[of, layer]
    h = h if change is None else change(h, layer)
    rows = runner.rows(prefix, contexts_of(items, of), torch.stack([h, theta[layer]], 1), np.array(runner.frame.slots))
    targets = with_stop(runner.frame, items)
    scored = runner.score(rows, [targets[i] for i in of.tolist()])
    return scored, layer[scored.row.cpu()]


def match_items(
    runner: PromptRunner, items: Sources, theta: Float[Tensor, "layer d_model"], places: Sequence[int],
    change: Filter | None = None,
) -> Float[Tensor, " layer"]:  # fmt: skip
    """Exact match of greedy generation, by layer; NaN at layers that are not asked for."""
    prefix, of, layer = layer_rows(runner, items, places)
    h = items.h[of, layer]
    with torch.no_grad():
        h = h if change is None else change(h, layer)
    rows = runner.rows(prefix, contexts_of(items, of), torch.stack([h, theta[layer]], 1), np.array(runner.frame.slots))
    said = runner.generate(rows, max(len(target) for target in items.targets) + 1)
    right = [
        stripped(runner.model, list(one.ids)) == items.items[item].mention.strip()
        for one, item in zip(said, of.tolist(), strict=True)
    ]
    match = torch.full((len(theta),), float("nan"))
    match[list(places)] = torch.tensor(right).float().reshape(len(places), -1).mean(1)
    return match
