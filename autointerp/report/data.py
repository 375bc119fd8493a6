"""A HeadReport as the compact JSON that its card on the page needs; tokens already in their visible form.

Attentions and contribution shares are integers in 1/10 000; other numbers have 5 significant digits, and
undefined ones are null. An example keeps 40 tokens before its destination, the destination, 8 after, and
position 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from autointerp.records import (
    Control,
    Example,
    GroupEffect,
    HeadReport,
    HeadStats,
    Interval,
    Reading,
    Readout,
    Score,
    Source,
    TokenTotal,
    TokenValue,
)
from autointerp.report.judged import score_lines
from autointerp.report.nouns import Report
from autointerp.report.summary import headline, margin_group
from autointerp.report.timeline import timeline
from autointerp.report.words import words_json
from autointerp.tokentext import visible

BEFORE, AFTER = 40, 8
UNIT = 10_000
GROUP_NAMED = 6  # heads of a group that are named
STRATA = ("top", "quantile", "random", "contrast")
Json = dict[str, Any]


def number(value: float | None, digits: int = 5) -> float | int | None:
    """`value` with few digits, as the shortest JSON number; None where it is undefined."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def trimmed(card: Json, per_stratum: int, *, with_prompts: bool) -> Json:
    """The card with at most `per_stratum` examples of each stratum; what is left out is counted on it."""
    kept = [example for example in card["examples"] if example["rank"] < per_stratum]
    out = card | {"examples": kept, "omitted": card["omitted"] + len(card["examples"]) - len(kept)}
    if with_prompts:
        return out
    agent = card["agent"] and {**card["agent"], "turns": None}
    return out | {"made": {**card["made"], "prompt": [], "raw_replies": [], "left_out": True}, "agent": agent}


def claims_json(report: Report) -> Json:
    """What heads, neurons and latents have in common on their cards: the claims, the scores, how they came about."""
    said, made = report.description, report.provenance
    score = headline(report)
    return {
        "status": report.status,
        "said": None if said is None else said.model_dump(mode="json"),
        "judged": {k: number(v) if isinstance(v, float) else v for k, v in report.judgement.model_dump().items()},
        "group": margin_group(report),
        "scores": [_score(item, main=item is score) for item in report.scores],
        "unscored": [[item.scorer, item.reason] for item in report.unscored],
        "failures": [[item.stage, item.reason, item.raw[:4000]] for item in report.failures],
        "made": made.model_dump(mode="json"),
    }


def card(report: HeadReport) -> Json:
    """Everything the card of one head shows, its examples and prompts included."""
    evidence = report.evidence
    return {
        "unit": str(report.head),
        **claims_json(report),
        "stats": _stats(evidence.stats, report),
        "histogram": [list(evidence.stats.distance_buckets), numbers(evidence.stats.distance_histogram)],
        "readings": [_reading(item) for item in evidence.readings],
        "readout": _readout(evidence.readout),
        "counts": [evidence.stats.n_rows, evidence.stats.n_docs],
        "activity": numbers(evidence.stats.activity_quantiles),
        "sources": _totals(evidence.stats.top_sources),
        "destinations": _totals(evidence.stats.top_destinations),
        "notes": list(evidence.notes),
        "examples": _examples(report),
        "omitted": 0,
        "agent": timeline(report.transcript),
    }


def numbers(values: Iterable[float]) -> list[float | int | None]:
    """`number` of each."""
    return [number(value) for value in values]


def token_values(values: Sequence[TokenValue]) -> list[list[Any]]:
    """Visible tokens with their values."""
    return [[visible(item.token), number(item.value, 4)] for item in values]


def _totals(totals: Sequence[TokenTotal]) -> list[list[Any]]:
    return [[visible(item.token), number(item.part), number(item.base_rate)] for item in totals]


def _readout(readout: Readout) -> Json:
    copies = (readout.copies_source, readout.copies_source_low, readout.copies_source_high)
    return {
        "up": token_values(readout.up),
        "down": token_values(readout.down),
        "copies": numbers(copies),
        "n": readout.n,
    }


def _score(score: Score, *, main: bool) -> Json:
    row: Json = score.model_dump(mode="json", exclude={"controls", "details"})
    row = {key: number(value) if isinstance(value, float) else value for key, value in row.items()}
    row["main"] = main
    row["controls"] = [_control(control) for control in score.controls]
    row["lines"] = score_lines(score)
    row["details"] = [[k, number(v) if isinstance(v, float) else v] for k, v in score.details.items()]
    return row


def _control(control: Control) -> Json:
    row = control.model_dump(mode="json")
    return {key: number(value) if isinstance(value, float) else value for key, value in row.items()}


def _stats(stats: HeadStats, report: HeadReport) -> list[list[Any]]:
    """Rows of name, unit, median, value, low, high, n."""
    rows: list[tuple[str, str, float | None, Interval]] = [
        ("attention on the sink", "", stats.sink_mass_median, stats.sink_mass),
        ("attention on itself", "", None, stats.self_mass),
        ("attention on the previous token", "", None, stats.prev_mass),
        ("entropy / ln n", "", stats.entropy_median, stats.entropy),
        ("entropy", "nats", None, stats.entropy_nats),
        ("largest share in a row", "", stats.max_share_median, stats.max_share),
        ("mean distance", "tokens", stats.distance_median, stats.mean_distance),
        ("rows resting on the sink", "", None, stats.low_mass_rows),
        ("loss rise, head mean-ablated", "nats/token", None, report.ablation_loss),
        ("KL, head mean-ablated", "nats", None, report.ablation_kl),
    ]
    if report.direct_effect is not None:
        rows.append(("direct effect on the true next token", "logits", None, report.direct_effect))
    if report.total_effect is not None:
        made_up = ", later heads make up for it" if report.backed_up else ""
        rows.append((f"total effect on it{made_up}", "logits", None, report.total_effect))
    if report.group_effect is not None:
        rows += _together(report.group_effect)
    return [[name, unit, number(median), *numbers((i.value, i.low, i.high)), i.n] for name, unit, median, i in rows]


def _together(group: GroupEffect) -> list[tuple[str, str, float | None, Interval]]:
    """What the group of a backed-up head does, beside its parts."""
    names = ", ".join(str(head) for head in group.heads[:GROUP_NAMED])
    names += f" and {len(group.heads) - GROUP_NAMED} more" if len(group.heads) > GROUP_NAMED else ""
    return [
        (f"total effect of all heads with this {group.alike_in} together ({names})", "logits", None, group.total),
        ("each of them alone, added up", "logits", None, group.sum_of_singles),
        ("together minus added up", "logits", None, group.excess),
    ]


def _reading(reading: Reading) -> list[Any]:
    values = (
        reading.value,
        reading.low,
        reading.high,
        reading.percentile,
        reading.null_max,
        reading.lift_over_uniform,
    )
    detail = ", ".join(
        f"{key} {visible(value) if isinstance(value, str) else f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in reading.detail.items()
    )
    return [reading.name, reading.data, *numbers(values), reading.fires, reading.n, detail]


def _examples(report: HeadReport) -> list[Json]:
    ordered = sorted(report.evidence.examples, key=lambda example: STRATA.index(example.stratum))
    seen = dict.fromkeys(STRATA, 0)
    rows = []
    for example in ordered:
        read = report.evidence.in_words(example)
        said = {} if read is None else {"words": words_json(read)}
        rows.append(example_json(example) | said | {"rank": seen[example.stratum]})
        seen[example.stratum] += 1
    return rows


def example_json(example: Example) -> Json:
    """One example row: the window of tokens, its attentions and contribution shares, the row's numbers."""
    first = max(0, example.dst - BEFORE)
    stop = min(len(example.tokens), example.dst + AFTER + 1)
    sinks = {0} | {source.src for source in example.sources if source.is_sink}
    far = math.fsum(c for i, c in enumerate(example.contribution_shares[:first]) if i not in sinks and math.isfinite(c))
    names = ("sink_mass", "self_mass", "entropy", "activity", "activity_quantile", "weight", "dla_next",
             "abl_dlogp_next", "abl_kl")  # fmt: skip
    row: Json = {
        "stratum": example.stratum, "tier": example.tier, "doc": example.doc_id[:12],
        "window": example.window, "dst": example.dst, "first": first,
        "tokens": [visible(token) for token in example.tokens[first:stop]],
        "attn": _units(example.pattern[first : example.dst + 1]),
        "part": _units(example.contribution_shares[first : example.dst + 1]),
        "sinks": sorted(position for position in sinks if position >= first),
        "mass": number(math.fsum(a for a in example.pattern if math.isfinite(a)) - example.sink_mass),
        "allowed": example.n_allowed, "far": number(far, 3),
        "next": None if example.next_token is None else visible(example.next_token),
        "bucket": example.dst_bucket, "flags": list(example.flags),
        "numbers": [number(getattr(example, name), 4) for name in names],
        "sources": [_source(source) for source in example.sources],
    }  # fmt: skip
    if first > 0:
        row["start"] = [
            visible(example.tokens[0]),
            *_units((example.pattern[0], example.contribution_shares[0])),
        ]
    for name in ("ov_up", "ov_down", "write_up", "write_down"):
        row[name] = token_values(getattr(example, name))
    return row


def _units(values: Iterable[float]) -> list[int | None]:
    return [round(value * UNIT) if math.isfinite(value) else None for value in values]


_FLAGS = {
    "is_self": "itself", "is_prev": "previous token", "is_sink": "sink", "dup_of_dst": "same token as dst",
    "dup_norm": "same word as dst", "after_dup": "after an earlier dst", "equals_next": "is the next token",
}  # fmt: skip


def _source(source: Source) -> list[Any]:
    flags = [text for name, text in _FLAGS.items() if getattr(source, name)]
    if source.dup_of_dst:
        flags = [flag for flag in flags if flag != _FLAGS["dup_norm"]]
    values = (
        source.attn,
        source.share,
        source.multiple,
        source.contribution_share,
        source.position_lift,
        source.column_lift,
    )
    return [source.src, visible(source.token), source.distance, *(number(n, 4) for n in values), flags,
            [visible(token) for token in source.around], source.n_occurrences]  # fmt: skip
