"""What a circuit study found of a model's heads, as a file beside its page, and what it says of one description."""

from __future__ import annotations

from typing import Literal

from autointerp.record_base import Head, Interval, Real, Record


class CircuitHead(Record):
    """A head of a class, with the number that qualified it.

    `effect`: change of the logit difference when the head's path is replaced (negative: it helps), or the rise of its
    direct attribution (`backup_mover`). `attention`: what the class's definition asks it to look at, if anything.
    """

    head: Head
    kind: str
    position: str
    evidence: str  # which path, or which test
    effect: Interval
    attention: Interval | None = None
    looks_at: str = ""


class TracedHead(Record):
    """A head that the tracing met, of a class or not: it sends `into` an input, and changes the answer by `effect`."""

    head: Head
    position: str
    into: str
    effect: Interval


class StudyCircuit(Record):
    """`circuit.json`: the heads that a study of one task found in one model."""

    format: Literal[1] = 1
    study: Literal["ioi"] = "ioi"
    model: str
    revision: str
    bos_rule: str
    n_prompts: int
    seed: int
    logit_diff: Real
    heads: tuple[CircuitHead, ...]
    traced: tuple[TracedHead, ...]
    none_found: tuple[str, ...]  # classes without a head


class CircuitTest(Record):
    """A description's label held against a study. `found_as`: classes of the head there, empty where it was not met."""

    study: str
    claimed: str
    agrees: bool
    found_as: tuple[str, ...]
    effect: Interval | None
    said: str
