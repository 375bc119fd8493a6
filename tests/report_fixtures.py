"""Generated head reports for the tests of display and report: hostile tokens, every status, every verdict."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from autointerp.records import (
    LABELS,
    Control,
    Description,
    Evidence,
    Example,
    Failure,
    Head,
    HeadReport,
    HeadStats,
    Interval,
    Judgement,
    Provenance,
    Reading,
    Readout,
    Score,
    Source,
    Stratum,
    TokenTotal,
    TokenValue,
    Unscored,
)

HOSTILE = (
    "</td>", "{{x}}", "</script><script>alert(1)</script>", "<!--", "|", "`", ",", "\n", "\t", "\r", '"', "'",
    "\\", "\\n", "=1+1", "+1", "-", "@x", "NA", "null", "nan", "None", "", " ", "007", "1e5", "true", "3/4",
    "May 5",
    "\ud800", "\udc00x", "\u202eabc", "\u200b", "\ufeff", "\u2028", "\x00", "\x1b[31m", "é", "日本", "🙂",
    "&amp;",
    "<img src=x onerror=alert(2)>", "{% raw %}", "]]>", "$x$", "#N/A", "·", "↵", "\\&NA", "\\u{41}",
)  # fmt: skip
WORDS = (
    " the", " of", " and", " a", " in", " to", " was", " film", " Anna", " Carl", " gave", " park", " river",
    " bridge",
    " said", ",", ".", "\n", " (", ")", ' "', " 1984", " music", " album", "ing", "ed", " first", " war",
    " house",
)  # fmt: skip
BUCKETS = ("0", "1", "2", "3", "4", "5-8", "9-16", "17-32", "33-64", "65-128")


def interval(rng: random.Random, top: float = 1.0, n: int = 120) -> Interval:
    value = rng.random() * top
    return Interval(value=value, low=value * 0.9, high=min(top, value * 1.1 + 0.01), n=n)


def example(rng: random.Random, stratum: Stratum, *, length: int = 128, hostile: bool = False) -> Example:
    pool = HOSTILE if hostile else WORDS
    tokens = ("<|endoftext|>", *(rng.choice(pool) for _ in range(length - 1)))
    dst = rng.randrange(8, length)
    raw = [rng.random() ** 12 for _ in range(dst + 1)]
    raw[0] = sum(raw) * 0.6
    pattern = tuple(value / sum(raw) for value in raw)
    flat = tuple(value * (0.05 if i == 0 else 1.0) for i, value in enumerate(pattern))
    parts = tuple(value / sum(flat) for value in flat)
    mass = 1 - pattern[0]
    best = sorted(range(1, dst + 1), key=lambda i: -parts[i])[:5]
    values = tuple(TokenValue(token=rng.choice(pool), value=rng.random() * 3) for _ in range(5))
    return Example(
        doc_id=f"{rng.getrandbits(256):064x}", window=rng.randrange(4), dst=dst, stratum=stratum,
        tier="A" if stratum == "contrast" else None, weight=12.5 if stratum == "random" else 1.0,
        tokens=tokens,
        pattern=pattern, contribution_shares=parts,
        sources=tuple(_source(rng, tokens, dst, s, pattern[s], parts[s], mass) for s in best),
        dst_token=tokens[dst],
        next_token=tokens[dst + 1] if dst + 1 < length else None, dst_bucket="late" if dst > 64 else "early",
        sink_mass=pattern[0], self_mass=pattern[dst], entropy=rng.random(), n_allowed=dst,
        activity=rng.random() * 4,
        activity_quantile=rng.random(), ov_up=values, ov_down=values, write_up=values, write_down=values,
        dla_next=rng.random(), abl_dlogp_next=rng.random() - 0.5, abl_kl=rng.random() * 0.01,
    )  # fmt: skip


def _source(
    rng: random.Random, tokens: tuple[str, ...], dst: int, src: int, attn: float, part: float, mass: float
) -> Source:
    return Source(
        src=src, token=tokens[src], distance=dst - src, attn=attn, share=attn / mass,
        multiple=attn / mass * dst,
        contribution=part * 2, contribution_share=part, position_lift=rng.random() * 3, column_lift=math.nan,
        around=tokens[max(0, src - 4) : src + 5], is_self=src == dst, is_prev=src == dst - 1, is_sink=False,
        dup_of_dst=tokens[src] == tokens[dst] and src != dst, dup_norm=False, after_dup=False,
        equals_next=False,
        first_occurrence=True, n_occurrences=2,
    )  # fmt: skip


def stats(rng: random.Random, pool: tuple[str, ...]) -> HeadStats:
    totals = tuple(TokenTotal(token=rng.choice(pool), part=0.2 / (i + 1), base_rate=0.02) for i in range(20))
    histogram = [rng.random() for _ in BUCKETS]
    return HeadStats(
        n_rows=20480, n_docs=160, sink_mass=interval(rng), self_mass=interval(rng, 0.3),
        prev_mass=interval(rng, 0.5),
        entropy=interval(rng), entropy_nats=interval(rng, 4), max_share=interval(rng),
        mean_distance=interval(rng, 40),
        low_mass_rows=interval(rng, 0.4), sink_mass_median=0.4, entropy_median=0.5, max_share_median=math.nan,
        distance_median=7.0, distance_buckets=BUCKETS,
        distance_histogram=tuple(v / sum(histogram) for v in histogram),
        activity_quantiles=(0.01, 0.1, 0.3, 0.8, 1.4, 2.2, 4.8), top_sources=totals, top_destinations=totals,
    )  # fmt: skip


def readings(rng: random.Random) -> tuple[Reading, ...]:
    names = ("previous_token", "current_token", "first_token", "duplicate_token", "induction", "fixed_offset")
    made = []
    for name in names:
        for data in ("repeats", "text"):
            value = rng.random() ** 3
            made.append(
                Reading(
                    name=name, data="repeats" if data == "repeats" else "text", value=value, low=value * 0.9,
                    high=value * 1.1, n=50, percentile=rng.random() * 100, null_max=0.08,
                    lift_over_uniform=value * 40, fires=value > 0.4,
                    detail={"offset": 3} if "off" in name else {},
                )
            )  # fmt: skip
    copying = Reading(name="copying", data="parameters", value=math.nan, low=math.nan, high=math.nan, n=0,
                      percentile=math.nan, null_max=math.nan, lift_over_uniform=math.nan,
                      fires=False)  # fmt: skip
    return (*made, copying)


def evidence(rng: random.Random, head: Head, *, hostile: bool = False, per_stratum: int = 7) -> Evidence:
    pool = HOSTILE if hostile else WORDS
    strata: tuple[Stratum, ...] = ("top", "quantile", "random", "contrast")
    values = tuple(TokenValue(token=rng.choice(pool), value=2.5 - 0.3 * i) for i in range(8))
    return Evidence(
        head=head, stats=stats(rng, pool), readings=readings(rng),
        readout=Readout(up=values, down=tuple(TokenValue(token=v.token, value=-v.value) for v in values),
                        copies_source=0.4, copies_source_low=0.2, copies_source_high=0.6, n=64),
        examples=tuple(example(rng, s, hostile=hostile) for s in strata for _ in range(per_stratum)),
        notes=("contrast: 5 of 6 rows found",),
    )  # fmt: skip


def score_of(rng: random.Random, *, same_rule: bool = False) -> Score:
    value = 0.3 + 0.6 * rng.random()
    controls = (
        Control(name="shuffled explanation", kind="null", value=0.1, difference=value - 0.1, low=value - 0.15,
                high=value - 0.05, beaten=True, detail="mean over 5 donors"),
        Control(name="previous_token", kind="rival", value=value if same_rule else 0.5,
        difference=value - 0.5,
                low=value - 0.55, high=value - 0.45, beaten=not same_rule and value > 0.55,
                same_rule=same_rule),
    )  # fmt: skip
    return Score(
        scorer="predicate", metric="f1", domain="text", value=value, low=value - 0.04, high=value + 0.04,
        n_items=90210,
        n_docs=64, prevalence=0.02, chance=0.04, controls=controls,
        details={"threshold": 0.5, "coverage": 0.47, "with_sink": 0.2, "enrichment": 6.1},
    )  # fmt: skip


def head_report(
    layer: int, index: int, *, hostile: bool = False, kind: str = "", seed: int = 0, per_stratum: int = 7
) -> HeadReport:
    """One report; `kind` is supported, partly, refuted, rule, first_token, abstained, failed, unscored."""
    rng = random.Random(seed * 1_000_003 + layer * 1009 + index)
    kinds = (
        "supported",
        "supported",
        "partly",
        "refuted",
        "rule",
        "first_token",
        "abstained",
        "failed",
        "unscored",
    )
    kind = kind or rng.choice(kinds)
    head = Head(layer=layer, index=index)
    score = score_of(rng, same_rule=kind == "rule")
    scored = kind not in {"abstained", "failed", "unscored"}
    shown: dict[str, Any] = {"ablation_loss": interval(rng, 0.05), "ablation_kl": interval(rng, 0.02)}
    return HeadReport(
        head=head, status=kind if kind in {"abstained", "failed"} else "described",
        evidence=evidence(rng, head, hostile=hostile, per_stratum=per_stratum), description=_description(rng,
        kind, hostile=hostile),
        failures=(Failure(stage="explain", reason="the reply was cut off after 2 repairs",
        raw='{"summary": "<b>'),)
        if kind == "failed" else (),
        provenance=provenance(rng, hostile=hostile), scores=(score,) if scored else (),
        unscored=(Unscored(scorer="pointing", reason="no judge model is configured"),),
        judgement=_judgement(kind, score),
        **shown,
    )  # fmt: skip


def provenance(rng: random.Random, *, hostile: bool) -> Provenance:
    pool = HOSTILE if hostile else WORDS
    lines = [json.dumps([rng.choice(pool) for _ in range(48)]) for _ in range(28)]
    prompt = (
        {"role": "system", "content": "You describe attention heads. " * 60},
        {"role": "user", "content": "<<<data\n" + "\n".join(lines) + "\ndata>>>"},
    )
    return Provenance(
        explainer="llm", model="stories260k", template="explain.j2", template_hash="ab" * 32,
        request_hashes=("cd" * 32,),
        prompt=prompt, raw_replies=('{"summary": "</script><script>window.hacked=1</script>"}',),
        prompt_tokens=2100,
        completion_tokens=180, repairs=0,
    )  # fmt: skip


def _description(rng: random.Random, kind: str, *, hostile: bool) -> Description | None:
    if kind == "failed":
        return None
    if kind == "abstained":
        return Description(
            summary="Unclear: no detector fires.", looks_at="", writes="", label="unclear", abstained=True
        )
    others = [label for label in LABELS if label not in {"first_token", "unclear"}]
    label = {"rule": "previous_token", "first_token": "first_token"}.get(kind) or rng.choice(others)
    evil = "</script><img src=x onerror=alert(1)> | `x` =1+1 \u202e" if hostile else ""
    return Description(
        summary=f"Each word looks back at the last word of the same class, mostly within the sentence.{evil}",
        looks_at="A word to the nearest earlier word that also starts with a capital letter.",
        writes="Promotes that word again.",
        label=label, labels=(label,),
        predicate='src.is_capitalised and dst.is_word_start and distance <= 12 | nearest',
        conditions="Only after a comma or an opening bracket.",
        counterexamples="Not at the start of a document.",
        confidence=rng.random(),
    )  # fmt: skip


def _judgement(kind: str, score: Score) -> Judgement:
    if kind in {"abstained", "failed", "unscored"}:
        return Judgement(
            verdict="unscored", reason={"unscored": "only 12 test documents with a positive"}.get(kind, kind)
        )
    verdict = {"rule": "supported", "first_token": "partly"}.get(kind, kind)
    best = score.controls[1]
    return Judgement(
        verdict=verdict, reason=f"{verdict}, covers 47 %", metric="f1", domain="text", score=score.value,
        score_low=score.low, score_high=score.high, chance=score.chance, n_items=score.n_items,
        n_docs=score.n_docs,
        margin=best.difference, margin_low=best.low, margin_high=best.high, compared_with=best.name,
        coverage=0.47,
    )  # fmt: skip


def write_run(folder: Path, reports: list[HeadReport], run: dict[str, Any] | None = None) -> Path:
    """A run folder as the store leaves it, without pages."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": "models/gpt2-tiny",
        "corpus": ["corpora/wiki.txt"],
        "seed": 0,
        "max_tokens": 200000,
        "context": 128,
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = "".join(json.dumps(report.model_dump(mode="json")) + "\n" for report in reports)
    (folder / "heads.jsonl").write_text(lines)
    (folder / "run.json").write_text(json.dumps(run if run is not None else RUN))
    calls = [
        {"hash": "a", "seconds": 1.0, "retries": 1, "cached": False},
        {"hash": "b", "cached": True, "retries": 0},
    ]
    (folder / "calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))
    return folder


RUN: dict[str, Any] = {
    "corpus": {"documents": 612, "dropped": 3, "tokens": 198400, "splits": {"explain": 300, "select": 120,
    "test": 192}},
    "model": {"name": "gpt2-tiny", "layers": 4, "heads": 8, "dtype": "float32", "device": "cpu",
    "bos": "<|endoftext|>"},
    "instrument": {"rows sum to 1": True, "causal": True, "largest row error": 1.2e-7},
    "lost_in_flight": 0, "cost_usd": 0.0312, "tokens": {"prompt": 67000, "completion": 5800},
    "seconds": {"collect": 41.2, "explain": 12.0},
    "notes": ["underpowered: 24 test documents with a positive, 30 wanted"],
    "command": "autointerp describe-all-heads --model 'models/gpt2 tiny' --corpus wiki.txt --out runs/a",
}  # fmt: skip
