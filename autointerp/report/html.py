"""report.html: one self-contained page, built from templates with escaping on; data travels as JSON islands.

The table and the heat map come from one small island; each head's card is an island of its own that is read
only when the card is opened. Islands hold no `<`, `>` or `&` (escaped in the JSON), so that token text cannot
close them. A Content-Security-Policy allows this page's own script and style, by hash, and nothing else.

Size: up to `PLAIN_BYTES` of cards stand as JSON; above, each is deflated and base64-coded; where that would
still pass `PAGE_BYTES`, examples are cut to 5, 3, then 1 a stratum, then prompts are left out; heads.jsonl
keeps all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autointerp import __version__
from autointerp.records import LABELS, HeadReport
from autointerp.report.csv import COLUMNS, DETECTORS, Value
from autointerp.report.data import number, trimmed
from autointerp.report.figures import calibration, scatter
from autointerp.report.overview import Overview, text_of
from autointerp.report.summary import VERDICTS, Summary, margin_group

PLAIN_BYTES = 10_000_000
PAGE_BYTES = 24_000_000
_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = (
    "dom.js", "heatmap.js", "table.js", "words.js", "examples.js", "scorecard.js", "agent.js", "card.js", "main.js",
)  # fmt: skip
_TIERS = ((5, True), (3, True), (1, True), (1, False))
Json = dict[str, Any]
Tier = tuple[int, bool]  # examples of a stratum, and whether prompts are kept


@dataclass(frozen=True)
class HeadEntry:
    """One head on the page: its table row, its readings for the map, its card deflated, its card's size."""

    head: str
    row: tuple[Value, ...]
    labels: tuple[str, ...]
    group: str
    readings: tuple[tuple[str, str, float | int | None], ...]
    packed: bytes
    size: int

    @classmethod
    def of(cls, row: dict[str, Value], report: HeadReport, card: Json) -> HeadEntry:
        """The entry of a report, given its CSV row and its card."""
        text = island(card)
        short = (number(v, 4) if isinstance(v, float) else v for v in (row[name] for name in COLUMNS))
        return cls(
            head=str(report.head),
            row=tuple(short),
            labels=report.description.labels if report.description is not None else (),
            group=margin_group(report),
            readings=tuple((r.name, r.data, number(r.value, 4)) for r in report.evidence.readings),
            packed=zlib.compress(text.encode(), 6),
            size=len(text),
        )


def island(value: object) -> str:
    """`value` as ASCII JSON that is safe inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def page(overview: Overview, entries: Sequence[HeadEntry]) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    cards, packed, tier = _fitting_cards(entries)
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    body = "\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f"'use strict';\n(() => {{\n{body}\n}})();\n"
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["text"] = text_of
    return environment.get_template("page.html.j2").render(
        overview=overview,
        summary=overview.summary,
        verdicts=[(name, overview.summary.verdicts[name]) for name in VERDICTS],
        tiles=_tiles(overview.summary),
        curve=_curve(overview.summary),
        scatter=scatter(overview.summary),
        calibration=calibration(overview.summary),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        index=Markup(island(_index(overview, entries, tier))),
        cards=[(head, Markup(text)) for head, text in cards],
        packed=packed,
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _fitting_cards(entries: Sequence[HeadEntry]) -> tuple[list[tuple[str, str]], bool, Tier | None]:
    """Cards as texts, whether they are deflated, and the tier of cutting that was needed."""
    if sum(entry.size for entry in entries) <= PLAIN_BYTES:
        return [(entry.head, zlib.decompress(entry.packed).decode()) for entry in entries], False, None
    room = PAGE_BYTES - 1_000_000 - 700 * len(entries)  # the page itself, and the table's rows
    for tier in (None, *_TIERS):
        if tier is not _TIERS[-1] and _estimate(entries, tier) > room:
            continue  # a sample says that it will not fit; saves packing every card
        cards = [(entry.head, base64.b64encode(_repacked(entry, tier)).decode()) for entry in entries]
        if sum(len(text) for _, text in cards) <= room:
            break
    return cards, True, tier


def _estimate(entries: Sequence[HeadEntry], tier: Tier | None) -> float:
    sample = entries[:: max(1, len(entries) // 24)]
    return len(entries) / len(sample) * sum(len(_repacked(entry, tier)) * 4 / 3 for entry in sample)


def _repacked(entry: HeadEntry, tier: Tier | None) -> bytes:
    if tier is None:
        return entry.packed
    per_stratum, with_prompts = tier
    card = json.loads(zlib.decompress(entry.packed))
    return zlib.compress(island(trimmed(card, per_stratum, with_prompts=with_prompts)).encode(), 6)


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
        "cut": tier,
    }


def _value_of(entry: HeadEntry, pair: tuple[str, str]) -> float | int | None:
    return next((value for name, data, value in entry.readings if (name, data) == pair), None)


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Value, name and explanation of the large numbers at the top."""
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


def _curve(summary: Summary) -> Json | None:
    """The risk-coverage curve as SVG coordinates in a 220 x 90 box, or None with fewer than 2 points."""
    points = summary.risk_coverage
    if len(points) < 2:
        return None
    low = min(0.0, *(margin for _, margin in points))
    high = max(0.05, *(margin for _, margin in points))
    spread = high - low

    def at(x: float, y: float) -> str:
        return f"{220 * x:.1f},{90 * (high - y) / spread:.1f}"

    line = " ".join(at(x, y) for x, y in points)
    return {"line": line, "zero": f"{90 * high / spread:.1f}", "low": f"{low:.2g}", "high": f"{high:.2g}",
            "end": f"{points[-1][1]:.3g}", "finite": math.isfinite(spread)}  # fmt: skip
