"""The study as `circuit.json`: heads of classes, and all that the tracing met, for runs that describe heads."""

from __future__ import annotations

from autointerp.circuit_records import StudyCircuit, TracedHead
from autointerp.studies.ioi import IoiStudy


def circuit_of(study: IoiStudy) -> StudyCircuit:
    """What other commands need to know of it."""
    traced = [
        TracedHead(
            head=head, position=stage.position, into=stage.into if not stage.receivers else
            f"{stage.into} of {', '.join(map(str, stage.receivers))}", effect=stage.effect(head),
        )
        for stage in study.stages for head in stage.senders
    ]  # fmt: skip
    return StudyCircuit(
        model=study.model, revision=study.revision, bos_rule=study.bos_rule, n_prompts=study.n_prompts,
        seed=study.seed, logit_diff=study.performance["clean"].logit_diff, heads=study.classes.heads,
        traced=tuple(traced), none_found=study.classes.none_found,
    )  # fmt: skip
