"""The study as a page, and as one dictionary. Published numbers stand beside ours where the model is GPT-2 small.

Published: arXiv 2211.00593, 100 000 prompts of other templates without BOS; sign and order are comparable, not digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from autointerp.circuits.cells import CellTable
from autointerp.circuits.heat_map import STYLE, figure
from autointerp.records import Head
from autointerp.stats.bootstrap import Estimate
from autointerp.studies.ioi import ROLES, IoiStudy
from autointerp.studies.ioi_classes import CLASSES
from autointerp.studies.ioi_figures import classes_table, direction_figures, mlp_table
from autointerp.studies.ioi_table import Row, table
from autointerp.tokentext import printable

PUBLISHED = {
    "clean": (3.56, 0.993, 0.49),
    "IO named once more": (1.23, 0.766, 0.36),
    "S named once more": (3.64, 0.996, 0.59),
}
PUBLISHED_SIGNALS = {
    ("original", "original"): 3.55, ("random", "original"): 2.45, ("inverted", "original"): 1.77,
    ("original", "inverted"): -0.99, ("random", "inverted"): -1.96, ("inverted", "inverted"): -3.16,
}  # fmt: skip


def summary(study: IoiStudy) -> dict[str, object]:
    """The numbers that a reader asks first, as plain values."""
    faithful = study.faithfulness
    return {
        "model": study.model,
        "n_prompts": study.n_prompts,
        "logit_diff": _round(study.performance["clean"].logit_diff),
        "io_over_s": _round(study.performance["clean"].io_over_s),
        "p_io": _round(study.performance["clean"].probability),
        "movers": [str(head) for head in study.stages[0].helping],
        "negative_movers": [str(head) for head in study.stages[0].hurting],
        "classes": {kind: [str(one.head) for one in study.classes.of(kind)] for kind in CLASSES},
        "stages": [
            {"into": stage.into, "receivers": [str(h) for h in stage.receivers], "position": stage.position,
             "senders": [str(h) for h in stage.senders]}
            for stage in study.stages
        ],
        "circuit": [str(node) for node in sorted(study.circuit)],
        "faithfulness": {"circuit": _round(faithful.circuit.value), "model": _round(faithful.model.value),
                         "gap": _round(faithful.gap), "ratio": _round(faithful.ratio.value),
                         "ratio_low": _round(faithful.ratio.low), "ratio_high": _round(faithful.ratio.high),
                         "setting": str(faithful.setting)},
        "incompleteness": _round(max(one.score for one in study.completeness.knockouts)),
        "least_minimality": _round(min(need.share.value for need in study.minimality.nodes)),
    }  # fmt: skip


def _round(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def page(study: IoiStudy) -> str:
    """A self-contained page without scripts."""
    title = escape(printable(f"Indirect objects in {study.model}"))
    parts = [f"<h1>{title}</h1>", f"<p>{study.n_prompts} prompts.</p>"]
    parts += [f'<p class="note">{escape(printable(note))}</p>' for note in study.notes]
    parts += [_section("Performance", table(*_performance(study))), _section("Classes of heads", classes_table(study)),
              _stages(study), _circuit(study)]  # fmt: skip
    parts.append(_section("Token and position of S", table(*_signals(study))))
    parts.append(_section("What the writers write", direction_figures(study)))
    parts.append(_section("MLPs knocked out", mlp_table(study)))
    parts.append(_section("The heads elsewhere", _about_elsewhere(study) + table(*_elsewhere(study))))
    parts.append(_map("Direct attribution", study.attribution))
    parts += [_map(f"Patching z, {direction}", table) for direction, table in study.patching.items()]
    backup = study.classes.backup
    before, after = backup.logit_diff
    told = (
        f"<p>Logit difference {before:.3f} before, {after:.3f} after; the attributions lost would leave "
        f"{backup.predicted:.3f}. The final norm's divisor changes by {backup.scale_ratio:.3f}.</p>"
    )
    parts.append(_map(f"Attribution after {backup.change.settings['taken_out']} is taken out", backup.change, told))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    view = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    return f'<!doctype html><html lang="en"><head>{head}{view}</head><body>{"".join(parts)}</body></html>\n'


def _about_elsewhere(study: IoiStudy) -> str:
    copies, suppresses = study.copying.average()
    published = "; published: movers above 95 %, average head below 20 %, negative movers 98 % suppressed against 12 %"
    return (
        "<p>The circuit's heads on repeated random tokens (value and rank among all heads), where they look in "
        "the task, and two copying scores that differ. copying (detector): single tokens as the head's own layer sees "
        "them. "
        f"copied, suppressed (paper): {study.copying.n} names of the prompts after the first MLP, share among the 5 "
        f"highest and the 5 lowest logits; average head {copies:.0%} and {suppresses:.0%}"
        f"{published if study.gpt2_small else ''}.</p>"
    )


def _performance(study: IoiStudy) -> tuple[Row, list[Row]]:
    head = ["prompts", "logit difference", "right name ahead", "P(right name)", "n"]
    rows: list[Row] = []
    for name, one in study.performance.items():
        own = [f"{one.logit_diff:.3f}", f"{one.io_over_s:.1%}", f"{one.probability:.3f}"]
        if study.gpt2_small and name in PUBLISHED:
            published = PUBLISHED[name]
            told = (f"{published[0]}", f"{published[1]:.1%}", f"{published[2]}")
            own = [f"{a} (published {b})" for a, b in zip(own, told, strict=True)]
        rows.append([name, *own, str(one.n)])
    return head, rows


def _stages(study: IoiStudy) -> str:
    head = ["into", "of", "at", "senders that help (effect on the logit difference when replaced)", "that hurt"]
    rows = [
        [stage.into, ", ".join(map(str, stage.receivers)) or "-", stage.position, _senders(stage.table, stage.helping),
         _senders(stage.table, stage.hurting)]
        for stage in study.stages
    ]  # fmt: skip
    maps = "".join(
        _map(
            f"Into {stage.into} of {', '.join(map(str, stage.receivers)) or 'the model'} at {stage.position}",
            stage.table,
        )
        for stage in study.stages
        if stage.senders
    )
    return _section("From the answer back", table(head, rows)) + maps


def _senders(table: CellTable, heads: Sequence[Head]) -> str:
    place = {(cell.layer, cell.head): n for n, cell in enumerate(table.cells)}
    told = []
    for head in heads:
        n = place[head.layer, head.index]
        told.append(f"{head} {table.mean[n]:.3f} [{table.numbers['low'][n]:.3f}, {table.numbers['high'][n]:.3f}]")
    return "; ".join(told) or "none"


def _circuit(study: IoiStudy) -> str:
    faithful = study.faithfulness
    nodes = ", ".join(map(str, sorted(study.circuit)))
    told = f"<p>{escape(printable(nodes))}</p><p>{escape(printable(str(faithful)))}</p>"
    sets: list[Row] = [
        [one.name, str(len(one.nodes)), f"{one.circuit:.3f}", f"{one.model:.3f}", _told(one.difference)]
        for one in study.completeness.knockouts
    ]
    needs: list[Row] = [
        [str(need.node), need.k, f"{need.with_node:.3f}", f"{need.without:.3f}", _told(need.share)]
        for need in study.minimality.nodes
    ]
    setting = f"<p>{escape(printable(str(study.completeness.setting)))}</p>"
    return (
        _section("The circuit", told)
        + _section("Completeness", setting + table(["K", "nodes", "F(C \\ K)", "F(M \\ K)", "difference"], sets))
        + _section("Minimality", setting + table(["node", "K", "F(C \\ K)", "F(C \\ (K + v))", "share of F(M)"], needs))
    )


def _signals(study: IoiStudy) -> tuple[Row, list[Row]]:
    rows: list[Row] = []
    for position, found in study.signals.items():
        for (token, place), value in found.logit_diff.items():
            published = (
                f" (published {PUBLISHED_SIGNALS[token, place]})" if study.gpt2_small and position == "END" else ""
            )
            rows.append([position, token, place, _told(value) + published])
        fit = f"{_told(found.position)} x position + {_told(found.token)} x token, mean error {found.error:.0%}"
        rows.append([position, "fit", "", fit])
    return ["heads at", "token", "position", "logit difference"], rows


def _elsewhere(study: IoiStudy) -> tuple[Row, list[Row]]:
    names = [
        name
        for name in ("previous_token", "duplicate_token", "induction", "copying")
        if name in study.validation.values
    ]
    rows: list[Row] = []
    for node in sorted(study.circuit):
        number = study.validation.heads.index(node.head)
        values = [study.validation.values[name][number] for name in names]
        own = [
            "" if np.isnan(value) else f"{value:.2f} ({study.validation.rank(name, node.head)})"
            for name, value in zip(names, values, strict=True)
        ]
        by_paper = [part[node.head.layer, node.head.index] for part in (study.copying.copies, study.copying.suppresses)]
        own += ["" if np.isnan(share) else f"{share:.0%}" for share in by_paper]
        looks = ["" for _ in ROLES]
        if node.position in ROLES:
            row = study.attention[node.head.layer, node.head.index, ROLES.index(node.position)]
            looks = ["" if np.isnan(value) else f"{value:.2f}" for value in row]
        rows.append([str(node), *own, *looks])
    shown = ["copying (detector)" if name == "copying" else name for name in names]
    return ["node", *shown, "copied (paper)", "suppressed (paper)", *(f"attention to {role}" for role in ROLES)], rows


def _told(value: Estimate) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(printable(title))}</h2>{body}</section>"


def _map(title: str, table: CellTable, before: str = "") -> str:
    return _section(title, before + figure(table, 8))
