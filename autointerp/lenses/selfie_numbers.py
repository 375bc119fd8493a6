"""SelfIE's numbers from log-probabilities: relevancy, margins against controls, verdicts.

The text y is the greedy answer under the vector itself, so it is likelier under that vector than under most others
whatever the vector means: on a model of random weights the margin is positive nearly always. A margin therefore counts
only where it also exceeds the margins that random vectors of like norm reach for their own texts (`null_p`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.lens_records import SelfieVerdict
from autointerp.stats.bootstrap import Resamples, ratio_interval

VECTOR_CONTROLS = ("none", "zero", "random", "mean", "shuffled")
TEXT_CONTROL = "text_only"
FLOOR = math.log(1e-9)  # of log-probabilities, nats
MIN_PROMPTS, LEVEL = 3, 0.05


def treatment(p: Float[Tensor, " token"], q: Float[Tensor, " token"]) -> tuple[float, ...]:
    """|p - q| of every token, from log-probabilities with and without the insertion (arXiv 2403.10949)."""
    return tuple((p.double().exp() - q.double().exp()).abs().tolist())


def signed(p: Float[Tensor, " token"], q: Float[Tensor, " token"]) -> tuple[float, ...]:
    """ln p - ln q of every token, nats, both floored at a probability of 1e-9."""
    return tuple((p.double().clamp_min(FLOOR) - q.double().clamp_min(FLOOR)).tolist())


def total(p: Float[Tensor, " token"], q: Float[Tensor, " token"]) -> float:
    """Sum of `signed`: how much likelier the text is under p than under q, nats."""
    return math.fsum(signed(p, q))


def margin(totals: Mapping[str, float]) -> float:
    """The total against the strongest of the vector controls."""
    return min(totals[name] for name in VECTOR_CONTROLS)


def normalised(text: str) -> str:
    """Text for comparison: case, white space and outer punctuation do not count."""
    return re.sub(r"\s+", " ", text).strip(" .,;:!?\"'()[]-").casefold()


@dataclass(frozen=True)
class SourceTest:
    """One vector over all its prompts: mean margin with its interval over prompts, and the share of random vectors
    that reach it; `beats_text` is None where there was no text to ask about."""

    margin: float
    low: float
    high: float
    p: float
    beats_text: bool | None
    n_prompts: int

    @property
    def passed(self) -> bool:
        return self.n_prompts >= MIN_PROMPTS and self.low > 0 and self.p <= LEVEL


def judged_source(
    margins: Sequence[float], text_totals: Sequence[float] | None, nulls: Sequence[float], seed: int
) -> SourceTest:
    """Test a vector from its margins by prompt, its totals against `text_only`, and the null's mean margins."""
    mean, low, high = _over_prompts(margins, seed)
    reached = sum(null >= mean for null in nulls)
    beats = None if text_totals is None else _over_prompts(text_totals, seed)[1] > 0
    return SourceTest(mean, low, high, (1 + reached) / (1 + len(nulls)), beats, len(margins))


def _over_prompts(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    resamples = Resamples.of(len(values), seed)
    found = ratio_interval(np.array(values), np.ones(len(values)), resamples)
    return found.value, found.low, found.high


def row_verdict(test: SourceTest, own_margin: float, text: str, control_texts: Mapping[str, str]) -> SelfieVerdict:
    """The verdict of one prompt's answer: its source passed, it beats its controls, and no control says the same."""
    said = normalised(text)
    same = {name for name, other in control_texts.items() if normalised(other) == said}
    if not test.passed or own_margin <= 0 or not said or same & set(VECTOR_CONTROLS):
        return "abstain"
    return "context_only" if test.beats_text is False or TEXT_CONTROL in same else "specific"


def cosine(a: Float[Tensor, " d_model"], b: Float[Tensor, " d_model"]) -> float:
    """Cosine of two vectors, NaN where one is zero."""
    size = float(a.double().norm() * b.double().norm())
    return float(torch.dot(a.double(), b.double())) / size if size else math.nan
