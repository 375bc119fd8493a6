"""What a change does to the model on held-out items: the preference, flips, and other positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.model import LanguageModel, log_probs
from autointerp.model.site_changes import changing_site, final_hidden
from autointerp.model.sites import Batch, Row, batches
from autointerp.probing.causal_conditions import CausalInputs, Condition
from autointerp.probing.collection import rows_of
from autointerp.probing.validation import Task

N_UNRELATED = 4
PerItem = Float64[np.ndarray, " item"]
VectorMap = Callable[[Tensor, Int[Tensor, " batch"]], Tensor]
"""Vectors of a batch and the items' numbers to new vectors."""


@dataclass(eq=False)
class Measured:
    """Per item and condition; NaN where a quantity has no meaning."""

    before: PerItem
    drop: dict[int, PerItem]
    flipped: dict[int, PerItem]
    kl: dict[int, PerItem]


def measure(inputs: CausalInputs, conditions: Sequence[Condition]) -> Measured:
    n = len(inputs.task.y)
    found = Measured(np.full(n, np.nan), *({c: np.full(n, np.nan) for c in range(len(conditions))} for _ in range(3)))
    rows = rows_of(inputs.probe_set)
    maps = [_by_fold(inputs.task, condition) for condition in conditions]
    for batch in batches(inputs.model, rows, inputs.batch_size):
        numbers = batch.numbers.numpy()
        clean = final_hidden(inputs.model, batch)
        logits = _logits(inputs, clean, batch)
        found.before[numbers] = _preference(inputs, logits, numbers)
        unrelated = _unrelated(inputs, rows, batch)
        for place, condition in enumerate(conditions):
            hooks = changing_site(inputs.model, condition.site, _on_batch(maps[place]))
            hidden = final_hidden(inputs.model, batch, hooks)
            changed = _logits(inputs, hidden, batch)
            found.drop[place][numbers] = found.before[numbers] - _preference(inputs, changed, numbers)
            found.kl[place][numbers] = _kl(inputs.model, clean, hidden, unrelated)
            if condition.source is not None:
                found.flipped[place][numbers] = _flips(inputs, logits, changed, numbers, condition.source)
    return found


def _logits(inputs: CausalInputs, hidden: Float[Tensor, "batch pos d_model"], batch: Batch) -> Tensor:
    read = torch.as_tensor(inputs.continuations.read[batch.numbers.numpy()], device=hidden.device)
    return inputs.model.unembed(hidden[torch.arange(len(read), device=hidden.device), read]).cpu()


def _preference(inputs: CausalInputs, logits: Float[Tensor, "batch d_vocab"], numbers: np.ndarray) -> np.ndarray:
    each, told = np.arange(len(numbers)), inputs.continuations
    values = logits.double().numpy()
    return np.asarray(values[each, told.correct[numbers]] - values[each, told.incorrect[numbers]])


def _flips(inputs: CausalInputs, before: Tensor, after: Tensor, numbers: np.ndarray, source: np.ndarray) -> np.ndarray:
    """1 where the source's continuation beats the item's own after the change; NaN for items without a source, and
    for those where it did so before."""
    each, correct = np.arange(len(numbers)), inputs.continuations.correct
    own, others = correct[numbers], correct[source[numbers]]

    def won(logits: Tensor) -> np.ndarray:
        values = logits.double().numpy()
        return np.asarray(values[each, others] > values[each, own])

    return np.where((source[numbers] == numbers) | won(before), np.nan, won(after).astype(float))


def _unrelated(inputs: CausalInputs, rows: Sequence[Row], batch: Batch) -> list[list[int]]:
    """Up to four positions after the changed one that are not read, a row."""
    found = []
    for number in batch.numbers.tolist():
        later = [p for p in range(rows[number].position + 1, len(rows[number].ids))]
        later = [p for p in later if p != int(inputs.continuations.read[number])]
        draw = np.random.default_rng([inputs.task.seed, 5, number])
        found.append(sorted(draw.permutation(later)[:N_UNRELATED].astype(int).tolist()))
    return found


def _kl(model: LanguageModel, clean: Tensor, changed: Tensor, positions: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean KL(clean, changed) over the positions of each row, nats; NaN without one."""
    places = [(row, position) for row, listed in enumerate(positions) for position in listed]
    out = np.full(len(positions), np.nan)
    if not places:
        return out
    row, position = torch.tensor(places, device=clean.device).T
    before, after = log_probs(model, clean[row, position]), log_probs(model, changed[row, position])
    each = (before.exp() * (before - after)).sum(1).cpu().double().numpy()
    counts = np.bincount(row.cpu().numpy(), minlength=len(positions))
    total = np.bincount(row.cpu().numpy(), each, len(positions))
    out[counts > 0] = total[counts > 0] / counts[counts > 0]
    return out


def _on_batch(change: VectorMap) -> Callable[[Tensor, Batch], Tensor]:
    return lambda vectors, batch: change(vectors, batch.numbers)


def _by_fold(task: Task, condition: Condition) -> VectorMap:
    """Each item is changed by the map of the fold that tests it; items that none tests stay."""
    fold_of = np.full(len(task.y), -1)
    for number, fold in enumerate(task.folds):
        fold_of[fold.test] = number

    def change(vectors: Tensor, numbers: Tensor) -> Tensor:
        out, folds = vectors.clone(), fold_of[numbers.numpy()]
        for number in np.unique(folds[folds >= 0]).tolist():
            rows = torch.as_tensor(np.flatnonzero(folds == number))
            placed = rows.to(vectors.device)
            out[placed] = condition.step(number, vectors[placed], numbers[rows]).to(out)
        return out

    return change
