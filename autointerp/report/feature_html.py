"""report.html of a run over neurons or latents: a table that scales to all units of a model, and the same cards.

The small island is a store of columns: numbers of all units, and what was said of the reported ones. Cards are packed
`GROUP` to an island (`packing`), since they share most of their words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.feature_records import FEATURE_LABELS, FeatureReport
from autointerp.records import Feature
from autointerp.report.csv import Row, Value
from autointerp.report.data import number, trimmed
from autointerp.report.feature_csv import COLUMNS
from autointerp.report.feature_overview import FeatureOverview
from autointerp.report.feature_units import NUMBERS, STATES, numbers_of
from autointerp.report.frame import Tile, island, render, shown
from autointerp.report.html import nouns_json
from autointerp.report.nouns import LATENTS
from autointerp.report.overview import text_of
from autointerp.report.packing import Cards, PackedCard, Packing, Tier
from autointerp.report.summary import VERDICTS, margin_group

PLAIN_BYTES = 4_000_000
PAGE_BYTES = 24_000_000
GROUP = 32
_ELSEWHERE = {"unit", "layer", "index", "density", "active_share", "maximum", "state", "k", "rounds"}
TOLD = tuple(name for name in COLUMNS if name not in _ELSEWHERE)
_STYLES = ("page.css", "feature_page.css")
_SCRIPTS = (
    "dom.js", "feature_store.js", "heatmap.js", "feature_table.js", "table.js", "scorecard.js", "agent.js", "card.js",
    "feature_examples.js", "feature_card.js", "main.js",
)  # fmt: skip
_TIERS = ((5, True), (3, True), (3, False), (1, False), (0, False), (-1, False))  # at 0 one of the strongest is kept
Json = dict[str, Any]


@dataclass(frozen=True)
class FeatureEntry:
    """One reported unit on the page: what was said of it under TOLD, its numbers, its card."""

    unit: Feature
    told: tuple[Value, ...]
    labels: tuple[str, ...]
    group: str
    state: str
    numbers: tuple[float | int | None, ...]
    card: PackedCard

    @classmethod
    def of(cls, row: Row, report: FeatureReport, card: Json) -> FeatureEntry:
        """The entry of a report, given its CSV row and its card."""
        return cls(
            unit=report.unit,
            told=tuple(number(v, 4) if isinstance(v, float) else v for v in (row[name] for name in TOLD)),
            labels=report.description.labels if report.description is not None else (),
            group=margin_group(report),
            state=report.evidence.stats.state,
            numbers=tuple(numbers_of(report)),
            card=PackedCard.of(str(report.unit), island(card)),
        )


def feature_page(overview: FeatureOverview, entries: Sequence[FeatureEntry]) -> str:
    """The whole page; `overview.units` must hold the units of all entries."""
    first = sorted(entries, key=lambda entry: entry.group in {"dead", "dense"})  # their cards give way, where any must
    room = PAGE_BYTES - 1_000_000 - 70 * len(overview.units) - 400 * len(entries)
    cards = Packing(PLAIN_BYTES, room, _TIERS, cut_feature_card, GROUP).pack([entry.card for entry in first])
    values = shown(overview, _tiles(overview), _index(overview, first, cards), cards)
    return render("feature_page.html.j2", _SCRIPTS, _STYLES, values | {"has_map": overview.nouns is not LATENTS})


def cut_feature_card(card: Json, tier: Tier) -> str:
    """The card of a tier as an island's text."""
    per_stratum, with_prompts = tier
    cut = trimmed(card, max(1, per_stratum), with_prompts=with_prompts)
    if per_stratum < 1:
        kept = [one for one in cut["examples"] if one["stratum"] == "top"][: per_stratum + 1]
        cut |= {"examples": kept, "omitted": cut["omitted"] + len(cut["examples"]) - len(kept)}
    return island(cut)


def _index(overview: FeatureOverview, entries: Sequence[FeatureEntry], cards: Cards) -> Json:
    rows = overview.units
    places = {unit: i for i, unit in enumerate(rows.units)}
    return {
        "units": [str(unit) for unit in rows.units],
        "layers": [unit.layer for unit in rows.units],
        "numbers": {name: rows.numbers[name] for name in NUMBERS if name in rows.numbers},
        "states": [STATES.index(state) if state in STATES else 0 for state in rows.states],
        "state_names": STATES,
        "reported": [places[entry.unit] for entry in entries],
        "told": {name: [entry.told[i] for entry in entries] for i, name in enumerate(TOLD)},
        "labels": [entry.labels for entry in entries],
        "groups": [entry.group for entry in entries],
        "group": GROUP,
        "map": overview.nouns is not LATENTS,
        "readings": [],
        "all_labels": FEATURE_LABELS,
        "verdicts": VERDICTS,
        "command": overview.command,
        "nouns": nouns_json(overview),
        "cut": cards.tier,
        "left_out": cards.left_out,
    }


def _tiles(overview: FeatureOverview) -> list[Tile]:
    summary, many, states = overview.summary, overview.nouns.many, overview.states
    tested = f"over {len(summary.margins):,} described" if summary.margins else "none has a margin"
    everything = f"of {len(overview.units):,} {many}"
    return [
        (text_of(summary.status["described"]), "described", f"of {overview.nouns.count(summary.n_total)} reported"),
        (text_of(summary.groups["abstained"]), "abstained", "count as margin 0"),
        (text_of(summary.status["failed"]), "failed", "count as margin 0"),
        (text_of(summary.n_unscored), "unscored", "described, no verdict"),
        (text_of(states["dead"]), "dead", f"{everything}: never active"),
        (text_of(states["dense"]), "dense", f"{everything}: active in most positions"),
        (text_of(summary.mean_margin_described), "mean margin", tested),
        (text_of(summary.mean_margin_all), "mean margin, all", f"over {summary.n_in_all_mean:,}"),
    ]
