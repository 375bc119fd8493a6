"""Two runs side by side: which units changed, and by how much the margins differ.

1. Units that both runs hold are paired; those of one run alone are listed. A run over heads and one over neurons or
   latents have nothing to compare.
2. The margin difference of a pair counts an abstention, a failure and an unscored description as 0; a unit that
   equals a rule, rests on the first token, or is dead or dense in either run has no margin, and its pair is counted
   apart.
3. The interval of the mean difference is a bootstrap over units, paired.
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
from autointerp.records import Feature, Unit
from autointerp.report.folder import Json, holds_features, open_features, open_heads, read_json
from autointerp.report.lens_effect import LensEffect, PairedMean, lens_effect
from autointerp.report.nouns import FEATURES, HEADS, Nouns, Report, feature_nouns
from autointerp.report.summary import margin_group
from autointerp.tokentext import escape_markdown

SETTINGS = ("model", "corpus", "context", "max_tokens", "seed", "scorers", "heads")
UNIT_SETTINGS = ("units", "select", "sample")  # not there in older runs, empty in runs over heads
FACTS = ("model_revision", "dtype", "bos_rule", "corpus_hash", "processing")
_SHARED = (
    "label_a", "label_b", "verdict_a", "verdict_b", "score_a", "score_b", "margin_a", "margin_b", "difference",
)  # fmt: skip
COLUMNS = ("head", *_SHARED)
FEATURE_COLUMNS = ("unit", *_SHARED)
NO_MARGIN = ("equals a rule", "rests on the first token", "dead", "dense")


@dataclass(frozen=True)
class UnitPair:
    """One unit in both runs; `difference` is margin b - a, NaN where either has no margin."""

    unit: Unit
    a: Report
    b: Report
    difference: float

    @property
    def changed(self) -> bool:
        """Another status, label or verdict."""
        return _state(self.a) != _state(self.b)

    def row(self) -> dict[str, str | float | None]:
        """The pair under COLUMNS, or FEATURE_COLUMNS."""
        (_, label_a, verdict_a), (_, label_b, verdict_b) = _state(self.a), _state(self.b)
        margins = [None if math.isnan(m) else m for m in (_margin(self.a), _margin(self.b), self.difference)]
        scores = self.a.judgement.score, self.b.judgement.score
        cells = (str(self.unit), label_a, label_b, verdict_a, verdict_b, *scores, *margins)
        return dict(zip(columns_of(self.unit), cells, strict=True))


@dataclass(frozen=True)
class Comparison:
    """Pairs in order, units of one run alone, the mean margin difference with its interval over `n` units."""

    pairs: tuple[UnitPair, ...]
    only_a: tuple[Unit, ...]
    only_b: tuple[Unit, ...]
    n: int
    mean: float
    low: float
    high: float
    settings: tuple[tuple[str, str, str], ...]  # name, value in a, value in b, where they differ
    lenses: LensEffect | None = None  # where one run had readings that the other had not
    nouns: Nouns = HEADS

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the rows of its pairs."""
        return COLUMNS if self.nouns is HEADS else FEATURE_COLUMNS

    @property
    def changed(self) -> tuple[UnitPair, ...]:
        return tuple(pair for pair in self.pairs if pair.changed)

    def verdicts(self) -> dict[tuple[str, str], int]:
        """How many units have each pair of verdicts."""
        return dict(Counter((p.a.judgement.verdict, p.b.judgement.verdict) for p in self.pairs))


def compare_runs(a: Path, b: Path, seed: int = 0) -> Comparison:
    """Compare two run folders. Raises RunFolderError for a folder that is no run, BadInput where no unit is in both."""
    (first, nouns), (second, other) = (_reports(folder) for folder in (a, b))
    if (nouns is HEADS) != (other is HEADS):
        which = f"{a} is a run over {nouns.many}, {b} one over {other.many}"
        raise BadInput(f"{which}: there is nothing to compare. Give two runs over the same units.")
    shared = sorted(set(first) & set(second), key=order)
    if not shared:
        one, many = nouns.one, nouns.many
        raise BadInput(f"{a} and {b} have no {one} in common. Compare two runs over the same {many}.")
    pairs = tuple(UnitPair(u, first[u], second[u], _margin(second[u]) - _margin(first[u])) for u in shared)
    paired = PairedMean.of([pair.difference for pair in pairs], seed)
    configs = read_json(a / "config.json"), read_json(b / "config.json")
    scores = [_score_difference(pair.a, pair.b) for pair in pairs]
    return Comparison(
        pairs,
        tuple(sorted(set(first) - set(second), key=order)),
        tuple(sorted(set(second) - set(first), key=order)),
        paired.n,
        paired.mean,
        paired.low,
        paired.high,
        _different(*configs),
        lens_effect(*configs, [pair.difference for pair in pairs], scores, seed),
        nouns if nouns is other else FEATURES,
    )


def _reports(folder: Path) -> tuple[dict[Unit, Report], Nouns]:
    """The reports of a run by unit, and what its units are called."""
    if not holds_features(folder):
        return {report.head: report for report in open_heads(folder).reports()}, HEADS
    features = open_features(folder)
    found: dict[Unit, Report] = {report.unit: report for report in features.reports()}
    return found, feature_nouns(unit for unit, _ in features.places)


def order(unit: Unit) -> tuple[str, int, int]:
    """Heads, latents and neurons, each by layer and index."""
    return unit.kind if isinstance(unit, Feature) else "", unit.layer, unit.index


def columns_of(unit: Unit) -> tuple[str, ...]:
    """Of the rows of a comparison."""
    return FEATURE_COLUMNS if isinstance(unit, Feature) else COLUMNS


def _state(report: Report) -> tuple[str, str, str]:
    label = report.description.label if report.description is not None and report.status == "described" else ""
    return report.status, label or report.status, report.judgement.verdict


def _margin(report: Report) -> float:
    group = margin_group(report)
    if group in NO_MARGIN:
        return math.nan
    return report.judgement.margin or 0.0 if group == "counted" else 0.0


def _score_difference(a: Report, b: Report) -> float:
    """NaN where either has no score, or another metric or domain."""
    ours, theirs = a.judgement, b.judgement
    if ours.score is None or theirs.score is None or (ours.metric, ours.domain) != (theirs.metric, theirs.domain):
        return math.nan
    return theirs.score - ours.score


def _different(a: Json, b: Json) -> tuple[tuple[str, str, str], ...]:
    first, second = (_settings(one) for one in (a, b))
    return tuple((n, _short(first[n]), _short(second[n])) for n in first if first[n] != second[n])


def _settings(run: Json) -> Json:
    config = run.get("config", {})
    found = {name: config.get(name) for name in SETTINGS} | {name: config.get(name) or None for name in UNIT_SETTINGS}
    units = run.get("units")  # two autoencoders can have lain at one path
    sae = units.get("file") if isinstance(units, dict) else None
    return found | {"autoencoder": sae} | {name: run.get(name) for name in FACTS}


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def comparison_markdown(found: Comparison, names: tuple[str, str], *, every: bool = False) -> str:
    """The comparison as Markdown: what differs in the settings, totals, and the changed (or all) units."""
    lines = [f"# {escape_markdown(names[0])} (a) against {escape_markdown(names[1])} (b)", ""]
    if found.settings:
        lines += ["The runs differ in settings that change scores, so differences are not of the explainer alone:", ""]
        lines += [f"- {name}: {escape_markdown(x)} (a), {escape_markdown(y)} (b)" for name, x, y in found.settings] + [
            ""
        ]
    lines += [
        f"{found.nouns.count(len(found.pairs))} in both runs, {len(found.changed)} of them with another label, "
        "verdict or status; "
        f"{len(found.only_a)} in a alone, {len(found.only_b)} in b alone.",
        "",
        _mean_line(found),
        *(["", *map(escape_markdown, found.lenses.sentences())] if found.lenses is not None else []),
        "",
        f"| verdict a | verdict b | {found.nouns.many} |",
        "|---|---|---|",
        *(f"| {x} | {y} | {n} |" for (x, y), n in sorted(found.verdicts().items(), key=lambda item: -item[1])),
        "",
    ]
    shown = found.pairs if every else found.changed
    if shown:
        lines += ["| " + " | ".join(found.columns) + " |", "|---" * len(found.columns) + "|"]
        lines += ["| " + " | ".join(escape_markdown(_cell(v)) for v in pair.row().values()) + " |" for pair in shown]
    return "\n".join(lines) + "\n"


def _mean_line(found: Comparison) -> str:
    without, nouns = len(found.pairs) - found.n, found.nouns
    which = "rest on the first token" if nouns is HEADS else "are dead or dense"
    left_out = f"; {without} {nouns.many} that equal a rule or {which} have none" if without else ""
    if not found.n:
        return f"No {nouns.one} has a margin in both runs{left_out}."
    return (
        f"Mean margin difference (b - a): {found.mean:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f} over "
        f"{nouns.count(found.n)} (bootstrap over {nouns.many}){left_out}."
    )


def _cell(value: str | float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
