"""Small data for the entity lens: sentences of the tiny tokenizer's words with spans."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from tiny_models import tiny_model

from autointerp.lenses.entity_frame import Frame
from autointerp.lenses.entity_items import MentionItem, make_item
from autointerp.lenses.entity_run import PromptRunner
from autointerp.lenses.entity_train import TrainPlan

NAMES = ("John", "Mary", "red house", "blue ball", "old park", "new cat and dog")
LINES = ("the cat sat on {}", "{} ran to the mat", "it was {} and then the dog ran", "news of {}")


def tiny_items() -> list[MentionItem]:
    """Every name in every line, a document each."""
    items = []
    for line_number, line in enumerate(LINES):
        for name in NAMES:
            text = line.format(name)
            start = line.index("{")
            ids = (f"doc {line_number} {name}", name)
            items.append(make_item(text, (start, start + len(name)), name, ids, "test"))
    return items


@functools.cache
def tiny_runner(kind: str = "gpt2", *, cached: bool = True) -> PromptRunner:
    model = tiny_model(kind)
    return PromptRunner(model, Frame.of(model), cached=cached)


def tiny_plan(**changes: Any) -> TrainPlan:
    options: dict[str, Any] = {
        "layers": (-1, 0, 1), "seeds": (0,), "rates": (0.05,), "epochs": 1.0, "batch_items": 4, "min_steps": 8,
    }  # fmt: skip
    return TrainPlan(**{**options, **changes})


def contexts(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Random contexts of the given lengths."""
    draw = np.random.default_rng(0)
    return [np.concatenate([[1], draw.integers(20, 120, size)]).astype(np.int64) for size in sizes]


def soft(n: int, seed: int = 0, slots: int = 2, d_model: int = 32) -> torch.Tensor:
    return torch.randn(n, slots, d_model, generator=torch.Generator().manual_seed(seed))
