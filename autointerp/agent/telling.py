"""A turn in one line, for whoever watches the loop."""

from __future__ import annotations

from autointerp.records import Turn


def told_turn(turn: Turn) -> str:
    """A turn in one line."""
    first = "select split" if turn.step == "one_shot" else turn.step
    where = f"round {turn.round}, {turn.step}" if turn.round else first
    if turn.failure:
        return f"{where}: {turn.failure[:120]}"
    tried = [f"{e.tool}{' (refused)' if e.error else ' (again)' if e.repeated else ''}" for e in turn.experiments]
    said = [f"{name}: {h.description.predicate or h.description.label}, {h.why}" for name, h in turn.named]
    said += ["abstains"] if turn.abstained else []
    said += [turn.note] if turn.note else []
    return f"{where}: " + ("; ".join([*tried, *said]) or "nothing")
