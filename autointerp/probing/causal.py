"""Does the model use what can be decoded? Erasure and interchange at the probed site (probing section 10).

1. The behaviour is `m = logit(correct) - logit(incorrect)` after the whole text, item by item.
2. The subspace (class means, or a probe's rows) comes from the training part of each fold; test items are changed.
3. Erase sets the coordinates inside it to their training mean; interchange sets them to those of a test item with
   another label, and asks whether that item's continuation wins. LEACE is a third way to erase.
4. Controls: a random subspace of the same rank, a placebo that moves as far inside it, the subspace of permuted
   labels, and for a head the same change at another head of the layer.
5. Effects are compared with the strongest control, paired by item, groups resampled.

No learned subspace is fitted here (DAS would need two controls of its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from autointerp.probing.causal_conditions import CLAIMED, CausalInputs, Condition, Subspace, conditions_of, fold_bases
from autointerp.probing.causal_measure import Measured, PerItem, measure
from autointerp.probing.linear import LinearProbe
from autointerp.probing.reporting import bounds
from autointerp.probing.results import Bounds
from autointerp.probing.uncertainty import Draws
from autointerp.probing.validation import train
from autointerp.records import Real, Record

_RETRAINED = (CLAIMED, "random subspace", "LEACE")


class Effect(Record):
    """One change of the model and what it did on held-out items.

    `drop`: mean fall of m in logits; `flipped`: share of items where the source's continuation wins now and did not
    before (interchange only); `kl`: mean KL at unrelated later positions, nats; `accuracy`: of a probe trained and
    tested on what is left, NaN where none was.
    """

    name: str
    kind: Literal["erase", "interchange"]
    drop: Bounds
    flipped: Bounds | None
    kl: Bounds
    accuracy: Real


class CausalResult(Record):
    """The claimed change first, then its controls; margins are against the strongest control of the same kind."""

    site: str
    subspace: str
    rank: int
    size: int
    n_items: int
    m_before: float
    effects: tuple[Effect, ...]
    erase_margin: Bounds
    erase_control: str
    flip_margin: Bounds
    flip_control: str
    status: str

    @property
    def used(self) -> bool:
        """Whether erasing, or exchanging, the label's subspace does more than any control."""
        return self.erase_margin.low > 0 or self.flip_margin.low > 0


def run_causal(inputs: CausalInputs, subspace: Subspace = "class_means") -> CausalResult:
    """All changes and controls on the held-out items of every fold."""
    bases = fold_bases(inputs, inputs.x, inputs.task.y, subspace)
    conditions = conditions_of(inputs, bases, subspace)
    measured = measure(inputs, conditions)
    draws = Draws.of(inputs.task)
    erase_margin, erase_control = _margin(conditions, "erase", measured.drop, draws)
    flip_margin, flip_control = _margin(conditions, "interchange", measured.flipped, draws)
    return CausalResult(
        site=str(inputs.site),
        subspace=subspace,
        rank=max(int(basis.shape[1]) for basis in bases),
        size=int(inputs.x.shape[1]),
        n_items=len(draws.rows),
        m_before=float(measured.before[draws.rows].mean()),
        effects=tuple(_effect(inputs, c, n, measured, draws) for n, c in enumerate(conditions)),
        erase_margin=erase_margin,
        erase_control=erase_control,
        flip_margin=flip_margin,
        flip_control=flip_control,
        status="underpowered" if draws.underpowered else "",
    )


def _effect(inputs: CausalInputs, condition: Condition, place: int, measured: Measured, draws: Draws) -> Effect:
    retrained = condition.kind == "erase" and condition.name in _RETRAINED
    flips = bounds(draws.mean(measured.flipped[place])) if condition.source is not None else None
    return Effect(
        name=condition.name,
        kind=condition.kind,
        drop=bounds(draws.mean(measured.drop[place])),
        flipped=flips,
        kl=bounds(draws.mean(measured.kl[place])),
        accuracy=_accuracy_after(inputs, condition) if retrained else float("nan"),
    )


def _accuracy_after(inputs: CausalInputs, condition: Condition) -> float:
    """A probe trained and tested on activations that went through each fold's map."""
    task, everything = inputs.task, torch.arange(len(inputs.x))
    right, tested = 0.0, 0
    for number, fold in enumerate(task.folds):
        x = condition.step(number, inputs.x, everything)
        probe = train(x, task.y, fold.train, task)
        if not isinstance(probe, LinearProbe):
            return float("nan")
        guess = probe.logits(x[torch.as_tensor(fold.test)]).argmax(1).numpy()
        right, tested = right + float((guess == task.y[fold.test]).sum()), tested + len(fold.test)
    return right / tested


def _margin(conditions: Sequence[Condition], kind: str, values: dict[int, PerItem], draws: Draws) -> tuple[Bounds, str]:
    """The claimed change minus the strongest control of its kind, paired (LEACE takes out the same label)."""
    named = {c.name: values[n] for n, c in enumerate(conditions) if c.kind == kind and c.name != "LEACE"}
    own = named.pop(CLAIMED)
    strongest = max(
        named, key=lambda name: float(np.nanmean(named[name])) if np.isfinite(named[name]).any() else -np.inf
    )
    return bounds(draws.mean(own - named[strongest])), strongest
