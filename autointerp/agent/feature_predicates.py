"""Experiments with predicates of a unit on the select split: a score with its counterexamples, where two disagree."""

from __future__ import annotations

from autointerp.agent.feature_arguments import DisagreeRules, ScoreRule
from autointerp.agent.feature_reading import strength
from autointerp.agent.feature_trials import FeatureTrial
from autointerp.agent.picking import Group
from autointerp.agent.plain import Plain, ending, number
from autointerp.agent.score_view import score_numbers
from autointerp.predicate import parse_positional

N_SAMPLES, SHOWN = 3, 48


def score_predicate(trial: FeatureTrial, asked: ScoreRule) -> Plain:
    """The score on select, and the failures in groups."""
    predicate = str(parse_positional(asked.predicate))
    found, failures = score_numbers(trial.score(predicate), "n_rows"), trial.failures(predicate)
    return found | {
        "predicted_but_silent": {
            "rows": len(failures.silent), "of_predicted": failures.silent.of,
            "samples": _samples(trial, failures.silent),
        },
        "active_but_unpredicted": {
            "rows": len(failures.unpredicted), "of_active": failures.unpredicted.of,
            "activation_unexplained": number(failures.unexplained), "samples": _samples(trial, failures.unpredicted),
        },
        "right_place_no_effect": {
            "rows": len(failures.no_effect), "of_tested": failures.no_effect.of,
            "samples": _samples(trial, failures.no_effect),
        },
    }  # fmt: skip


def disagree(trial: FeatureTrial, asked: DisagreeRules) -> Plain:
    """Rows that exactly one of two names, and who was right."""
    first, second = (trial.named.mask(str(parse_positional(text))) for text in (asked.first, asked.second))
    only = {"first": first & ~second, "second": second & ~first}
    groups = {f"active_named_by_{name}_only": trial.active & where for name, where in only.items()}
    groups |= {f"silent_named_by_{name}_only": trial.resting & where for name, where in only.items()}
    drawn = [trial.drawn(where) for where in groups.values()]
    shown: list[Plain] = []
    for turn in range(asked.n):
        for group in drawn:
            if turn < len(group) and len(shown) < asked.n:
                place = int(group.window[turn]), int(group.dst[turn])
                shown.append(_sample(trial, *place) | {"first": bool(first[place]), "second": bool(second[place])})
    return {
        "rows": int(trial.named.rows.sum()),
        "rows_where_they_differ": int((first != second).sum()),
        "active_rows": int(trial.active.sum()),
        "named_by_both": int((trial.active & first & second).sum()),
        **{name: len(group) for name, group in zip(groups, drawn, strict=True)},
        "samples": shown,
    }


def _samples(trial: FeatureTrial, group: Group) -> list[Plain]:
    return [_sample(trial, window, dst) for window, dst in group.first(N_SAMPLES)]


def _sample(trial: FeatureTrial, window: int, dst: int) -> Plain:
    tokens = trial.subject.strings_of(trial.rows.ids[window, : dst + 1])
    text = ending(tokens, dst, SHOWN, bos=trial.subject.model.bos_id is not None)
    return {"text": text, "strength": strength(float(trial.shares[window, dst]))}
