"""Training and testing over the folds; the penalty never sees the test part (probing sections 5 and 6).

1. Within the training part of a fold, up to three inner folds of the same split score the seven penalties by mean
   log-loss on what they hold out. A group that shifts all features makes a weakly penalised probe overconfident
   without making it worse at telling classes apart, so logits may be divided by one temperature, 1 or more, a penalty.
2. The strongest penalty within one standard error (over the inner folds) of the best is taken.
3. A probe is trained on the whole training part and tested once.

Inner fits end at a gradient of 1e-4, which orders penalties as well; the probe that is tested ends at 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.probing.linear import FitOptions, LinearProbe, fit_path, fit_probe
from autointerp.probing.splits import LEAKY, Fold, FoldOptions, Groups, factors_of, make_folds, row_folds
from autointerp.records import Failure

PENALTIES = (1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4)
INNER_FOLDS = 3
INNER_GRADIENT = 1e-4
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_WORST = 1e-12  # a class that training did not see has probability 0; its log-loss stays finite

Labels = Int[np.ndarray, " item"]


@dataclass(frozen=True, eq=False)
class Task:
    """What every feature set is trained and tested on: labels, groups, folds.

    `types` numbers the lexeme (or the token) of each item for the control task, None where there is none.
    """

    y: Labels
    class_names: tuple[str, ...]
    groups: Groups
    split: str
    folds: tuple[Fold, ...]
    seed: int
    types: Int[np.ndarray, " item"] | None = None
    options: FitOptions = field(default_factory=FitOptions)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def tested(self) -> Int[np.ndarray, " test"]:
        """Items that some fold tests, ascending."""
        return np.unique(np.concatenate([fold.test for fold in self.folds]))

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        groups: Groups,
        split: str,
        seed: int,
        types: Int[np.ndarray, " item"] | None = None,
    ) -> Task:
        """Classes in sorted order, folds drawn under the seed."""
        names, y = np.unique(np.asarray(labels), return_inverse=True)
        folds = tuple(make_folds(groups, y, split, seed))
        return cls(y, tuple(str(n) for n in names), groups, split, folds, seed, types)


@dataclass(frozen=True, eq=False)
class Tested:
    """Predictions on the held-out items of every fold, over all items: -1 and NaN where none tested them."""

    predicted: Int[np.ndarray, " item"]
    log_loss: Float64[np.ndarray, " item"]
    penalties: tuple[float, ...]  # a fold
    fold_accuracy: tuple[float, ...]

    def correct(self, y: Labels) -> Float64[np.ndarray, " item"]:
        """1 where right, 0 where wrong, NaN where untested."""
        return np.where(self.predicted < 0, np.nan, (self.predicted == y).astype(float))


def cross_validate(x: Float[Tensor, "item d"], task: Task, train_y: Sequence[Labels] | None = None) -> Tested | Failure:
    """Test the probe of each fold on what it holds out.

    `train_y`: other labels to train on, a fold (shuffled ones); the test is always on the task's.
    """
    if len(x) != len(task.y):
        raise BadInput(f"{len(x)} rows of features for {len(task.y)} items; give one an item")
    predicted = np.full(len(task.y), -1, dtype=np.int64)
    log_loss = np.full(len(task.y), np.nan)
    penalties, accuracy = [], []
    for number, fold in enumerate(task.folds):
        y = task.y if train_y is None else train_y[number]
        probe = train(x, y, fold.train, task)
        if isinstance(probe, Failure):
            return probe
        log_probs = probe.log_probs(x[torch.as_tensor(fold.test)]).numpy()
        predicted[fold.test] = log_probs.argmax(1)
        log_loss[fold.test] = _losses(log_probs, task.y[fold.test])
        penalties.append(probe.penalty)
        accuracy.append(float((predicted[fold.test] == task.y[fold.test]).mean()))
    return Tested(predicted, log_loss, tuple(penalties), tuple(accuracy))


def train(x: Float[Tensor, "item d"], y: Labels, rows: Int[np.ndarray, " row"], task: Task) -> LinearProbe | Failure:
    """A probe on some rows, its penalty chosen within them."""
    penalty = choose_penalty(x, y, rows, task)
    if isinstance(penalty, Failure):
        return penalty
    return fit_probe(x[torch.as_tensor(rows)], y[rows], task.n_classes, penalty, task.options)


def choose_penalty(x: Float[Tensor, "item d"], y: Labels, rows: Int[np.ndarray, " row"], task: Task) -> float | Failure:
    """The strongest penalty within one standard error of the best mean log-loss of the inner folds; the strongest
    of all where the rows cannot be split once more."""
    scores = []  # [fold][penalty][temperature]
    options = replace(task.options, gradient=max(INNER_GRADIENT, task.options.gradient))
    for fold in _inner_folds(y, rows, task):
        x_train, y_train = x[torch.as_tensor(rows[fold.train])], y[rows[fold.train]]
        x_test, y_test = x[torch.as_tensor(rows[fold.test])], y[rows[fold.test]]
        losses = []
        for probe in fit_path(x_train, y_train, task.n_classes, PENALTIES, options):
            if isinstance(probe, Failure):
                return probe
            logits = probe.logits(x_test)
            losses.append([_mean_loss(logits / temperature, y_test) for temperature in TEMPERATURES])
        scores.append(losses)
    return one_standard_error(np.array(scores)) if scores else PENALTIES[0]


def one_standard_error(scores: Float64[np.ndarray, "fold penalty temperature"]) -> float:
    """The strongest penalty within one standard error of the best, each at its own best temperature."""
    softest = scores.mean(0).argmin(1)
    table = np.take_along_axis(scores, softest[None, :, None], axis=2)[:, :, 0]
    mean = table.mean(0)
    best = int(mean.argmin())
    error = float(table[:, best].std(ddof=1) / np.sqrt(len(table))) if len(table) > 1 else 0.0
    return PENALTIES[int(np.flatnonzero(mean <= mean[best] + error)[0])]


def _mean_loss(logits: Float64[Tensor, "row class"], y: Labels) -> float:
    return float(_losses(torch.log_softmax(logits, dim=1).numpy(), y).mean())


def _inner_folds(y: Labels, rows: Int[np.ndarray, " row"], task: Task) -> list[Fold]:
    """Folds of the training rows by the same split; by rows for the leaky split and where one group is left."""
    groups = {name: [names[row] for row in rows] for name, names in task.groups.items()}
    if task.split == LEAKY or any(len(set(groups[name])) < 2 for name in factors_of(task.split)):
        return row_folds(len(rows), INNER_FOLDS, task.seed)
    return make_folds(groups, y[rows], task.split, task.seed, FoldOptions(INNER_FOLDS, all_classes=False))


def _losses(log_probs: Float64[np.ndarray, "row class"], y: Labels) -> Float64[np.ndarray, " row"]:
    return np.asarray(-np.maximum(log_probs[np.arange(len(y)), y], np.log(_WORST)))
