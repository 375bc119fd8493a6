"""Two runs side by side: which heads changed, and by how much the margins differ.

1. Heads that both runs hold are paired; heads of one run alone are listed.
2. The margin difference of a pair counts an abstention, a failure and an unscored description as 0; a head that
   equals a rule or rests on the first token in either run has no margin, and its pair is counted apart.
3. The interval of the mean difference is a bootstrap over heads, paired.
4. Settings that change scores (model, corpus, context, seed, ...) are compared: where they differ, that is said first,
   as such scores are not measured on the same text (scoring_validity rule 23).
5. Where one run had lens readings that the other had not, the paired differences of margin and score say whether they
   helped (`lens_effect`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from autointerp.errors import BadInput
from autointerp.records import Head, HeadReport
from autointerp.report.folder import Json, open_heads, read_json
from autointerp.report.lens_effect import LensEffect, PairedMean, lens_effect
from autointerp.report.summary import margin_group
from autointerp.tokentext import escape_markdown

SETTINGS = ("model", "corpus", "context", "max_tokens", "seed", "scorers", "heads")
FACTS = ("model_revision", "dtype", "bos_rule", "corpus_hash", "processing")
COLUMNS = (
    "head", "label_a", "label_b", "verdict_a", "verdict_b", "score_a", "score_b", "margin_a", "margin_b", "difference",
)  # fmt: skip
NO_MARGIN = ("equals a rule", "rests on the first token")


@dataclass(frozen=True)
class HeadPair:
    """One head in both runs; `difference` is margin b - a, NaN where either has no margin."""

    head: Head
    a: HeadReport
    b: HeadReport
    difference: float

    @property
    def changed(self) -> bool:
        """Another status, label or verdict."""
        return _state(self.a) != _state(self.b)

    def row(self) -> dict[str, str | float | None]:
        """The pair under COLUMNS."""
        (_, label_a, verdict_a), (_, label_b, verdict_b) = _state(self.a), _state(self.b)
        margins = [None if math.isnan(m) else m for m in (_margin(self.a), _margin(self.b), self.difference)]
        scores = self.a.judgement.score, self.b.judgement.score
        return dict(
            zip(COLUMNS, (str(self.head), label_a, label_b, verdict_a, verdict_b, *scores, *margins), strict=True)
        )


@dataclass(frozen=True)
class Comparison:
    """Pairs in head order, heads of one run alone, the mean margin difference with its interval over `n` heads."""

    pairs: tuple[HeadPair, ...]
    only_a: tuple[Head, ...]
    only_b: tuple[Head, ...]
    n: int
    mean: float
    low: float
    high: float
    settings: tuple[tuple[str, str, str], ...]  # name, value in a, value in b, where they differ
    lenses: LensEffect | None = None  # where one run had readings that the other had not

    @property
    def changed(self) -> tuple[HeadPair, ...]:
        return tuple(pair for pair in self.pairs if pair.changed)

    def verdicts(self) -> dict[tuple[str, str], int]:
        """How many heads have each pair of verdicts."""
        return dict(Counter((p.a.judgement.verdict, p.b.judgement.verdict) for p in self.pairs))


def compare_runs(a: Path, b: Path, seed: int = 0) -> Comparison:
    """Compare two run folders. Raises RunFolderError for a folder that is no run, BadInput where no head is in both."""
    first, second = ({r.head: r for r in open_heads(folder).reports()} for folder in (a, b))
    shared = sorted(set(first) & set(second))
    if not shared:
        raise BadInput(f"{a} and {b} have no head in common. Compare two runs over the same heads.")
    pairs = tuple(HeadPair(h, first[h], second[h], _margin(second[h]) - _margin(first[h])) for h in shared)
    paired = PairedMean.of([pair.difference for pair in pairs], seed)
    configs = read_json(a / "config.json"), read_json(b / "config.json")
    scores = [_score_difference(pair.a, pair.b) for pair in pairs]
    return Comparison(
        pairs,
        tuple(sorted(set(first) - set(second))),
        tuple(sorted(set(second) - set(first))),
        paired.n,
        paired.mean,
        paired.low,
        paired.high,
        _different(*configs),
        lens_effect(*configs, [pair.difference for pair in pairs], scores, seed),
    )


def _state(report: HeadReport) -> tuple[str, str, str]:
    label = report.description.label if report.description is not None and report.status == "described" else ""
    return report.status, label or report.status, report.judgement.verdict


def _margin(report: HeadReport) -> float:
    group = margin_group(report)
    if group in NO_MARGIN:
        return math.nan
    return report.judgement.margin or 0.0 if group == "counted" else 0.0


def _score_difference(a: HeadReport, b: HeadReport) -> float:
    """NaN where either has no score, or another metric or domain."""
    ours, theirs = a.judgement, b.judgement
    if ours.score is None or theirs.score is None or (ours.metric, ours.domain) != (theirs.metric, theirs.domain):
        return math.nan
    return theirs.score - ours.score


def _different(a: Json, b: Json) -> tuple[tuple[str, str, str], ...]:
    flat = [{**{n: one.get("config", {}).get(n) for n in SETTINGS}, **{n: one.get(n) for n in FACTS}} for one in (a, b)]
    return tuple((n, _short(flat[0][n]), _short(flat[1][n])) for n in (*SETTINGS, *FACTS) if flat[0][n] != flat[1][n])


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def comparison_markdown(found: Comparison, names: tuple[str, str], *, every: bool = False) -> str:
    """The comparison as Markdown: what differs in the settings, totals, and the changed (or all) heads."""
    lines = [f"# {escape_markdown(names[0])} (a) against {escape_markdown(names[1])} (b)", ""]
    if found.settings:
        lines += ["The runs differ in settings that change scores, so differences are not of the explainer alone:", ""]
        lines += [f"- {name}: {escape_markdown(x)} (a), {escape_markdown(y)} (b)" for name, x, y in found.settings] + [
            ""
        ]
    lines += [
        f"{len(found.pairs)} heads in both runs, {len(found.changed)} of them with another label, verdict or status; "
        f"{len(found.only_a)} in a alone, {len(found.only_b)} in b alone.",
        "",
        _mean_line(found),
        *(["", *map(escape_markdown, found.lenses.sentences())] if found.lenses is not None else []),
        "",
        "| verdict a | verdict b | heads |",
        "|---|---|---|",
        *(f"| {x} | {y} | {n} |" for (x, y), n in sorted(found.verdicts().items(), key=lambda item: -item[1])),
        "",
    ]
    shown = found.pairs if every else found.changed
    if shown:
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        lines += ["| " + " | ".join(escape_markdown(_cell(v)) for v in pair.row().values()) + " |" for pair in shown]
    return "\n".join(lines) + "\n"


def _mean_line(found: Comparison) -> str:
    without = len(found.pairs) - found.n
    left_out = f"; {without} heads that equal a rule or rest on the first token have none" if without else ""
    if not found.n:
        return f"No head has a margin in both runs{left_out}."
    return (
        f"Mean margin difference (b - a): {found.mean:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f} over "
        f"{found.n} heads (bootstrap over heads){left_out}."
    )


def _cell(value: str | float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
