"""Parts of the study's page: classes of heads, what the writers write, copying, MLPs."""

from __future__ import annotations

from html import escape

import numpy as np

from autointerp.circuit_records import CircuitHead
from autointerp.records import Interval
from autointerp.stats.bootstrap import Estimate
from autointerp.studies.ioi import IoiStudy
from autointerp.studies.ioi_classes import CLASSES
from autointerp.studies.ioi_copying import Direction
from autointerp.studies.ioi_table import table
from autointerp.tokentext import printable

PUBLISHED_CLASSES = {
    "name_mover": "9.9 9.6 10.0", "negative_mover": "10.7 11.10",
    "backup_mover": "9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9", "s_inhibition": "7.3 7.9 8.6 8.10",
    "induction": "5.5 6.9 (5.8 5.9)", "duplicate_token": "0.1 3.0 (0.10)", "previous_token": "2.2 4.11",
}  # fmt: skip
PUBLISHED_MLPS = {"all but MLP 0": "-1.1", "MLP 0": "the sign flips"}
WIDTH, HEIGHT, MARGIN = 300, 240, 42
COLOURS = ("#1f6fb4", "#c2571a")


def classes_table(study: IoiStudy) -> str:
    """Every class with its heads and the numbers that qualified them; `none found` where there is none."""
    head = ["class", "head", "test", "number", "looks", "attention there"]
    rows: list[list[str]] = []
    for kind in CLASSES:
        found = study.classes.of(kind)
        published = PUBLISHED_CLASSES.get(kind, "") if study.gpt2_small else ""
        name = f"{kind} (published {published})" if published else kind
        rows += [[name, *_row(one)] for one in found] or [[name, "none found", "", "", "", ""]]
    notes = "".join(f'<p class="note">{escape(printable(note))}</p>' for note in study.classes.notes)
    told = (
        "<p>Classes by the definitions of arXiv 2211.00593. A path's number is the change of the logit difference when "
        "that path alone carries another prompt (negative: the head helps); a backup's is the rise of its direct "
        "attribution once the movers are out. other_writer is no class of the paper: it writes the answer, but does "
        "not look at IO more than at S.</p>"
    )
    return told + notes + table(head, rows)


def _row(one: CircuitHead) -> list[str]:
    return [str(one.head), one.evidence, _told(one.effect), one.looks_at, _told(one.attention) if one.attention else ""]


def _told(value: Estimate | Interval) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def mlp_table(study: IoiStudy) -> str:
    """Logit difference with MLPs out."""
    rows = []
    for name, value in study.mlps.logit_diff.items():
        published = f" (published: {PUBLISHED_MLPS[name]})" if study.gpt2_small and name in PUBLISHED_MLPS else ""
        rows.append([name, _told(value) + published])
    told = "<p>An MLP's output is replaced by its mean over the reference prompts of the same template.</p>"
    return told + table(["out", "logit difference"], rows)


def direction_figures(study: IoiStudy) -> str:
    """A scatter a writer: attention from END to a name beside what is written along it."""
    published = " Published: above 0.81 for the movers." if study.gpt2_small else ""
    told = (
        "<p>Each prompt gives a point for IO (blue) and one for S (orange): attention from END to the name (S1 and S2 "
        "together for S) against what the head writes along the name at END, centred, before the final norm's divisor. "
        f"A mover copies: the two rise together.{published}</p>"
    )
    return told + "".join(_scatter(one) for one in study.directions)


def _scatter(one: Direction) -> str:
    low, high = float(one.written.min()), float(one.written.max())
    spread = (high - low) or 1.0
    zero = HEIGHT - MARGIN - (0 - low) / spread * (HEIGHT - 2 * MARGIN)
    title = f"{one.head}: correlation {_told(one.correlation)}"
    parts = [
        f'<svg role="img" aria-label="{escape(title)}" width="{WIDTH}" height="{HEIGHT}">',
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{WIDTH - 2 * MARGIN}" height="{HEIGHT - 2 * MARGIN}" fill="#fafafa"/>',
    ]
    if low < 0 < high:
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{zero:.1f}" y2="{zero:.1f}" stroke="#aaa"/>')
    for name in (1, 0):
        for x, y in zip(one.attention[name], one.written[name], strict=True):
            across = MARGIN + float(np.clip(x, 0, 1)) * (WIDTH - 2 * MARGIN)
            down = HEIGHT - MARGIN - (y - low) / spread * (HEIGHT - 2 * MARGIN)
            parts.append(
                f'<circle cx="{across:.1f}" cy="{down:.1f}" r="2" fill="{COLOURS[name]}" fill-opacity="0.55"/>'
            )
    for x in (0, 1):
        place = MARGIN + x * (WIDTH - 2 * MARGIN)
        parts.append(f'<text x="{place}" y="{HEIGHT - MARGIN + 14}" text-anchor="middle">{x}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">attention END to name</text>')
    for y, value in ((HEIGHT - MARGIN, low), (MARGIN, high)):
        parts.append(f'<text x="{MARGIN - 4}" y="{y + 4}" text-anchor="end">{value:.2g}</text>')
    drawn = "".join(parts) + "</svg>"
    return f'<figure style="display:inline-block"><figcaption>{escape(title)}</figcaption>{drawn}</figure>'
