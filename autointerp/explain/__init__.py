"""From evidence to a description or a failure: the detector explainer and the LLM explainer behind one protocol."""

from __future__ import annotations

from autointerp.explain.detectors import DetectorExplainer
from autointerp.explain.language import LanguageExplainer, explain_prompt
from autointerp.explain.outcome import Explainer, Explanation

__all__ = ["DetectorExplainer", "Explainer", "Explanation", "LanguageExplainer", "explain_prompt"]
