"""What a benchmark leaves behind: tables, `bench.json`, `bench.html`, and the line of JSON at the end."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autointerp.pipeline.bench_controls import PassedShare, passed_shares, worst
from autointerp.pipeline.bench_metrics import (
    SUMMARY,
    GradedHead,
    calibration,
    calibration_error,
    label_scores,
    with_interval,
)
from autointerp.pipeline.bench_nonsense import Judged
from autointerp.records import Interval
from autointerp.report.bench import Bar, BenchTable, Row, bench_page, shown

MEANING = {
    "label_macro_f1": "mean over the planted functions of the F1 of naming them",
    "label_accuracy": "share of heads whose first label is true (none, for a head without a function)",
    "labels_complete": "share of heads with all functions named and no other",
    "predicate_f1": "mean F1 on test text of the rules that were planted",
    "causal_accuracy": "share of heads where ablation agrees with what was planted",
    "supported_of_right": "share of heads that matter and are rightly labelled whose description is supported",
    "false_supported": "heads supported though nothing depends on them or the label is wrong",
    "abstained_on_noise": "share of heads without a function that were left unexplained",
}
VERDICTS = ("supported", "partly", "refuted", "unscored")
ROW = ("planted", "functions", "named", "rule", "F1 of the rule planted", "score", "KL", "verdict")
Json = dict[str, object]
Measure = Callable[[Sequence[GradedHead]], float]


@dataclass(frozen=True)
class PlantedBench:
    """What `bench planted` says of one sort of units. `noun`: their name; `labels`: classes with F1, hits, wrong and
    missed; `kind`: under what name a unit's row is counted."""

    title: str
    noun: str
    summary: Mapping[str, Measure]
    meaning: Mapping[str, str]
    labels: Callable[[Sequence[GradedHead]], dict[str, tuple[float, int, int, int]]]
    kind: Callable[[GradedHead], str]


HEADS = PlantedBench("Planted heads", "head", SUMMARY, MEANING, label_scores, lambda h: h.kind)


@dataclass(frozen=True)
class BenchResult:
    """A finished benchmark: the last line of standard output, everything for `bench.json`, and its tables."""

    title: str
    lede: str
    line: Json
    full: Json
    tables: tuple[BenchTable, ...]

    def write(self, folder: Path) -> None:
        """`bench.json` and `bench.html` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_plain({**self.line, **self.full}), indent=1, allow_nan=False)
        (folder / "bench.json").write_text(text + "\n", encoding="utf-8")
        (folder / "bench.html").write_text(bench_page(self.title, self.lede, self.tables), encoding="utf-8")

    def last_line(self) -> str:
        return json.dumps(_plain(self.line), allow_nan=False)


def _plain(value: object) -> object:
    """NaN is null in JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def planted_result(heads: Sequence[GradedHead], explainer: str, bench: PlantedBench = HEADS) -> BenchResult:
    """The tables of `bench planted`."""
    numbers = {name: with_interval(heads, measure) for name, measure in bench.summary.items()}
    nouns = f"{bench.noun}s"
    line: Json = {
        "label_macro_f1": numbers["label_macro_f1"].value,
        "label_macro_f1_low": numbers["label_macro_f1"].low,
        "predicate_f1": numbers["predicate_f1"].value,
        "false_supported": int(numbers["false_supported"].value),
        "abstained_on_noise": numbers["abstained_on_noise"].value,
        f"n_{nouns}": len(heads),
    }
    seeds = sorted({h.seed for h in heads})
    full: Json = {
        "explainer": explainer,
        "seeds": seeds,
        "summary": {name: number.model_dump() for name, number in numbers.items()},
        "by_seed": {s: {n: m([h for h in heads if h.seed == s]) for n, m in bench.summary.items()} for s in seeds},
        "labels": {name: dict(zip(("f1", "hits", "wrong", "missed"), v, strict=True))
                   for name, v in bench.labels(heads).items()},
        "calibration": calibration(heads),
        "calibration_error": calibration_error(heads),
        nouns: [_head_json(h, bench) for h in heads],
    }  # fmt: skip
    tables = (_summary(numbers, bench), _seeds(heads, seeds, bench), _labels(heads, bench), _kinds(heads, bench),
              _causes(heads, bench), _calibrated(heads, bench), _heads(heads, bench))  # fmt: skip
    names = ", ".join(map(str, seeds))
    lede = f"{len(heads)} {nouns} of {len(seeds)} planted models (seeds {names}), explainer: {explainer}"
    return BenchResult(bench.title, lede, line, full, tables)


def _summary(numbers: Mapping[str, Interval], bench: PlantedBench) -> BenchTable:
    rows = tuple((bench.meaning[n], *_cells(n, i)) for n, i in numbers.items())
    note = f"95 % intervals: seeds drawn with replacement, and {bench.noun}s within each."
    return BenchTable("Summary", note, ("measure", "value"), rows)


def _cells(name: str, interval: Interval) -> tuple[Bar | str]:
    return (str(int(interval.value)),) if name == "false_supported" else (Bar.of(interval),)


def _seeds(heads: Sequence[GradedHead], seeds: Sequence[int], bench: PlantedBench) -> BenchTable:
    measures = bench.summary
    rows = tuple((seed, *(m([h for h in heads if h.seed == seed]) for m in measures.values())) for seed in seeds)
    return BenchTable("By seed", "", ("seed", *(name.replace("_", " ") for name in measures)), rows)


def _labels(heads: Sequence[GradedHead], bench: PlantedBench) -> BenchTable:
    rows = tuple((name, *values) for name, values in bench.labels(heads).items())
    note = f"Labels that are true of a {bench.noun} besides its planted function count neither way."
    return BenchTable("By function", note, ("function", "F1", "named rightly", "named wrongly", "missed"), rows)


def _kinds(heads: Sequence[GradedHead], bench: PlantedBench) -> BenchTable:
    rows: list[Row] = []
    for kind in sorted({bench.kind(h) for h in heads}):
        inside = [h for h in heads if bench.kind(h) == kind]
        verdicts = Counter(str(h.verdict) for h in inside)
        right = sum(h.right for h in inside)
        rows.append((kind, len(inside), right, sum(h.complete for h in inside), *[verdicts[v] for v in VERDICTS]))
    columns = ("planted as", f"{bench.noun}s", "first label true", "all named", *VERDICTS)
    return BenchTable("Verdicts by what was planted", "", columns, tuple(rows))


def _causes(heads: Sequence[GradedHead], bench: PlantedBench) -> BenchTable:
    rows = []
    for matters in (True, False):
        inside = [h for h in heads if h.matters == matters and h.planted]
        supported = sum(h.verdict == "supported" for h in inside)
        rows.append(("yes" if matters else "no", len(inside), sum(h.depends for h in inside), supported))
    noun = bench.noun
    note = f"Depends: ablating the {noun} moves predictions by more than 1e-4 nats. {noun.capitalize()}s without a "
    columns = ("predictions depend on it", f"{noun}s", "ablation says so", "supported")
    return BenchTable("Causal truth", f"{note}function left out.", columns, tuple(rows))


def _calibrated(heads: Sequence[GradedHead], bench: PlantedBench) -> BenchTable:
    note = f"Mean distance of stated confidence and share right: {shown(calibration_error(heads))}."
    columns = ("stated confidence", f"{bench.noun}s", "mean", "first label true")
    return BenchTable("Calibration", note, columns, tuple(calibration(heads)))


def _heads(heads: Sequence[GradedHead], bench: PlantedBench) -> BenchTable:
    ordered = sorted(heads, key=lambda h: (not h.falsely_supported, h.complete, h.seed, h.kind, _place(h)))
    rows = tuple(
        (h.seed, str(h.head), h.kind, ", ".join(h.planted) or "none", ", ".join(h.said) or h.status, h.predicate,
         h.true_f1, h.said_f1, h.kl.value, f"{h.verdict}: {h.reason}")
        for h in ordered
    )  # fmt: skip
    noun = bench.noun
    note = f"False support first, then {noun}s whose functions were not all named."
    return BenchTable(f"{noun.capitalize()}s", note, ("seed", noun, *ROW), rows)


def _place(head: GradedHead) -> tuple[str, int, int]:
    return type(head.head).__name__ + getattr(head.head, "kind", ""), head.head.layer, head.head.index


def _head_json(head: GradedHead, bench: PlantedBench) -> Json:
    return {
        "seed": head.seed, bench.noun: str(head.head), "kind": head.kind, "planted": head.planted,
        "allowed": head.allowed, "matters": head.matters, "said": head.said, "status": head.status,
        "verdict": head.verdict, "confidence": head.confidence, "true_predicate": head.true_predicate,
        "true_f1": head.true_f1,
        "predicate": head.predicate, "said_f1": head.said_f1, "kl": head.kl.value, "kl_low": head.kl.low,
        "first_label_true": head.right, "all_named": head.complete, "falsely_supported": head.falsely_supported,
    }  # fmt: skip


def controls_result(judged: Sequence[Judged], seeds: Sequence[int], explainer: str) -> BenchResult:
    """The tables of `bench controls`."""
    shares = passed_shares(judged)
    whole = shares[0]
    line: Json = {"passed_share": whole.share, "passed_share_high": whole.interval[1], "n": whole.n}
    full: Json = {
        "explainer": explainer,
        "seeds": list(seeds),
        "by_kind": {s.kind: {"passed": s.passed, "n": s.n, "interval": s.interval, **s.verdicts} for s in shares},
        "passed": [_claim_json(j) for j in worst(judged)],
    }
    lede = f"{whole.n} descriptions that say nothing true, seeds {', '.join(map(str, seeds))}, explainer: {explainer}"
    return BenchResult("How often nonsense passes", lede, line, full, (_shares(shares), _passed(judged)))


def _shares(shares: Sequence[PassedShare]) -> BenchTable:
    rows: tuple[Row, ...] = tuple(
        (s.kind, s.n, s.passed, Bar(s.share, *s.interval), *[s.verdicts.get(v, 0) for v in VERDICTS[1:]])
        for s in shares
    )
    note = "Share that comes out supported, with the exact 95 % interval (Clopper-Pearson)."
    return BenchTable("Passed", note, ("kind", "descriptions", "supported", "share", *VERDICTS[1:]), rows)


def _passed(judged: Sequence[Judged]) -> BenchTable:
    rows = tuple(
        (str(j.claim.head), j.claim.kind, j.claim.name, j.claim.predicate, j.score, j.coverage, j.reason)
        for j in worst(judged)
    )
    columns = ("head", "kind", "description", "rule", "score", "coverage", "why")
    return BenchTable("What passed", "", columns, rows)


def _claim_json(judged: Judged) -> Json:
    claim = judged.claim
    return {"head": str(claim.head), "kind": claim.kind, "name": claim.name, "predicate": claim.predicate,
            "domain": claim.domain, "score": judged.score, "coverage": judged.coverage}  # fmt: skip
