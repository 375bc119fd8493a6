"""Baselines and controls, on the same split with the same rule for the penalty (probing section 7).

Each gives what it got right on every test item, so that differences are paired. A control that cannot be run here
is named with its reason, never left out silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.model.sites import Site
from autointerp.probing.validation import Labels, Task, Tested, cross_validate
from autointerp.records import Failure, Unscored

PerItem = Float64[np.ndarray, " item"]


@dataclass(frozen=True)
class Budget:
    """How often each random control is drawn; `other_heads` from the rest of the model, beside those of the layer."""

    shuffles: int = 20
    control_tasks: int = 3
    random_ov: int = 3
    other_heads: int = 20
    random_weights: bool = True


FULL = Budget()
LIGHT = Budget(shuffles=3, control_tasks=1, random_ov=1, other_heads=0)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a control got right, an item (a mean over its draws), and each draw's accuracy."""

    correct: PerItem
    draws: tuple[float, ...] = ()
    detail: str = ""


def majority(task: Task) -> PerItem:
    """The most frequent class of each training part."""
    correct = np.full(len(task.y), np.nan)
    for fold in task.folds:
        guess = np.bincount(task.y[fold.train], minlength=task.n_classes).argmax()
        correct[fold.test] = task.y[fold.test] == guess
    return correct


def shuffled_labels(x: Float[Tensor, "item d"], task: Task, repeats: int) -> Outcome | Failure:
    """Labels permuted within each training part; the test labels stay."""
    found = []
    for repeat in range(repeats):
        rng = np.random.default_rng([task.seed, 1, repeat])
        labels = []
        for fold in task.folds:
            y = task.y.copy()
            y[fold.train] = rng.permutation(y[fold.train])
            labels.append(y)
        tested = cross_validate(x, task, labels)
        if isinstance(tested, Failure):
            return tested
        found.append(tested.correct(task.y))
    return mean_outcome(found, task, f"{repeats} permutations")


def control_task(x: Float[Tensor, "item d"], task: Task, repeats: int) -> Outcome | Failure | Unscored:
    """A fixed random label a type (Hewitt and Liang 2019), trained and tested on the task's own split.

    Where types and classes are the same thing, the accuracy equals the task's by construction.
    """
    types = task.types
    if types is None or len(np.unique(types)) < 2:
        return Unscored(scorer="control_task", reason="all items are of one type: there is nothing to memorise")
    if _one_to_one(types, task.y):
        return Unscored(
            scorer="control_task",
            reason="the labels name the types themselves, so the control's accuracy equals the task's by construction "
            "(selectivity 0): only the other rows carry information",
        )
    found = []
    for repeat in range(repeats):
        y = control_labels(types, task.y, np.random.default_rng([task.seed, 2, repeat]))
        tested = cross_validate(x, replace(task, y=y))
        if isinstance(tested, Failure):
            return tested
        found.append(tested.correct(y))
    return mean_outcome(found, task, f"{repeats} assignments")


def control_labels(types: Int[np.ndarray, " item"], y: Labels, rng: np.random.Generator) -> Labels:
    """Labels of types dealt out anew: permuted where each type has a label of its own, else drawn by frequency."""
    values, member = np.unique(types, return_inverse=True)
    counts = np.zeros((len(values), int(y.max()) + 1))
    np.add.at(counts, (member, y), 1)
    if ((counts > 0).sum(1) == 1).all():
        return np.asarray(rng.permutation(counts.argmax(1))[member])
    return np.asarray(rng.choice(y, size=len(values))[member])


def _one_to_one(types: Int[np.ndarray, " item"], y: Labels) -> bool:
    pairs = np.unique(np.stack([types, y]), axis=1)
    return bool(len(np.unique(types)) == len(np.unique(y)) == pairs.shape[1])


def random_ov(
    mixed: Float[Tensor, "item d_model"], size: int, norm: float, task: Task, repeats: int
) -> Outcome | Failure:
    """What the head attends to, through a random projection to `size` dimensions of Frobenius norm `norm`."""
    found = []
    for repeat in range(repeats):
        draw = torch.Generator().manual_seed(task.seed * 1000 + repeat)
        matrix = torch.randn(mixed.shape[1], size, generator=draw, dtype=torch.float64)
        tested = cross_validate(mixed.double() @ (matrix * norm / matrix.norm()), task)
        if isinstance(tested, Failure):
            return tested
        found.append(tested.correct(task.y))
    return mean_outcome(found, task, f"{repeats} random projections to {size} dimensions")


def mean_outcome(found: Sequence[PerItem], task: Task, detail: str) -> Outcome:
    """The mean over draws."""
    rows = task.tested
    return Outcome(np.mean(found, axis=0), tuple(float(one[rows].mean()) for one in found), detail)


def outcome_of(tested: Tested | Failure, task: Task, detail: str = "") -> Outcome | Failure:
    """One probe as a control."""
    return tested if isinstance(tested, Failure) else Outcome(tested.correct(task.y), (), detail)


def position_features(
    positions: Int[np.ndarray, " item"], lengths: Int[np.ndarray, " item"]
) -> Float[Tensor, "item 3"]:
    """Position, tokens after it, and length: the positional control of a site that belongs to no head."""
    columns = [positions, lengths - 1 - positions, lengths]
    return torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)


def permutation_p(accuracy: float, draws: Sequence[float]) -> float:
    """(1 + shuffles at least as good) / (1 + shuffles)."""
    return (1 + sum(draw >= accuracy for draw in draws)) / (1 + len(draws))


def sampled_heads(site: Site, n_layers: int, n_heads: int, budget: Budget, seed: int) -> list[tuple[int, int]]:
    """All other heads of the layer, and `other_heads` drawn from the rest of the model."""
    own = [(site.layer, h) for h in range(n_heads) if h != site.index]
    rest = [(layer, h) for layer in range(n_layers) if layer != site.layer for h in range(n_heads)]
    rng = np.random.default_rng([seed, 3])
    picks = rng.permutation(len(rest))[: budget.other_heads]
    return own + [rest[p] for p in sorted(picks.tolist())]
