"""A linear probe on items that the agent composes: is the label in the head's output at the marked token?

Folds hold out groups whole; without groups each item is a group of its own. The same folds test labels shuffled within
each training part (the null), the majority class, and the marked token's embedding (is the label in the token itself?).
One penalty for all: so few items choose none. Decodable is not used: patching and ablation say whether the model
relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.agent.arguments import Probe
from autointerp.agent.plain import Plain, number
from autointerp.agent.reading import feed
from autointerp.agent.subject import Subject
from autointerp.errors import BadInput
from autointerp.model.sites import Row, Site, read_sites
from autointerp.probing.controls import majority, permutation_p
from autointerp.probing.linear import fit_probe
from autointerp.probing.validation import Labels, Task
from autointerp.records import Failure

SHUFFLES, PENALTY = 20, 0.1
GROUP = "group"
PURPOSE = 3


def probe(subject: Subject, asked: Probe) -> Plain:
    """Accuracy on held-out items, beside its nulls."""
    fed = [feed(subject.model, item) for item in asked.items]
    rows = [Row(row.ids, row.dst) for row in fed]
    sites = [Site.of_head("z", subject.head), Site("resid_pre", 0)]
    read = read_sites(subject.model, rows, sites, batch_size=subject.data.batch_size)
    task, rng = _task(subject, asked), subject.rng(PURPOSE)
    own, embedding = (_accuracy(read[site], task, [task.y] * len(task.folds)) for site in sites)
    draws = [_accuracy(read[sites[0]], task, _shuffled(task, rng)) for _ in range(SHUFFLES)]
    null = [draw for draw in draws if draw is not None]
    if own is None or len(null) < SHUFFLES:
        return {"error": "the probe does not converge on these items; use more or other ones"}
    return {
        "items": len(asked.items), "held_out_groups": len(set(task.groups[GROUP])), "accuracy": number(own),
        "shuffled_labels": number(float(np.mean(null))), "shuffled_highest": number(max(null)),
        "p": number(permutation_p(own, null)), "majority": number(float(np.nanmean(majority(task)))),
        "embedding_of_the_token": None if embedding is None else number(embedding),
    }  # fmt: skip


def _task(subject: Subject, asked: Probe) -> Task:
    groups = [item.group or f"item {n}" for n, item in enumerate(asked.items)]
    labels = [item.label for item in asked.items]
    try:
        return Task.of(labels, {GROUP: groups}, GROUP, subject.data.seed)
    except BadInput:
        raise BadInput(
            "some fold has no item of a label to train on; give each label items of several groups"
        ) from None


def _shuffled(task: Task, rng: np.random.Generator) -> list[Labels]:
    """Labels permuted within the training part of each fold."""
    found = []
    for fold in task.folds:
        y = task.y.copy()
        y[fold.train] = rng.permutation(y[fold.train])
        found.append(y)
    return found


def _accuracy(x: Float[Tensor, "item d"], task: Task, train_y: Sequence[Labels]) -> float | None:
    """Of the probes of all folds on what they hold out; None where one does not converge."""
    right = np.zeros(len(task.y))
    for fold, y in zip(task.folds, train_y, strict=True):
        fitted = fit_probe(x[torch.as_tensor(fold.train)], y[fold.train], task.n_classes, PENALTY, task.options)
        if isinstance(fitted, Failure):
            return None
        guess = fitted.log_probs(x[torch.as_tensor(fold.test)]).numpy().argmax(1)
        right[fold.test] = guess == task.y[fold.test]
    return float(right.mean())
