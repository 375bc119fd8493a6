"""Runs checked requests on one head and answers with plain numbers.

What a laboratory read of real rows it keeps for later requests of the same head. It is deterministic: the answer to a
request depends on the request, the head and the run's data, not on what was asked before. It changes the model by
hooks that end with each request, so only one laboratory of a model may work at a time. It never sees test rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autointerp.agent import arguments as a
from autointerp.agent import measured, predicates, real_rows, texts
from autointerp.agent.answering import answered
from autointerp.agent.head_tools import HEAD_TOOLS
from autointerp.agent.probe import probe
from autointerp.agent.requests import Request
from autointerp.agent.subject import LabData as LabData
from autointerp.agent.subject import Subject
from autointerp.agent.trials import MOST_EFFECTS, Trial
from autointerp.errors import BadInput
from autointerp.records import Domain, Evidence, Head

if TYPE_CHECKING:
    from autointerp.model import LanguageModel


class Laboratory:
    """The experiments of one head."""

    def __init__(self, model: LanguageModel, head: Head, evidence: Evidence, data: LabData) -> None:
        if not (0 <= head.layer < model.n_layers and 0 <= head.index < model.n_heads):
            raise BadInput(f"the model has no head {head}: {model.n_layers} layers of {model.n_heads} heads.")
        self._subject = Subject(model, head, evidence, data)
        self._trials: dict[Domain, Trial] = {}
        self._survey: real_rows.Survey | None = None

    def run(self, request: Request) -> dict[str, object]:
        """The answer, or `{"error": ...}` for what is no request or cannot be done; no request makes it raise. At most
        some 1500 characters."""
        return answered(HEAD_TOOLS, request, self._answer, self._subject.model.name)

    def cost(self, request: Request) -> int:
        """As `requests.cost`, with the sizes of this run's rows; the same however often it is asked."""
        most, found, data = HEAD_TOOLS.cost(request), HEAD_TOOLS.typed(request), self._subject.data
        if isinstance(found, a.Rows):
            windows, width = data.explain.ids.shape
            return min(most, int((windows + 3 * found.n) * width))
        if isinstance(found, a.ScorePredicate | a.Disagree) and found.domain in data.select:
            windows, width = data.select[found.domain].ids.shape
            effects = 2 * MOST_EFFECTS * width if isinstance(found, a.ScorePredicate) else 0
            return min(most, int((windows + data.batch_size) * width + effects))
        return most

    def _answer(self, name: str, asked: a.Arguments) -> dict[str, object]:
        subject = self._subject
        match asked:
            case a.Places():
                return texts.attend(subject, asked) if name == "attend" else texts.ablate(subject, asked)
            case a.Edit():
                return texts.edit(subject, asked)
            case a.Lens():
                return texts.lens(subject, asked)
            case a.Patch():
                return texts.patch(subject, asked)
            case a.Ov():
                return texts.ov(subject, asked)
            case a.Detectors():
                return measured.detectors(subject, asked)
            case a.Probe():
                return probe(subject, asked)
        return self._on_rows(asked)

    def _on_rows(self, asked: a.Arguments) -> dict[str, object]:
        match asked:
            case a.Rows():
                if self._survey is None:
                    key = self._subject.head, "survey"
                    self._survey = self._subject.data.kept.get(key, lambda: real_rows.Survey.of(self._subject))
                return real_rows.find_rows(self._subject, self._survey, asked)
            case a.ScorePredicate():
                return predicates.score_predicate(self._trial(asked.domain), asked)
            case a.Disagree():
                return predicates.disagree(self._trial(asked.domain), asked)
        raise BadInput(f"no experiment takes {type(asked).__name__}")

    def _trial(self, domain: Domain) -> Trial:
        if domain not in self._trials:
            self._trials[domain] = Trial(self._subject, domain)
        return self._trials[domain]
