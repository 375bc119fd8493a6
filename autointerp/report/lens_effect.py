"""Whether lens readings helped: two runs over the same heads, one with readings that the other did not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.report.folder import Json
from autointerp.stats.bootstrap import interval

RESAMPLES = 1000
# What changes descriptions beside the lenses; where it differs, a difference is not theirs alone.
EXPLAINING = ("explainer", "llm", "prompts", "instruction", "temperature", "max_reply_tokens", "agent")


@dataclass(frozen=True)
class PairedMean:
    """Mean of paired differences over `n` heads, with its 95 % bootstrap interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, differences: Sequence[float], seed: int = 0) -> PairedMean:
        """Of the differences that are numbers; resamples are over heads."""
        there = np.array([d for d in differences if not math.isnan(d)])
        if not len(there):
            return cls(math.nan, math.nan, math.nan, 0)
        draws = np.random.default_rng(seed).integers(0, len(there), (RESAMPLES, len(there)))
        low, high = interval(there[draws].mean(1))
        return cls(float(there.mean()), low, high, len(there))

    def __str__(self) -> str:
        if not self.n:
            return "none"
        return f"{self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}, over {self.n} heads"


@dataclass(frozen=True)
class LensEffect:
    """The lenses of both runs, and the paired differences b - a; `also` names what else differs."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    margin: PairedMean
    score: PairedMean
    unread: bool  # by the explainer of one of the runs
    also: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What the comparison says of the readings."""
        lines = [
            f"Lens readings: {_named(self.b)} (b), {_named(self.a)} (a). With those of b against those of a: margin "
            f"{self.margin}; score {self.score}."
        ]
        if self.unread:
            lines.append("The detector explainer does not read them: no difference is theirs.")
        elif self.also:
            lines.append(f"Not theirs alone: {', '.join(self.also)} differ as well.")
        elif self.margin.n:
            lines.append(self._verdict())
        return lines

    def _verdict(self) -> str:
        if self.margin.low > 0:
            return "Descriptions with the readings of b were better."
        if self.margin.high < 0:
            return "Descriptions with the readings of b were worse."
        return "Whether they helped cannot be told from these heads: the interval holds 0."

    def as_json(self) -> Json:
        """For `compare --format json`."""
        numbers = {
            name: {"n": m.n, "mean": m.mean, "low": m.low, "high": m.high} if m.n else {"n": 0}
            for name, m in (("margin_difference", self.margin), ("score_difference", self.score))
        }
        return {"a": self.a, "b": self.b, **numbers, "read_by_explainers": not self.unread, "also_differ": self.also}


def lenses_of(config: Json) -> tuple[str, ...]:
    """The lenses that a run used, from its config.json; none in runs older than them."""
    found = config.get("lenses")
    if not isinstance(found, dict):
        return ()
    vectors = found.get("entity_vectors")
    return tuple(f"entity ({vectors})" if n == "entity" and vectors else str(n) for n in found.get("read") or ())


def lens_effect(a: Json, b: Json, margins: Sequence[float], scores: Sequence[float], seed: int) -> LensEffect | None:
    """The effect of the readings from both runs' config.json and the paired differences; None where both have the
    same lenses."""
    ours, theirs = lenses_of(a), lenses_of(b)
    if ours == theirs:
        return None
    first, second = a.get("config", {}), b.get("config", {})
    also = tuple(name for name in EXPLAINING if first.get(name) != second.get(name))
    also += ("templates",) if a.get("templates") != b.get("templates") else ()
    unread = "llm" not in (first.get("explainer"), second.get("explainer"))
    return LensEffect(ours, theirs, PairedMean.of(margins, seed), PairedMean.of(scores, seed), unread, also)


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
