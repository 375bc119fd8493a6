"""What every report page is made of: a template, one style and one script by hash, data as JSON islands.

Islands hold no `<`, `>` or `&` (escaped in the JSON), so that token text cannot close them. A Content-Security-Policy
allows this page's own script and style, by hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autointerp import __version__
from autointerp.report.figures import calibration, scatter
from autointerp.report.overview import Overview, text_of
from autointerp.report.packing import Cards
from autointerp.report.summary import VERDICTS, Summary

_TEMPLATES = Path(__file__).parent / "templates"
MOST_POINTS = 400  # of a curve; the eye sees no more
Json = dict[str, Any]
Tile = tuple[str, str, str]  # value, name and explanation of a large number at the top


def island(value: object) -> str:
    """`value` as ASCII JSON that is safe inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def render(template: str, scripts: Sequence[str], styles: Sequence[str], values: Mapping[str, object]) -> str:
    """A page of one of our templates with these scripts, as one, and these styles."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = "".join(_read(name) for name in styles)
    script = "'use strict';\n(() => {\n" + "\n".join(_read(name) for name in scripts) + "\n})();\n"
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["text"] = text_of
    return environment.get_template(template).render(
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        **values,
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def shown(overview: Overview, tiles: Sequence[Tile], index: Json, cards: Cards) -> Json:
    """What the templates of a run's page need."""
    from markupsafe import Markup

    summary = overview.summary
    return {
        "overview": overview,
        "nouns": overview.nouns,
        "summary": summary,
        "verdicts": [(name, summary.verdicts[name]) for name in VERDICTS],
        "tiles": tiles,
        "curve": _curve(summary),
        "scatter": scatter(summary),
        "calibration": calibration(summary),
        "index": Markup(island(index)),
        "cards": [(name, Markup(text)) for name, text in cards.islands],
        "packed": cards.packed,
    }


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

    step = max(1, len(points) // MOST_POINTS)
    line = " ".join(at(x, y) for x, y in (*points[:-1:step], points[-1]))
    return {"line": line, "zero": f"{90 * high / spread:.1f}", "low": f"{low:.2g}", "high": f"{high:.2g}",
            "end": f"{points[-1][1]:.3g}", "finite": math.isfinite(spread)}  # fmt: skip
