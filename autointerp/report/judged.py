"""What a reader must see beside a score: how its negatives were chosen, and how far its judge can be relied on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from autointerp.records import Score
from autointerp.report.nouns import HEADS, Nouns, Report

Details = Mapping[str, float | int | str | None]


def score_lines(score: Score) -> list[tuple[str, str]]:
    """Name and text of the lines that belong to a score; none where it has neither tiers nor a judge."""
    lines = [
        (f"negatives on {score.domain}", tier_line(score.details)),
        (f"{score.scorer} judge", judge_line(score.details)),
    ]
    return [(name, text) for name, text in lines if text]


def tier_line(details: Details) -> str:
    """Share of each tier's negatives that the description predicts all the same."""
    if "false_positive_rate_T0" not in details:
        return ""
    wide, same = details.get("negatives"), details.get("negatives_T2")
    parts = [
        f"T0 {_short(details.get('false_positive_rate_T0'))}",
        f"T1 {_short(details.get('false_positive_rate_T1'))} (n {_short(wide)})",
        f"T2 {_short(details.get('false_positive_rate_T2'))} ({_few(details, 'T2', same)})",
    ]
    if "negatives_T3" in details:
        edits = f"{_few(details, 'T3', details['negatives_T3'])}, of {_short(details.get('edits_T3'))} edits"
        f1 = f", F1 {_short(details.get('f1_T3'))}" if _number(details.get("f1_T3")) is not None else ""
        parts.append(f"T3 {_short(details.get('false_positive_rate_T3'))} ({edits}{f1})")
        if _number(details.get("went_on_T3")) is not None:
            on, ended = _short(details["went_on_T3"]), _short(details.get("ended_T3"))
            parts.append(f"where an edit ends the prediction the head goes on in {on} of {ended}")
    return "wrongly predicted by tier: " + ", ".join(parts)


def judge_line(details: Details) -> str:
    """Agreement of the judge with itself, what it adds to the error, and whether it was asked one item a call."""
    if "judge_repeats" not in details:
        return ""
    parts = [f"asked {_short(details['judge_repeats'])} times in other orders"]
    if "se_judge" in details:
        alpha = _number(details.get("judge_agreement"))
        same = "always one answer" if alpha is None else f"agreement alpha {alpha:.2f}"
        parts = [
            f"{same} over {_short(details['judge_repeats'])} orders",
            f"order effect {_short(details.get('order_effect'))}",
            f"standard error {_short(details.get('se'))} (items {_short(details.get('se_items'))}, "
            f"judge {_short(details['se_judge'])})",
        ]
    if "single_items" in details:
        parts.append(f"so asked one item a call, {_short(details['single_items'])} calls "
                     f"(in batches {_short(details.get('batched_value'))})")  # fmt: skip
    if "single_items_failed" in details:
        parts.append(f"one item a call failed: {details['single_items_failed']}")
    if "second_judge_failed" in details:
        parts.append(f"second judge {details.get('second_judge')} failed: {details['second_judge_failed']}")
    elif "second_judge" in details:
        agreed = _number(details.get("second_judge_agreement"))
        parts.append(f"second judge {details['second_judge']} {_short(details.get('second_judge_value'))}, "
                     f"alpha with the first {_short(agreed)}")  # fmt: skip
    return "; ".join(parts)


@dataclass
class JudgeTotals:
    """Agreement over the heads of a run, by scorer."""

    agreements: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    orders: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    second: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    one_by_one: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, report: Report) -> None:
        """Count one unit."""
        for score in report.scores:
            if "judge_repeats" not in score.details:
                continue
            named = (
                ("judge_agreement", self.agreements),
                ("order_effect", self.orders),
                ("second_judge_agreement", self.second),
            )
            for name, found in named:
                value = _number(score.details.get(name))
                if value is not None:
                    found[score.scorer].append(value)
            self.one_by_one[score.scorer] += "single_items" in score.details

    def facts(self, nouns: Nouns = HEADS) -> list[tuple[str, str]]:
        """Lines for the run page; none where no judge was asked again."""
        facts = []
        if self.orders:
            facts.append(("judge agreement with itself, alpha", _means(self.agreements, nouns)))
            facts.append(("order effect, mean |e - e'|", _means(self.orders, nouns)))
        if any(self.one_by_one.values()):
            text = ", ".join(f"{name} on {nouns.count(n)}" for name, n in self.one_by_one.items() if n)
            facts.append(("asked one item a call for it", text))
        if self.second:
            facts.append(("second judge's agreement with the first, alpha", _means(self.second, nouns)))
        return facts


def _means(by_scorer: Mapping[str, list[float]], nouns: Nouns) -> str:
    there = ((name, values) for name, values in by_scorer.items() if values)
    parts = [f"{name} {fmean(values):.2f} on {nouns.count(len(values))}" for name, values in there]
    return ", ".join(parts) or "none: the judge gave one answer for everything"


def _few(details: Details, tier: str, n: float | int | str | None) -> str:
    note = details.get(f"negatives_{tier}_note")
    return f"n {_short(n)}" + (f", {note}" if note else "")


def _number(value: float | int | str | None) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _short(value: float | int | str | None) -> str:
    number = _number(value)
    if number is None:
        return "\u2013"
    return f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
