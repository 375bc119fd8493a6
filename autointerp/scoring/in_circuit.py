"""A description's label held against a study of the model: does the head do in the task what it is called?

Labels that the indirect-object study defines are tested; others say nothing that it could confirm. A head that it did
not find may do the same elsewhere: the finding stands beside the verdict and does not move it.
"""

from __future__ import annotations

from autointerp.circuit_records import CircuitHead, CircuitTest, StudyCircuit
from autointerp.records import Description, Failure, Head, Interval

TESTED = ("name_mover", "duplicate_token", "s_inhibition", "induction")
TASKS = {"ioi": "IOI"}


def in_circuit(head: Head, outcome: Description | Failure, circuit: StudyCircuit | None) -> CircuitTest | None:
    """None without a study, without a description, and for labels that the study does not define."""
    if circuit is None or isinstance(outcome, Failure) or outcome.abstained or outcome.label not in TESTED:
        return None
    own = [one for one in circuit.heads if one.head == head]
    best = next((one for one in own if one.kind == outcome.label), None)
    shown = best or max(own, key=lambda one: abs(one.effect.value), default=None)
    traced = max(
        (one for one in circuit.traced if one.head == head), key=lambda one: abs(one.effect.value), default=None
    )
    effect = shown.effect if shown else traced.effect if traced else None
    task = TASKS[circuit.study]
    if shown is not None:
        other = "" if best else f", not {outcome.label}"
        said = f"in the {task} circuit of this model: {shown.kind}{other}, {_told(shown)}"
    elif traced is not None:
        said = (
            f"the {task} study of this model found no {outcome.label} in it, only a path into {traced.into} at "
            f"{traced.position}: path effect {_numbers(traced.effect)}"
        )
    else:
        said = f"the {task} study of this model did not find it"
    kinds = tuple(dict.fromkeys(one.kind for one in own))
    return CircuitTest(
        study=circuit.study, claimed=outcome.label, agrees=best is not None, found_as=kinds, effect=effect, said=said
    )


def _told(one: CircuitHead) -> str:
    what = "rise of its direct effect" if one.kind == "backup_mover" else "path effect"
    return f"{what} {_numbers(one.effect)}"


def _numbers(effect: Interval) -> str:
    return f"{effect.value:.3f} [{effect.low:.3f}, {effect.high:.3f}]"
