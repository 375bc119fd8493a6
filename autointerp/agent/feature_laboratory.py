"""Runs checked requests on one neuron or latent and answers with plain numbers.

As `laboratory` does for heads: deterministic, blind, on explain and select rows alone, with hooks that end with each
request. What is read of real rows is read for a group of units at once and kept for the other laboratories of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autointerp.agent import arguments as a
from autointerp.agent import feature_arguments as f
from autointerp.agent import feature_measured, feature_picked, feature_predicates, feature_texts
from autointerp.agent.answering import answered
from autointerp.agent.feature_separate import separate
from autointerp.agent.feature_subject import FeatureLabData as FeatureLabData
from autointerp.agent.feature_subject import FeatureSubject
from autointerp.agent.feature_tools import FEATURE_TOOLS
from autointerp.agent.feature_trials import MOST_EFFECTS, FeatureTrial
from autointerp.agent.requests import Request
from autointerp.errors import BadInput
from autointerp.feature_records import FeatureEvidence
from autointerp.records import Feature

if TYPE_CHECKING:
    from autointerp.model import LanguageModel


class FeatureLaboratory:
    """The experiments of one neuron or latent. Raises BadInput for a unit that is not there."""

    def __init__(self, model: LanguageModel, unit: Feature, evidence: FeatureEvidence, data: FeatureLabData) -> None:
        data.units.place(unit)
        if unit not in data.facts:
            raise BadInput(f"nothing is known of {unit} on the explain split; give one of the units of the run.")
        self._subject = FeatureSubject(model, unit, evidence, data)
        self._trial = FeatureTrial(self._subject)

    def run(self, request: Request) -> dict[str, object]:
        """The answer, or `{"error": ...}` for what is no request or cannot be done; no request makes it raise. At most
        some 1500 characters."""
        return answered(FEATURE_TOOLS, request, self._answer, self._subject.model.name)

    def cost(self, request: Request) -> int:
        """As the experiment's bound, with the sizes of this run's rows; the same however often it is asked."""
        most, found, data = FEATURE_TOOLS.cost(request), FEATURE_TOOLS.typed(request), self._subject.data
        (windows, width), (held, held_width) = data.explain_rows.ids.shape, data.select_rows.ids.shape
        learnt = len(data.learn_rows.ids)
        match found:
            case f.UnitRows():
                return min(most, int((windows + 2 * found.n) * width))
            case f.ScoreRule():
                return min(most, int(learnt * width + (held + 2 * MOST_EFFECTS) * held_width))
            case f.DisagreeRules():
                return min(most, int(held * held_width))
        return most

    def _answer(self, name: str, asked: a.Arguments) -> dict[str, object]:
        subject = self._subject
        match asked:
            case f.Steer():
                return feature_texts.steer(subject, asked)
            case a.Places():
                do = feature_texts.activate if name == "activate" else feature_texts.ablate
                return do(subject, asked)
            case a.Edit():
                return feature_texts.edit(subject, asked)
            case a.Ov():
                return feature_measured.direction(subject, asked)
            case f.UnitMeasurements():
                return feature_measured.measurements(subject, asked)
            case f.Separate():
                return separate(subject, asked)
            case f.UnitRows():
                return feature_picked.find_rows(subject, asked)
        return self._on_select(asked)

    def _on_select(self, asked: a.Arguments) -> dict[str, object]:
        if not self._trial.named.rows.any():
            raise BadInput("there are no held-out rows of text; compose texts")
        match asked:
            case f.ScoreRule():
                return feature_predicates.score_predicate(self._trial, asked)
            case f.DisagreeRules():
                return feature_predicates.disagree(self._trial, asked)
        raise BadInput(f"no experiment takes {type(asked).__name__}")
