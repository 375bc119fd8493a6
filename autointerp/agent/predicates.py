"""Experiments with predicates on the select split: a score with its counterexamples, and where two disagree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from autointerp.agent.arguments import Disagree, ScorePredicate
from autointerp.agent.picking import Group
from autointerp.agent.plain import Plain, ending, number, token
from autointerp.agent.score_view import score_numbers
from autointerp.agent.trials import Trial
from autointerp.predicate import parse
from autointerp.scoring.tallies import THETA_HIGH

N_SAMPLES, SHOWN = 3, 36


def score_predicate(trial: Trial, asked: ScorePredicate) -> Plain:
    """The score on select, and the failures in groups."""
    predicate = str(parse(asked.predicate))
    score = trial.score(predicate)
    found = score_numbers(score, "n_pairs")
    if trial.pairs.only_sink(predicate):
        return found | {"note": "it names the first position only: scored with attention on it kept"}
    failures = trial.failures(predicate)
    return found | {
        "predicted_but_silent": {
            "rows": len(failures.silent), "of_predicted": failures.silent.of,
            "resting_on_first_position": failures.resting, "samples": _samples(trial, failures.silent, predicate),
        },
        "active_but_unpredicted": {
            "rows": len(failures.unpredicted), "of_active": failures.unpredicted.of,
            "contribution_unexplained": number(failures.unexplained),
            "samples": _unpredicted(trial, failures.unpredicted, predicate),
        },
        "right_place_no_effect": {
            "rows": len(failures.no_effect), "of_tested": failures.no_effect.of,
            "samples": _samples(trial, failures.no_effect),
        },
    }  # fmt: skip


def _samples(trial: Trial, group: Group, predicate: str | None = None) -> list[Plain]:
    """The first rows of a group: the text, what is named (with a predicate), and where the head moved from."""
    return [_sample(trial, window, dst, [predicate] if predicate else []) for window, dst in group.first(N_SAMPLES)]


def _unpredicted(trial: Trial, group: Group, predicate: str) -> list[Plain]:
    """The same with the strongest source that is not named."""
    mask = trial.pairs.mask(predicate)
    return [_sample(trial, w, dst, [], np.where(mask[w, dst], 0, trial.a[w, dst])) for w, dst in group.first(N_SAMPLES)]


def _sample(
    trial: Trial,
    window: int,
    dst: int,
    predicates: Sequence[str],
    shares: Float[np.ndarray, " src"] | None = None,
) -> Plain:
    strings, ids = trial.subject.model.strings, trial.rows.ids[window].tolist()
    tokens = [strings[i] for i in ids[: dst + 1]]
    found: Plain = {"text": ending(tokens, dst, SHOWN, bos=trial.subject.model.bos_id is not None)}
    for name, predicate in zip(("named", "named_by_second"), predicates, strict=False):
        named = np.flatnonzero(trial.pairs.mask(predicate)[window, dst])
        found[name] = _place(tokens, dst, int(named[-1]), len(named)) if len(named) else "nothing"
    a = trial.a[window, dst] if shares is None else shares
    top = int(a.argmax())
    found["head"] = f"{_place(tokens, dst, top)}: {number(float(a[top]))}" if trial.valid[window, dst] else "rests"
    return found


def _place(tokens: Sequence[str], dst: int, src: int, n: int = 1) -> str:
    """`before[source] distance back`; of several the nearest, with how many more."""
    more = f" +{n - 1} more" if n > 1 else ""
    return f"{token(tokens[src - 1]) if src > 1 else ''}[{token(tokens[src])}] {dst - src} back{more}"


def disagree(trial: Trial, asked: Disagree) -> Plain:
    """Rows where one names what the other does not, and who was right."""
    first, second = str(parse(asked.first)), str(parse(asked.second))
    one, other = trial.pairs.mask(first), trial.pairs.mask(second)
    strong = trial.a.max(-1) >= THETA_HIGH
    top = trial.a.argmax(-1)[..., None]
    hits = [np.take_along_axis(mask, top, axis=2)[..., 0] & strong for mask in (one, other)]
    differ = (one != other).any(-1)
    silent = ~strong & (one.any(-1) != other.any(-1))
    shown: list[Plain] = []
    groups = {"first_only": hits[0] & ~hits[1], "second_only": hits[1] & ~hits[0], "silent": silent}
    drawn = [trial.drawn(where) for where in groups.values()]
    for turn in range(asked.n):
        for group in drawn:
            if turn < len(group) and len(shown) < asked.n:
                shown.append(_sample(trial, int(group.window[turn]), int(group.dst[turn]), (first, second)))
    return {
        "rows": int(trial.rows.rows.sum()),
        "rows_where_they_differ": int(differ.sum()),
        "strongest_source_named_by_first_only": len(drawn[0]),
        "strongest_source_named_by_second_only": len(drawn[1]),
        "named_by_both": int((hits[0] & hits[1]).sum()),
        "active_rows": int(strong.sum()),
        "no_strong_source_and_first_names_one": int((silent & one.any(-1)).sum()),
        "no_strong_source_and_second_names_one": int((silent & other.any(-1)).sum()),
        "samples": shown,
    }
