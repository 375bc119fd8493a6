"""What `bench planted --units features` counts of graded neurons and latents, and its tables.

1. Label F1 is over units that detect a token, a set or a pair, whether or not anything depends on them, and noise units
   (a name given to noise is a false alarm).
2. A verdict `supported` is false where nothing depends on the unit, where it has no function, or the label is wrong.
3. Of a mix, which no simple rule holds, an abstention and a verdict other than `supported` are both right.
"""

from __future__ import annotations

from collections.abc import Sequence

from autointerp.pipeline.bench_metrics import (
    GradedHead,
    causal_accuracy,
    false_supported,
    label_scores,
    macro_f1,
    mean,
    predicate_f1,
    supported_share,
)
from autointerp.pipeline.bench_report import BenchResult, Measure, PlantedBench, planted_result
from autointerp.planted.neurons import DESCRIBED
from autointerp.records import Feature

NOISE, MIX, QUIET = "noise", "mix", ("dead", "dense")


def feature_labels(units: Sequence[GradedHead]) -> dict[str, tuple[float, int, int, int]]:
    """F1, hits, wrong and missed of the labels of token, set and pair units."""
    return label_scores(_labelled(units), DESCRIBED)


def _labelled(units: Sequence[GradedHead]) -> list[GradedHead]:
    return [u for u in units if u.kind == NOISE or (len(u.planted) == 1 and u.planted[0] in DESCRIBED)]


def _macro_f1(units: Sequence[GradedHead]) -> float:
    return macro_f1(_labelled(units), DESCRIBED)


def _accuracy(units: Sequence[GradedHead]) -> float:
    return mean([float(u.right) for u in units if u.planted])


def _abstained(units: Sequence[GradedHead]) -> float:
    return mean([float(u.abstained) for u in units if u.kind == NOISE])


def _mixed(units: Sequence[GradedHead]) -> float:
    return mean([float(u.verdict != "supported") for u in units if u.kind == MIX])


def _states(units: Sequence[GradedHead]) -> float:
    return mean([float(u.abstained) for u in units if u.kind in QUIET])


SUMMARY: dict[str, Measure] = {
    "label_macro_f1": _macro_f1,
    "label_accuracy": _accuracy,
    "predicate_f1": predicate_f1,
    "causal_accuracy": causal_accuracy,
    "supported_of_right": supported_share,
    "false_supported": false_supported,
    "abstained_on_noise": _abstained,
    "mix_not_supported": _mixed,
    "dead_and_dense_left_out": _states,
}
MEANING = {
    "label_macro_f1": "mean over token, token_set and token_pair of the F1 of naming them",
    "label_accuracy": "share of units that detect something whose label is true",
    "predicate_f1": "mean F1 on test text of the rules that were planted",
    "causal_accuracy": "share of units where ablation agrees with what was planted",
    "supported_of_right": "share of units that matter and are rightly labelled whose description is supported",
    "false_supported": "units supported though nothing depends on them, they have no function or the label is wrong",
    "abstained_on_noise": "share of noise units that were left unexplained",
    "mix_not_supported": "share of mixes whose description did not come out supported",
    "dead_and_dense_left_out": "share of dead and dense units that were not described",
}


def _kind(unit: GradedHead) -> str:
    return f"{unit.kind} ({unit.head.kind})" if isinstance(unit.head, Feature) else unit.kind


FEATURES = PlantedBench("Planted neurons and latents", "unit", SUMMARY, MEANING, feature_labels, _kind)


def features_result(units: Sequence[GradedHead], explainer: str) -> BenchResult:
    """The tables of `bench planted --units features`."""
    return planted_result(units, explainer, FEATURES)
