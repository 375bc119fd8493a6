"""A FeatureReport as the compact JSON that its card on the page needs; tokens already in their visible form.

Shares of the reference activation are integers in 1/100, other numbers have 5 significant digits, and undefined ones
are null. An example keeps 40 tokens before its position, the position, and 8 after.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from autointerp.feature_records import FeatureExample, FeatureReadout, FeatureReport, LensWords, RuleReading
from autointerp.records import Interval
from autointerp.report.data import AFTER, BEFORE, STRATA, claims_json, number, numbers, token_values
from autointerp.report.steering import steering_curve
from autointerp.report.timeline import timeline
from autointerp.tokentext import visible

PERCENT = 100
Json = dict[str, Any]


def feature_card(report: FeatureReport) -> Json:
    """Everything the card of one unit shows, its examples and prompts included."""
    evidence = report.evidence
    stats = evidence.stats
    return {
        "unit": str(report.unit),
        **claims_json(report),
        "state": stats.state,
        "stats": _stats(report),
        "quantiles": numbers(stats.quantiles),
        "reference": number(stats.reference),
        "sign": stats.sign,
        "counts": [stats.n_rows, stats.n_docs],
        "tokens": [[visible(t.token), number(t.part), number(t.base_rate), t.active, t.rows] for t in stats.top_tokens],
        "rules": [_rule(rule) for rule in sorted(evidence.rules, key=lambda rule: (not rule.fires, -_order(rule.f1)))],
        "readout": None if evidence.readout is None else _readout(evidence.readout),
        "neighbours": [str(unit) for unit in evidence.neighbours],
        "lenses": [_lens(words) for words in evidence.lenses],
        "steering": steering_curve(report.scores),
        "notes": list(evidence.notes),
        "examples": _examples(evidence.examples),
        "omitted": 0,
        "agent": timeline(report.transcript),
    }


def _order(value: float) -> float:
    return value if math.isfinite(value) else -1.0


def _stats(report: FeatureReport) -> list[list[Any]]:
    """Rows of name, unit, value, low, high, n."""
    stats = report.evidence.stats
    measured: list[tuple[str, str, Interval]] = [
        ("active in", "of positions", stats.active_share),
        ("loss rise, unit at its mean", "nats/token", report.ablation_loss),
        ("KL, unit at its mean", "nats/token", report.ablation_kl),
    ]
    plain = [("above 0 in", "of positions", stats.density), ("largest activation", "", stats.maximum),
             ("reference activation", "", stats.reference), ("mean activation", "", stats.mean)]  # fmt: skip
    rows = [[name, unit, number(value), None, None, stats.n_rows] for name, unit, value in plain]
    return rows + [[name, unit, *numbers((i.value, i.low, i.high)), i.n] for name, unit, i in measured]


def _rule(rule: RuleReading) -> list[Any]:
    detail = ", ".join(f"{key} {_word(value)}" for key, value in rule.detail.items())
    found = numbers((rule.f1, rule.precision, rule.recall, rule.coverage, rule.null_max))
    return [rule.name, rule.predicate, *found, rule.n_active, rule.n_predicted, rule.fires, detail]


def _word(value: str | float | int) -> str:
    return visible(value) if isinstance(value, str) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _readout(readout: FeatureReadout) -> Json:
    return {"up": token_values(readout.up), "down": token_values(readout.down), "random": number(readout.random_max, 4),
            "heads": numbers(readout.head_shares)}  # fmt: skip


def _lens(words: LensWords) -> list[Any]:
    return [words.lens, visible(words.text), [visible(text) for text in words.controls], words.specific, words.detail]


def _examples(examples: Iterable[FeatureExample]) -> list[Json]:
    seen = dict.fromkeys(STRATA, 0)
    rows = []
    for example in sorted(examples, key=lambda one: STRATA.index(one.stratum)):
        rows.append(feature_example(example) | {"rank": seen[example.stratum]})
        seen[example.stratum] += 1
    return rows


def feature_example(example: FeatureExample) -> Json:
    """One position: the tokens around it, each with its share of the reference activation, and its numbers."""
    first, stop = max(0, example.dst - BEFORE), min(len(example.tokens), example.dst + AFTER + 1)
    told = (example.activation, example.quantile, example.weight, example.abl_dlogp_next, example.abl_kl)
    return {
        "stratum": example.stratum, "tier": example.tier, "doc": example.doc_id[:12], "window": example.window,
        "dst": example.dst, "first": first,
        "tokens": [visible(token) for token in example.tokens[first:stop]],
        "share": [round(a * PERCENT) if math.isfinite(a) else None for a in example.activations[first:stop]],
        "next": None if example.next_token is None else visible(example.next_token),
        "numbers": [number(value, 4) for value in told],
        "lowered": token_values(example.lowered), "raised": token_values(example.raised),
    }  # fmt: skip
