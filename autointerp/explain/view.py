"""Evidence as plain values for a prompt: blind (no layer, head, model or file name), bounded, JSON-ready."""

from __future__ import annotations

from typing import Any, TypeVar

from autointerp.explain.words import lens_names, row_words
from autointerp.feature_records import FeatureExample
from autointerp.lens_records import HeadRowReading
from autointerp.records import Evidence, Example, Source, TokenTotal, TokenValue

BEFORE, AFTER, SOURCES = 40, 8, 3
DROP_ORDER = ("quantile", "random", "contrast", "top")
Plain = dict[str, Any]
X = TypeVar("X", Example, FeatureExample)


def evidence_view(evidence: Evidence, examples: tuple[Example, ...] | None = None) -> Plain:
    """Everything of `evidence` that a language model is shown."""
    chosen = evidence.examples if examples is None else examples
    read = {"in_words": sorted({name for row in evidence.lenses for name in lens_names(row)})}
    return (read if evidence.lenses else {}) | {
        "statistics": _statistics(evidence),
        "measurements": [
            {
                "name": r.name,
                "data": r.data,
                "value": round(r.value, 3),
                "percentile_among_heads": round(r.percentile, 0),
                "largest_in_null": round(r.null_max, 3),
                "times_uniform": round(r.lift_over_uniform, 1),
                "fires": r.fires,
            }
            for r in evidence.readings
            if r.value == r.value
        ],
        "writes": {
            "effect_on_attended_token_logits": round(evidence.readout.copies_source, 3),
            "raised": _values(evidence.readout.up[:6]),
            "lowered": _values(evidence.readout.down[:6]),
        },
        "examples": {
            stratum: [_example(e, evidence.in_words(e)) for e in chosen if e.stratum == stratum]
            for stratum in ("top", "quantile", "random", "contrast")
        },
    }


def drop_examples(examples: tuple[X, ...]) -> tuple[X, ...]:
    """The examples without the last one of the first stratum of DROP_ORDER that still has more than two."""
    for least in (2, 0):
        for stratum in DROP_ORDER:
            places = [i for i, e in enumerate(examples) if e.stratum == stratum]
            if len(places) > least:
                return examples[: places[-1]] + examples[places[-1] + 1 :]
    return ()


def fewer_and_fewer(examples: tuple[X, ...], fewest: int) -> list[tuple[X, ...]]:
    """All examples, all but the one that is missed least, and so on down to `fewest`."""
    choices = [examples]
    while len(choices[-1]) > fewest:
        choices.append(drop_examples(choices[-1]))
    return choices


def _statistics(evidence: Evidence) -> Plain:
    stats = evidence.stats
    histogram = zip(stats.distance_buckets, stats.distance_histogram, strict=True)
    return {
        "attention_on_first_position": round(stats.sink_mass.value, 3),
        "entropy_normalised": round(stats.entropy.value, 3),
        "mean_distance": round(stats.mean_distance.value, 2),
        "share_by_distance": {name: round(value, 3) for name, value in histogram},
        "top_attended_tokens": _totals(stats.top_sources[:10]),
        "top_attending_tokens": _totals(stats.top_destinations[:10]),
    }


def _totals(totals: tuple[TokenTotal, ...]) -> list[Plain]:
    return [{"token": t.token, "part": round(t.part, 3), "of_text": round(t.base_rate, 4)} for t in totals]


def _values(values: tuple[TokenValue, ...]) -> list[Plain]:
    return [{"token": v.token, "logits": round(v.value, 2)} for v in values]


def _example(example: Example, row: HeadRowReading | None) -> Plain:
    start = max(0, example.dst - BEFORE)
    return ({} if row is None else {"in_words": row_words(row)}) | {
        "before": "".join(example.tokens[start : example.dst]),
        "dst": example.dst_token,
        "after": "".join(example.tokens[example.dst + 1 : example.dst + 1 + AFTER]),
        "attention_on_first_position": round(example.sink_mass, 2),
        "activity_quantile": round(example.activity_quantile, 2),
        "attends_to": [_source(s) for s in example.sources[:SOURCES]],
        "raises": [v.token for v in example.write_up[:3]],
        "lowers": [v.token for v in example.write_down[:3]],
        "loss_without_head": round(example.abl_dlogp_next, 3) if example.next_token is not None else None,
    }


def _source(source: Source) -> Plain:
    flags = ("is_self", "is_prev", "dup_of_dst", "after_dup", "equals_next", "first_occurrence")
    view: Plain = {
        "src": source.token,
        "distance": source.distance,
        "share": round(source.share, 2),
        "contribution_share": round(source.contribution_share, 2),
        "flags": [name for name in flags if getattr(source, name)],
    }
    return view | {"around": "".join(source.around)} if source.distance > BEFORE else view
