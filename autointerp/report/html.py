"""report.html of a run over heads: one self-contained page; data travels as JSON islands (`frame`).

The table and the heat map come from one small island; each head's card is an island of its own that is read
only when the card is opened. Size: up to `PLAIN_BYTES` of cards stand as JSON; above, they are packed, and cut to
`PAGE_BYTES` (`packing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.records import LABELS, HeadReport
from autointerp.report.csv import COLUMNS, DETECTORS, Row, Value
from autointerp.report.data import number, trimmed
from autointerp.report.frame import Tile, island, render, shown
from autointerp.report.overview import Overview, text_of
from autointerp.report.packing import PackedCard, Packing, Tier
from autointerp.report.summary import VERDICTS, Summary, margin_group

PLAIN_BYTES = 10_000_000
PAGE_BYTES = 24_000_000
_STYLES = ("page.css",)
_SCRIPTS = (
    "dom.js", "heads.js", "heatmap.js", "head_table.js", "table.js", "words.js", "examples.js", "scorecard.js",
    "agent.js", "card.js", "head_card.js", "main.js",
)  # fmt: skip
_TIERS = ((5, True), (3, True), (1, True), (1, False))
Json = dict[str, Any]


@dataclass(frozen=True)
class HeadEntry:
    """One head on the page: its table row, its readings for the map, its card."""

    row: tuple[Value, ...]
    labels: tuple[str, ...]
    group: str
    readings: tuple[tuple[str, str, float | int | None], ...]
    card: PackedCard

    @classmethod
    def of(cls, row: Row, report: HeadReport, card: Json) -> HeadEntry:
        """The entry of a report, given its CSV row and its card."""
        short = (number(v, 4) if isinstance(v, float) else v for v in (row[name] for name in COLUMNS))
        return cls(
            row=tuple(short),
            labels=report.description.labels if report.description is not None else (),
            group=margin_group(report),
            readings=tuple((r.name, r.data, number(r.value, 4)) for r in report.evidence.readings),
            card=PackedCard.of(str(report.head), island(card)),
        )


def page(overview: Overview, entries: Sequence[HeadEntry]) -> str:
    """The whole page."""
    room = PAGE_BYTES - 1_000_000 - 700 * len(entries)  # the page itself, and the table's rows
    cards = Packing(PLAIN_BYTES, room, _TIERS, cut_card).pack([entry.card for entry in entries])
    index = _index(overview, entries, cards.tier)
    values = shown(overview, _tiles(overview.summary), index, cards)
    return render("page.html.j2", _SCRIPTS, _STYLES, values | {"has_map": True})


def cut_card(card: Json, tier: Tier) -> str:
    """The card of a tier as an island's text."""
    per_stratum, with_prompts = tier
    return island(trimmed(card, per_stratum, with_prompts=with_prompts))


def _index(overview: Overview, entries: Sequence[HeadEntry], tier: Tier | None) -> Json:
    names = list(dict.fromkeys((name, data) for entry in entries for name, data, _ in entry.readings))
    extra = [pair for pair in names if not (pair[1] == "repeats" and pair[0] in DETECTORS)]
    return {
        "columns": COLUMNS,
        "rows": [entry.row for entry in entries],
        "labels": [entry.labels for entry in entries],
        "groups": [entry.group for entry in entries],
        "readings": extra,
        "values": [[_value_of(entry, pair) for pair in extra] for entry in entries],
        "all_labels": LABELS,
        "verdicts": VERDICTS,
        "command": overview.command,
        "nouns": nouns_json(overview),
        "cut": tier,
    }


def nouns_json(overview: Overview) -> Json:
    """What the page's scripts call the units."""
    nouns = overview.nouns
    return {"one": nouns.one, "many": nouns.many, "file": f"{nouns.file}.jsonl", "mass": nouns.mass}


def _value_of(entry: HeadEntry, pair: tuple[str, str]) -> float | int | None:
    return next((value for name, data, value in entry.readings if (name, data) == pair), None)


def _tiles(summary: Summary) -> list[Tile]:
    total = summary.n_total
    tested = f"over {len(summary.margins)} described heads" if summary.margins else "no head has a margin"
    return [
        (str(summary.status["described"]), "described", f"of {total} heads"),
        (str(summary.status["abstained"]), "abstained", "count as margin 0"),
        (str(summary.status["failed"]), "failed", "count as margin 0"),
        (str(summary.n_unscored), "unscored", "described, no verdict"),
        (text_of(summary.mean_margin_described), "mean margin", tested),
        (text_of(summary.mean_margin_all), "mean margin, all", f"over {summary.n_in_all_mean} heads"),
    ]
