"""The scorers of neurons and latents that ask a language model: their items, their controls, and one call for a unit.

Detection and effect are those of heads with templates of their own; simulation is for features alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool

from autointerp.records import Description, Failure, Feature, Score, Unscored
from autointerp.scoring.asking import Asker, Controls
from autointerp.scoring.detection import Detector
from autointerp.scoring.detection_items import DetectionItem
from autointerp.scoring.effect import EffectItems
from autointerp.scoring.feature_effect import Activations, FeatureEffect
from autointerp.scoring.feature_items import feature_detection_items
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.other_descriptions import donors_of, nulls, wrong_descriptions
from autointerp.scoring.passages import Passage, choose_passages
from autointerp.scoring.simulation import Simulator

FEATURE_LLM_SCORERS = ("detection", "simulation", "effect")
NO_EVIDENCE_TEMPLATE = "no_evidence_feature"
# Fixed wrong descriptions, for runs with too few others to shuffle.
GENERIC: dict[str, str] = {
    "important words": "names and numbers",
    "punctuation": "punctuation signs",
    "recent words": "the first words of sentences",
    "repeated words": "words that stood earlier in the text",
    "long words": "long words",
    "beginnings": "the first tokens of a text",
    "function words": "short function words such as articles and prepositions",
}


@dataclass(frozen=True)
class FeatureItems:
    """The held-out items of one unit; a scorer that is not wanted has none."""

    detection: Sequence[DetectionItem] = ()
    simulation: Sequence[Passage] = ()
    effect: EffectItems = ()

    def of(self, scorer: str) -> Any:
        return getattr(self, scorer)


def feature_items(
    held_out: HeldOutRows,
    feature: Feature,
    activations: Activations,
    seed: int,
    near: Bool[np.ndarray, "window pos"] | None = None,
    effect: EffectItems = (),
) -> FeatureItems:
    """Items of one unit, chosen before any description is known. `near`: rows where a neighbour is active; `effect`:
    its rows from `feature_effect_rows`."""
    return FeatureItems(
        detection=feature_detection_items(held_out, feature, activations.share, seed, near),
        simulation=choose_passages(held_out, feature, activations.share, seed),
        effect=effect,
    )


class FeatureDetector(Detector):
    """Detection for neurons and latents."""

    TEMPLATE: ClassVar[str] = "detection_feature"
    UNIT: ClassVar[str] = "unit"


class FeatureLlmScorers:
    """The wanted scorers on one set of held-out rows."""

    def __init__(
        self, asker: Asker, strings: Sequence[str], held_out: HeldOutRows, names: Sequence[str] = FEATURE_LLM_SCORERS
    ) -> None:
        known: dict[str, Detector | Simulator | FeatureEffect] = {
            "detection": FeatureDetector(asker, strings, held_out),
            "simulation": Simulator(asker, strings, held_out),
            "effect": FeatureEffect(asker, strings, held_out),
        }
        self.by_name = {name: known[name] for name in FEATURE_LLM_SCORERS if name in names}

    async def score(
        self, feature: Feature, description: Description, controls: Mapping[str, Controls], items: FeatureItems
    ) -> dict[str, Score | Unscored]:
        """Every wanted score of one description; `controls` are other descriptions by scorer and name."""
        return {
            name: await scorer.score(feature, description, controls.get(name, {}), items.of(name))
            for name, scorer in self.by_name.items()
        }


def feature_controls(
    feature: Feature,
    described: Mapping[Feature, Description],
    guess: Description | Failure | None,
    seed: int,
    names: Sequence[str] = FEATURE_LLM_SCORERS,
) -> dict[str, dict[str, list[Description]]]:
    """The nulls of one unit by scorer: other units' descriptions, or fixed generic ones where there are too few, and
    the guess without evidence (left out where there was none)."""
    return {name: _controls(feature, name, described, guess, seed) for name in names}


def _controls(
    feature: Feature,
    scorer: str,
    described: Mapping[Feature, Description],
    guess: Description | Failure | None,
    seed: int,
) -> dict[str, list[Description]]:
    differs = _other_effect if scorer == "effect" else _other_activation
    own = described[feature]
    donors = donors_of(feature, described, lambda other: differs(own, other), seed)
    return nulls(donors, generic_feature_descriptions(feature, seed), guess)


def _other_activation(own: Description, other: Description) -> bool:
    """Twins are no null: they claim the same rule or say the same."""
    same_rule = own.predicate is not None and other.predicate == own.predicate
    return bool(other.looks_at.strip()) and other.looks_at != own.looks_at and not same_rule


def _other_effect(own: Description, other: Description) -> bool:
    moved = {*own.raises, *own.lowers} & {*other.raises, *other.lowers}
    return bool(other.writes.strip()) and other.writes != own.writes and not moved


def generic_feature_descriptions(feature: Feature, seed: int) -> list[Description]:
    """The product's fixed wrong descriptions of a unit."""
    return wrong_descriptions(feature, GENERIC, "Active at {}.", seed)
