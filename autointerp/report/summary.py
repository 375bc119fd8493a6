"""The numbers of a whole run: who is counted, mean margins, controls, risk against coverage.

Margins (scoring rules 10, 11, 15, 16): heads whose description equals a positional program, and heads
described as resting on the first token, have no margin that means anything and are left out of both means, as are
neurons and latents that are dead or dense, which nobody is asked to describe; their count is printed. In the second
mean an abstention, a failure and an unscored description count as 0.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from autointerp.records import Control, Score
from autointerp.report.judged import JudgeTotals
from autointerp.report.nouns import Report, state_of, unit_of

Group = Literal[
    "counted", "equals a rule", "rests on the first token", "abstained", "failed", "unscored", "dead", "dense"
]  # fmt: skip
DEAD_OR_DENSE: tuple[Group, ...] = ("dead", "dense")
UNDESCRIBED: tuple[Group, ...] = ("abstained", "failed", *DEAD_OR_DENSE)
VERDICTS = ("supported", "partly", "refuted", "unscored")


@dataclass
class ControlTotal:
    """One control over all heads: on how many it ran, how many beat it, how many are that very rule."""

    name: str
    kind: str
    n: int = 0
    beaten: int = 0
    same_rule: int = 0
    differences: list[float] = field(default_factory=list)

    @property
    def mean_difference(self) -> float:
        return fmean(self.differences) if self.differences else math.nan


@dataclass
class Summary:
    """Filled head by head with `add`; the properties are the printed numbers."""

    groups: Counter[Group] = field(default_factory=Counter)
    status: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    explainers: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    margins: list[tuple[float, float]] = field(default_factory=list)  # stated confidence, margin
    coverages: list[float] = field(default_factory=list)
    controls: dict[tuple[str, str], ControlTotal] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    repairs: int = 0
    p_values: list[float] = field(default_factory=list)  # of the margins
    ranks: list[tuple[float, int]] = field(default_factory=list)  # retrieval rank, heads ranked
    words: list[int] = field(default_factory=list)
    effects: list[tuple[str, float, float, str]] = field(default_factory=list)  # head, ablation KL, margin, verdict
    stated: list[tuple[float, bool]] = field(default_factory=list)  # confidence, supported
    judged: JudgeTotals = field(default_factory=JudgeTotals)

    def add(self, report: Report) -> None:
        """Count one head."""
        group = margin_group(report)
        judged, made = report.judgement, report.provenance
        self.groups[group] += 1
        self.status[report.status] += 1
        self.verdicts[judged.verdict] += 1
        self.explainers[made.explainer] += 1
        if made.model:
            self.models[made.model] += 1
        if report.description is not None and report.status == "described":
            self.labels[report.description.label] += 1
        if group == "counted" and judged.margin is not None and report.description is not None:
            confidence = report.description.confidence
            self.margins.append((confidence if math.isfinite(confidence) else 0.0, judged.margin))
            self._add_margin_p(report)
        self._add_described(report)
        self.judged.add(report)
        if judged.coverage is not None and math.isfinite(judged.coverage):
            self.coverages.append(judged.coverage)
        score = headline(report)
        for control in score.controls if score is not None else ():
            self._add_control(control)
        if score is not None and "retrieval_rank" in score.details:
            rank = score.details["retrieval_rank"]
            among = score.details.get("retrieval_units", score.details.get("retrieval_heads"))
            if isinstance(rank, int | float) and isinstance(among, int):
                self.ranks.append((float(rank), among))
        self.tokens_in += made.prompt_tokens
        self.tokens_out += made.completion_tokens
        self.repairs += made.repairs

    def _add_described(self, report: Report) -> None:
        said, judged = report.description, report.judgement
        if said is None or report.status != "described":
            return
        self.words.append(len(f"{said.looks_at} {said.writes}".split()))
        if judged.margin is not None:
            self.effects.append((str(unit_of(report)), report.ablation_kl.value, judged.margin, judged.verdict))
        if judged.verdict != "unscored" and math.isfinite(said.confidence):
            self.stated.append((said.confidence, judged.verdict == "supported"))

    def _add_margin_p(self, report: Report) -> None:
        """The p-value of the control that the margin is measured against."""
        score, name = headline(report), report.judgement.compared_with
        against = next((c for c in score.controls if c.name == name), None) if score is not None else None
        if against is not None and math.isfinite(against.p):
            self.p_values.append(against.p)

    def discoveries(self) -> tuple[int, int]:
        """Margins above 0 at a false discovery rate of 5 % (Benjamini and Hochberg 1995), and how many were tested."""
        import numpy as np

        from autointerp.stats.bootstrap import benjamini_hochberg

        return int((benjamini_hochberg(np.array(self.p_values)) <= 0.05).sum()), len(self.p_values)

    def retrieval(self) -> tuple[float, float, float, float, float]:
        """Share of descriptions that rank their own head first with its exact interval, mean reciprocal rank, and
        the chance of rank 1."""
        from autointerp.stats.bootstrap import clopper_pearson

        n, first = len(self.ranks), sum(rank < 1.5 for rank, _ in self.ranks)
        if not n:
            return (math.nan,) * 5
        reciprocal = fmean(1 / rank for rank, _ in self.ranks)
        return (first / n, *clopper_pearson(first, n), reciprocal, fmean(1 / heads for _, heads in self.ranks))

    def _add_control(self, control: Control) -> None:
        total = self.controls.setdefault((control.kind, control.name), ControlTotal(control.name, control.kind))
        total.n += 1
        total.beaten += control.beaten
        total.same_rule += control.same_rule
        if math.isfinite(control.difference) and not control.same_rule:
            total.differences.append(control.difference)

    @property
    def n_total(self) -> int:
        return sum(self.status.values())

    @property
    def n_unscored(self) -> int:
        """Described heads whose description got no verdict."""
        return self.verdicts["unscored"] - sum(self.groups[group] for group in UNDESCRIBED)

    @property
    def n_in_all_mean(self) -> int:
        return len(self.margins) + sum(self.groups[group] for group in ("abstained", "failed", "unscored"))

    @property
    def mean_margin_described(self) -> float:
        return fmean(margin for _, margin in self.margins) if self.margins else math.nan

    @property
    def mean_margin_all(self) -> float:
        total = math.fsum(margin for _, margin in self.margins)
        return total / self.n_in_all_mean if self.n_in_all_mean else math.nan

    @property
    def mean_coverage(self) -> float:
        return fmean(self.coverages) if self.coverages else math.nan

    @property
    def risk_coverage(self) -> list[tuple[float, float]]:
        """Points (fraction of heads described so far, mean margin of those), most confident first."""
        points, total = [], 0.0
        for count, (_, margin) in enumerate(sorted(self.margins, key=lambda pair: -pair[0]), start=1):
            total += margin
            points.append((count / max(self.n_in_all_mean, 1), total / count))
        return points

    def supported_rate(self) -> tuple[float, float, float]:
        """Supported units over all that are neither dead nor dense, with the exact (Clopper-Pearson) 95 % interval."""
        from autointerp.stats.bootstrap import clopper_pearson

        n, k = self.n_total - self.groups["dead"] - self.groups["dense"], self.verdicts["supported"]
        return (k / n, *clopper_pearson(k, n)) if n else (math.nan, math.nan, math.nan)


def headline(report: Report) -> Score | None:
    """The score behind the judgement: same metric and domain, and the same value where several match."""
    judged = report.judgement
    matching = [s for s in report.scores if s.metric == judged.metric and s.domain == judged.domain]
    matching = [s for s in matching if judged.score is None or s.value == judged.score] or matching
    return max(matching, key=lambda score: len(score.controls), default=None)


def margin_group(report: Report) -> Group:
    """Where a unit stands in the mean margins."""
    if report.status == "failed":
        return "failed"
    state = state_of(report)
    if state != "ok":
        return state
    if report.status == "abstained" or report.description is None:
        return "abstained"
    if report.description.label == "first_token":
        return "rests on the first token"
    score = headline(report)
    if score is not None and score.equal_rule:
        return "equals a rule"
    judged = report.judgement
    if judged.verdict == "unscored" or judged.margin is None or not math.isfinite(judged.margin):
        return "unscored"
    return "counted"
