"""A unit's evidence as plain values for a prompt: blind (no layer, index, model or file name), bounded, JSON-ready."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from autointerp.explain.feature_detectors import active_ablated
from autointerp.feature_records import ACTIVE, RESTING, FeatureEvidence, FeatureExample, FeatureReadout, LensWords
from autointerp.records import TokenValue

BEFORE, AFTER, SHOWN_ACTIVE = 40, 8, 8  # tokens before and after the marked one; other active tokens that are listed
TOKENS, MOVED, LONGEST = 12, 10, 80
STRENGTH = 10  # strengths run from 0 to this
STRATA = ("top", "quantile", "random", "contrast")
Plain = dict[str, Any]


def feature_view(evidence: FeatureEvidence, examples: tuple[FeatureExample, ...] | None = None) -> Plain:
    """Everything of `evidence` that a language model is shown."""
    chosen = evidence.examples if examples is None else examples
    words = [_words(reading) for reading in evidence.lenses if reading.specific]
    return ({"in_words": words} if words else {}) | {
        "statistics": _statistics(evidence),
        "rules": [
            {
                "kind": rule.name,
                "predicate": rule.predicate,
                "f1": round(rule.f1, 2),
                "precision": round(rule.precision, 2),
                "recall": round(rule.recall, 2),
                "f1_on_shuffled": round(rule.null_max, 2),
                "fires": rule.fires,
            }
            for rule in evidence.rules
            if rule.f1 == rule.f1
        ],
        "output": _output(evidence.readout) | _removed(evidence.examples),
        "examples": {stratum: [_example(e) for e in chosen if e.stratum == stratum] for stratum in STRATA},
    }


def strength_of(share: float) -> int:
    """A share of the reference activation as a whole number from 0 to STRENGTH."""
    return 0 if share != share else int(min(STRENGTH, max(0, round(STRENGTH * share))))


def _statistics(evidence: FeatureEvidence) -> Plain:
    stats = evidence.stats
    return {
        "active_share_of_tokens": float(f"{stats.active_share.value:.3g}"),
        "above_0_share_of_tokens": float(f"{stats.density:.3g}"),
        "tokens_with_most_activation": [
            {
                "token": t.token,
                "part_of_activation": round(t.part, 3),
                "of_text": float(f"{t.base_rate:.2g}"),
                "active": t.active,
                "occurs": t.rows,
            }
            for t in stats.top_tokens[:TOKENS]
        ],
    }


def _output(readout: FeatureReadout | None) -> Plain:
    if readout is None:
        return {"raised": None, "lowered": None}
    return {
        "raised": _values(readout.up[:MOVED]),
        "lowered": _values(readout.down[:MOVED]),
        "largest_of_random_directions": round(readout.random_max, 2),
    }


def _removed(examples: tuple[FeatureExample, ...]) -> Plain:
    """What happens where the unit is active and is taken out, over the examples."""
    active = active_ablated(examples)
    lost = [e.abl_dlogp_next for e in active if e.abl_dlogp_next == e.abl_dlogp_next]
    return {
        "loss_without_unit": round(sum(lost) / len(lost), 3) if lost else None,
        "without_unit_lowered": _common([e.lowered for e in active]),
        "without_unit_raised": _common([e.raised for e in active]),
    }


def _common(changes: list[tuple[TokenValue, ...]]) -> list[Plain]:
    """The tokens that change most in the sum over examples, with the mean change."""
    total: dict[str, float] = defaultdict(float)
    for values in changes:
        for value in values:
            total[value.token] += value.value
    ranked = sorted(total.items(), key=lambda item: (-abs(item[1]), item[0]))[:MOVED]
    return [{"token": token, "logits": round(value / len(changes), 2)} for token, value in ranked]


def _values(values: tuple[TokenValue, ...]) -> list[Plain]:
    return [{"token": v.token, "logits": round(v.value, 2)} for v in values]


def _example(example: FeatureExample) -> Plain:
    dst = example.dst
    first, last = max(0, dst - BEFORE), min(len(example.tokens), dst + 1 + AFTER)
    seen = range(max(first, 1), last)  # position 0 is no row: nothing is counted or scored there
    others = [at for at in seen if at != dst and example.activations[at] >= ACTIVE]
    others = sorted(sorted(others, key=lambda at: -example.activations[at])[:SHOWN_ACTIVE])
    view: Plain = {
        "before": "".join(example.tokens[first:dst]),
        "token": example.tokens[dst],
        "after": "".join(example.tokens[dst + 1 : last]),
        "strength": strength_of(example.activations[dst]),
        "rests": bool(example.activations[dst] <= RESTING),
        "position": dst,
        "other_active_tokens": [[example.tokens[at], at - dst, strength_of(example.activations[at])] for at in others],
    }
    if example.tier is not None:
        view["why_shown"] = {"token": "same token as an example above, but at rest"}.get(
            example.tier, "similar units are active here, this one rests"
        )
    if example.abl_dlogp_next == example.abl_dlogp_next:
        view["loss_without_unit"] = round(example.abl_dlogp_next, 3)
    return view


def _words(reading: LensWords) -> Plain:
    return {"lens": reading.lens, "text": reading.text[:LONGEST],
            "controls": [control[:LONGEST] for control in reading.controls[:2]]}  # fmt: skip
