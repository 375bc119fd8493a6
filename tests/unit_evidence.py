"""Hand-made evidence of one unit, for the explainers of neurons and latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autointerp.feature_records import FeatureEvidence, FeatureExample, FeatureReadout, FeatureStats, RuleReading
from autointerp.records import Feature, Interval, TokenValue

UNIT = Feature(kind="neuron", layer=11, index=773)
STATS = FeatureStats(
    n_rows=1000, n_docs=40, density=0.2, active_share=Interval(value=0.05, low=0.04, high=0.06, n=40), sign=1,
    reference=2.0, maximum=2.5, mean=0.1, quantiles=(0.0,) * 7, state="ok",
)  # fmt: skip
READOUT = FeatureReadout(
    up=(TokenValue(token=" dog", value=3.0), TokenValue(token=" cat", value=0.4)),
    down=(TokenValue(token=" the", value=-2.0), TokenValue(token=" a", value=-0.1)),
    random_max=0.5,
)


def rule(name: str, predicate: str, f1: float, **changes: Any) -> RuleReading:
    values: dict[str, Any] = {
        "name": name, "predicate": predicate, "f1": f1, "precision": f1, "recall": f1, "coverage": f1, "n_active": 50,
        "n_predicted": 50, "null_max": 0.1, "fires": f1 >= 0.5,
    }  # fmt: skip
    return RuleReading(**{**values, **changes})


def example(
    words: str, activations: Sequence[float], dst: int, stratum: str = "top", number: int = 0, **changes: Any
) -> FeatureExample:
    """`words` separated by spaces; every word but the first of the row keeps its space."""
    tokens = tuple(f" {word}" if at else word for at, word in enumerate(words.split()))
    values: dict[str, Any] = {
        "doc_id": f"{stratum}{number}", "window": number, "dst": dst, "stratum": stratum, "tier": None, "weight": 1.0,
        "tokens": tokens, "activations": tuple(activations), "activation": 2 * activations[dst], "quantile": 0.9,
        "next_token": None,
    }  # fmt: skip
    return FeatureExample(**{**values, **changes})


def unit_evidence(*rules: RuleReading, examples: Sequence[FeatureExample] = (), **changes: Any) -> FeatureEvidence:
    values: dict[str, Any] = {"unit": UNIT, "stats": STATS, "rules": rules, "readout": READOUT,
                              "examples": tuple(examples)}  # fmt: skip
    return FeatureEvidence(**{**values, **changes})
