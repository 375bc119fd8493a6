"""Probe tasks of pure numbers and probe texts of the tiny models' words."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from tiny_models import tiny_model
from torch import Tensor

from autointerp.model import LanguageModel
from autointerp.probing import ProbeItem, place_items
from autointerp.probing.items import ProbeSet
from autointerp.probing.validation import Task

NOUNS = ("cat", "dog", "mat", "house", "ball", "park")
TEMPLATES = (
    "the {} sat on it",
    "a red {} ran to it",
    "that old {} was in it and",
    "When the new {} said it",
    "one blue {} went on it then",
    "Mary gave the {} of it",
)


def noun_items(templates: tuple[str, ...] = TEMPLATES, nouns: tuple[str, ...] = NOUNS) -> list[ProbeItem]:
    """Every noun in every template, read at " it", labelled by the noun."""
    return [
        ProbeItem(template.format(noun), " it", noun, {"template": f"t{t}", "lexeme": noun}, last=True)
        for (t, template), noun in itertools.product(enumerate(templates), nouns)
    ]


def noun_set(model: LanguageModel | None = None, **options: tuple[str, ...]) -> ProbeSet:
    return place_items(model or tiny_model(), noun_items(**options))


def task_for(
    y: np.ndarray, groups: dict[str, np.ndarray], split: str, seed: int = 0, types: np.ndarray | None = None
) -> Task:
    """A task of numbers."""
    named = {name: [str(g) for g in values] for name, values in groups.items()}
    return Task.of([f"c{c:03d}" for c in y], named, split, seed, types)


def planted(n: int, d: int, seed: int, shift: float = 6.0) -> tuple[Tensor, np.ndarray, Tensor]:
    """Two classes that differ by a shift along one random direction; returns x, y and the unit direction."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(d, generator=draw)
    direction /= direction.norm()
    y = np.arange(n) % 2
    x = torch.randn(n, d, generator=draw) + shift * torch.as_tensor(y)[:, None] * direction
    return x, y, direction
