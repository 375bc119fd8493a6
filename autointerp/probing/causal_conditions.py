"""The changes of a causal check: the label's subspace and its controls, fitted on the training part of each fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.sites import Site
from autointerp.model.subspaces import Intervention, interchange, placebo, random_subspace
from autointerp.probing.collection import CollectOptions, collect
from autointerp.probing.erasure import class_mean_basis, leace, probe_rows_basis
from autointerp.probing.items import ProbeSet
from autointerp.probing.linear import LinearProbe
from autointerp.probing.validation import Task, train

Subspace = Literal["class_means", "probe_rows"]
Kind = Literal["erase", "interchange"]
CLAIMED = "label subspace"


@dataclass(frozen=True, eq=False)
class Continuations:
    """What each item's text may go on with: token ids, and where the next token is predicted."""

    correct: Int[np.ndarray, " item"]
    incorrect: Int[np.ndarray, " item"]
    read: Int[np.ndarray, " item"]


def continuations_of(model: LanguageModel, probe_set: ProbeSet) -> Continuations:
    """One token each. Raises BadInput for an item that has none, or one of several tokens."""
    found: dict[str, list[int]] = {"correct": [], "incorrect": []}
    for placed in probe_set.items:
        for name, ids in found.items():
            text = getattr(placed.item, name)
            if text is None:
                raise BadInput(
                    f"{placed.item.text[:40]!r} has no {name} continuation. The causal check needs both in all items."
                )
            encoded = model.encode(text)[0]
            if len(encoded) != 1:
                raise BadInput(f"{placed.item.text[:40]!r}: {name} {text!r} is {len(encoded)} tokens; give one token.")
            ids.append(int(encoded[0]))
    read = np.array([len(placed.ids) - 1 for placed in probe_set.items])
    return Continuations(np.array(found["correct"]), np.array(found["incorrect"]), read)


@dataclass(frozen=True, eq=False)
class CausalInputs:
    """A task with its activations at the claimed site, and at another head of the layer where there is one."""

    model: LanguageModel
    probe_set: ProbeSet
    task: Task
    site: Site
    x: Float[Tensor, "item d"]
    other: tuple[Site, Float[Tensor, "item d"]] | None = None
    batch_size: int = 16
    continuations: Continuations = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "continuations", continuations_of(self.model, self.probe_set))


def causal_inputs(
    model: LanguageModel,
    probe_set: ProbeSet,
    task: Task,
    place: tuple[Site, Float[Tensor, "item d"]],
    options: CollectOptions,
) -> CausalInputs:
    """Inputs for a site; for a head, the next head of the layer is collected as the control."""
    site = place[0].check(model)
    other = None
    if site.head is not None and model.n_heads > 1:
        beside = Site(site.kind, site.layer, (site.index + 1) % model.n_heads)
        other = (beside, collect(model, probe_set, [beside], options)[beside])
    return CausalInputs(model, probe_set, task, site, place[1], other, options.batch_size)


Step = Callable[[int, Tensor, Int[Tensor, " row"]], Tensor]
"""Fold, vectors and the numbers of their items to new vectors."""


@dataclass(frozen=True, eq=False)
class Condition:
    """A change at a site; `source` numbers the item whose label is put in, None for erasing."""

    name: str
    kind: Kind
    site: Site
    step: Step
    source: Int[np.ndarray, " item"] | None = None


def fold_bases(
    inputs: CausalInputs, x: Float[Tensor, "item d"], y: Int[np.ndarray, " item"], subspace: Subspace
) -> list[Float64[Tensor, "d rank"]]:
    bases = []
    for fold in inputs.task.folds:
        if subspace == "class_means":
            bases.append(class_mean_basis(x[torch.as_tensor(fold.train)], y[fold.train]))
            continue
        probe = train(x, y, fold.train, inputs.task)
        if not isinstance(probe, LinearProbe):
            raise BadInput(f"no probe to take directions from: {probe.reason}")
        bases.append(probe_rows_basis(probe))
    return bases


def conditions_of(inputs: CausalInputs, bases: Sequence[Tensor], subspace: Subspace) -> list[Condition]:
    """The claimed subspace first, then random, placebo, shuffled labels, LEACE and another head."""
    task, x = inputs.task, inputs.x
    rng = np.random.default_rng([task.seed, 4])
    source = _sources(inputs, rng)
    randoms = [random_subspace(x.shape[1], basis.shape[1], task.seed + 100 + n) for n, basis in enumerate(bases)]
    shuffled = fold_bases(inputs, x, np.asarray(rng.permutation(task.y)), subspace)
    ways: dict[str, list[Intervention]] = {
        CLAIMED: [interchange(basis) for basis in bases],
        "random subspace": [interchange(basis) for basis in randoms],
        "placebo": [placebo(basis, random) for basis, random in zip(bases, randoms, strict=True)],
        "shuffled labels": [interchange(basis) for basis in shuffled],
    }
    found = [one for name, steps in ways.items() for one in _both(name, inputs, (inputs.site, x), steps, source)]
    maps = [leace(x[torch.as_tensor(f.train)], task.y[f.train], task.n_classes) for f in task.folds]
    found.append(Condition("LEACE", "erase", inputs.site, lambda fold, vectors, _numbers: maps[fold](vectors)))
    if inputs.other is not None:
        steps = [interchange(basis) for basis in fold_bases(inputs, inputs.other[1], task.y, subspace)]
        found += _both("another head", inputs, inputs.other, steps, source)
    return found


def _both(
    name: str,
    inputs: CausalInputs,
    place: tuple[Site, Float[Tensor, "item d"]],
    steps: Sequence[Intervention],
    source: Int[np.ndarray, " item"],
) -> list[Condition]:
    """Erasing towards the training mean, and interchange with the source item."""
    site, x = place
    means = [x[torch.as_tensor(fold.train)].mean(0) for fold in inputs.task.folds]
    into = torch.as_tensor(source)

    def erase(fold: int, vectors: Tensor, numbers: Tensor) -> Tensor:
        return steps[fold](vectors, means[fold].to(vectors).expand_as(vectors))

    def exchange(fold: int, vectors: Tensor, numbers: Tensor) -> Tensor:
        return steps[fold](vectors, x[into[numbers]].to(vectors))

    return [Condition(name, "erase", site, erase), Condition(name, "interchange", site, exchange, source)]


def _sources(inputs: CausalInputs, rng: np.random.Generator) -> Int[np.ndarray, " item"]:
    """For each test item another of its fold with another label and another continuation; itself where none is."""
    task, correct = inputs.task, inputs.continuations.correct
    source = np.arange(len(task.y))
    for fold in task.folds:
        for item in fold.test.tolist():
            fit = fold.test[(task.y[fold.test] != task.y[item]) & (correct[fold.test] != correct[item])]
            if len(fit):
                source[item] = rng.choice(fit)
    return source
