"""From right and wrong answers to the result line of a site (probing section 7, last paragraph; section 8).

"Present" means that the margin over the best floor or presence control (majority, shuffled labels, embedding,
position, random-weights model) has an interval above 0. "This head moves it" needs the movement controls beaten too:
random-OV (else attention alone explains it), uniform pattern, and the earlier layer (else it was there already).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.probing.controls import Outcome, permutation_p
from autointerp.probing.results import Bounds, Kind, ProbeControl, ProbeResult
from autointerp.probing.uncertainty import Draws, PerItem
from autointerp.probing.validation import Task, Tested
from autointerp.records import Failure, Unscored
from autointerp.stats.bootstrap import Estimate, benjamini_hochberg

ATTENTION_ALONE = "attention alone explains it: a random projection of what the head attends to does as well"
ALREADY_THERE = "it was in the stream before this layer wrote"
NO_PATTERN = "the head's values without its pattern do as well"
MOVED = "this head moves it"


@dataclass(frozen=True)
class ControlRow:
    """A control as it ran, or why not."""

    name: str
    kind: Kind
    outcome: Outcome | Failure | Unscored


@dataclass(frozen=True)
class Others:
    """Accuracies of the other heads, and how many of them could not be trained."""

    accuracies: tuple[float, ...]
    failed: int


def result_line(
    site: str, task: Task, tested: Tested, draws: Draws, rows: Sequence[ControlRow], others: Others
) -> ProbeResult:
    """All numbers of a site."""
    correct = tested.correct(task.y)
    accuracy = draws.accuracy(correct)
    ran = {row.name: row for row in rows if isinstance(row.outcome, Outcome)}
    controls = tuple(_control(row, correct, draws) for row in ran.values())
    best = max((c for c in controls if c.kind in ("floor", "presence")), key=lambda c: c.accuracy.value)
    present = best.difference.low > 0
    shuffled = ran.get("shuffled_labels")
    confusion = _confusion(task, tested)
    return ProbeResult(
        site=site,
        split=task.split,
        accuracy=bounds(accuracy),
        macro_f1=_macro_f1(confusion),
        log_loss=float(np.nanmean(tested.log_loss)),
        fold_mean=float(np.mean(tested.fold_accuracy)),
        folds=tested.fold_accuracy,
        penalties=tested.penalties,
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        class_names=task.class_names,
        chance=float(np.bincount(task.y[draws.rows]).max() / len(draws.rows)),
        one_over_c=1 / task.n_classes,
        n_items=len(draws.rows),
        n_groups=draws.n_groups,
        n_train=float(np.mean([len(fold.train) for fold in task.folds])),
        controls=controls,
        unscored=tuple(_unscored(row) for row in rows if row.name not in ran),
        best_control=best.name,
        margin=best.difference,
        p_margin=_p_above(correct, ran[best.name], draws),
        q_margin=float("nan"),
        n_sites=1,
        p_shuffled=_shuffled_p(accuracy.value, shuffled),
        head_percentile=_percentile(accuracy.value, others.accuracies),
        n_other_heads=len(others.accuracies),
        status="underpowered" if draws.underpowered else "",
        present=present,
        conclusion=_conclusion(best, controls, present=present),
        **_selectivity(rows, controls),
    )


def bounds(estimate: Estimate) -> Bounds:
    return Bounds(value=estimate.value, low=estimate.low, high=estimate.high)


def _control(row: ControlRow, correct: PerItem, draws: Draws) -> ProbeControl:
    if not isinstance(row.outcome, Outcome):
        raise TypeError(f"{row.name} did not run")
    other = row.outcome.correct
    difference = draws.difference(correct, other)
    return ProbeControl(
        name=row.name,
        kind=row.kind,
        accuracy=bounds(draws.accuracy(other)),
        difference=bounds(difference),
        beaten=difference.low > 0,
        detail=row.outcome.detail,
    )


def _unscored(row: ControlRow) -> Unscored:
    reason = row.outcome.reason if isinstance(row.outcome, Failure | Unscored) else ""
    return Unscored(scorer=row.name, reason=reason)


def _selectivity(rows: Sequence[ControlRow], controls: Sequence[ProbeControl]) -> dict[str, Bounds | str | None]:
    found = next((control for control in controls if control.kind == "capacity"), None)
    if found is not None:
        return {"selectivity": found.difference, "selectivity_note": ""}
    missing = next((row for row in rows if row.kind == "capacity"), None)
    return {"selectivity": None, "selectivity_note": _unscored(missing).reason if missing else "not asked for"}


def _p_above(correct: PerItem, row: ControlRow, draws: Draws) -> float:
    return draws.p_above(correct, row.outcome.correct) if isinstance(row.outcome, Outcome) else float("nan")


def _shuffled_p(accuracy: float, row: ControlRow | None) -> float:
    if row is None or not isinstance(row.outcome, Outcome):
        return float("nan")
    return permutation_p(accuracy, row.outcome.draws)


def _percentile(accuracy: float, others: Sequence[float]) -> float:
    """Share of other heads below, ties half, in percent."""
    if not others:
        return float("nan")
    return 100 * float(np.mean([(other < accuracy) + 0.5 * (other == accuracy) for other in others]))


def _conclusion(best: ProbeControl, controls: Sequence[ProbeControl], *, present: bool) -> str:
    if not present:
        return f"not shown: no better than {best.name}"
    movement = {control.name: control for control in controls if control.kind == "movement"}
    reasons = {"random_ov": ATTENTION_ALONE, "earlier_layer": ALREADY_THERE, "uniform_pattern": NO_PATTERN}
    unbeaten = [reasons[name] for name in reasons if name in movement and not movement[name].beaten]
    if unbeaten:
        return "present; " + "; ".join(unbeaten)
    return f"present; {MOVED}" if "random_ov" in movement and "earlier_layer" in movement else "present"


def _confusion(task: Task, tested: Tested) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    rows = task.tested
    counts = np.zeros((task.n_classes, task.n_classes), dtype=np.int64)
    np.add.at(counts, (task.y[rows], tested.predicted[rows]), 1)
    return counts


def _macro_f1(confusion: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> float:
    """Mean over the classes that occur in the test."""
    right, true, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    occurs = true > 0
    return float((2 * right[occurs] / (true + guessed)[occurs]).mean())


def adjusted(found: Sequence[ProbeResult | Failure]) -> list[ProbeResult | Failure]:
    """Benjamini-Hochberg over the sites that have a number."""
    good = [result for result in found if isinstance(result, ProbeResult)]
    q = iter(benjamini_hochberg(np.array([result.p_margin for result in good])).tolist()) if good else iter(())
    return [
        result.model_copy(update={"q_margin": next(q), "n_sites": len(good)})
        if isinstance(result, ProbeResult)
        else result
        for result in found
    ]
