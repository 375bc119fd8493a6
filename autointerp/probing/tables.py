"""Probe results and applied probes as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autointerp.probing.causal import CausalResult
from autointerp.probing.results import ProbeResult
from autointerp.probing.saved import Applied
from autointerp.records import Failure
from autointerp.tables import Cell, TokenTable

SITE_COLUMNS = (
    "site", "accuracy", "chance", "best control", "its accuracy", "margin", "q", "selectivity", "head percentile",
    "status", "conclusion",
)  # fmt: skip


def sites_table(results: Sequence[ProbeResult | Failure], names: Sequence[str]) -> TokenTable:
    """A line a site."""
    return TokenTable(SITE_COLUMNS, tuple(_line(r, n) for r, n in zip(results, names, strict=True)), title="probes")


def _line(result: ProbeResult | Failure, name: str) -> tuple[Cell, ...]:
    if isinstance(result, Failure):
        return (name, *[""] * 8, "failed", result.reason)
    best = result.control(result.best_control)
    return (
        result.site,
        str(result.accuracy),
        f"{result.chance:.3f}",
        result.best_control,
        str(best.accuracy) if best else "",
        str(result.margin),
        f"{result.q_margin:.3g}",
        "" if result.selectivity is None else str(result.selectivity),
        "" if np.isnan(result.head_percentile) else f"{result.head_percentile:.0f} ({result.n_other_heads} others)",
        result.status or "ok",
        result.conclusion,
    )


def baselines_table(result: ProbeResult) -> TokenTable:
    """All baselines and controls of one site; those that could not run with their reason."""
    own: tuple[Cell, ...] = (result.site, "probe", str(result.accuracy), "", "", f"{result.n_items} test items")
    chance: tuple[Cell, ...] = (
        "1/C",
        "floor",
        f"{result.one_over_c:.3f}",
        "",
        "",
        f"{len(result.class_names)} classes",
    )
    ran = [
        (c.name, c.kind, str(c.accuracy), str(c.difference), "yes" if c.beaten else "no", c.detail)
        for c in result.controls
    ]
    missing = [(u.scorer, "not run", "", "", "", u.reason) for u in result.unscored]
    return TokenTable(
        ("row", "kind", "accuracy", "probe minus row", "beaten", "detail"),
        (own, chance, *ran, *missing),
        title=f"{result.site}, split {result.split}",
    )


def notes_of(result: ProbeResult) -> list[str]:
    """What the numbers do not say by themselves."""
    folds = ", ".join(f"{value:.3f}" for value in result.folds)
    notes = [
        f"folds: {folds} (mean {result.fold_mean:.3f}); macro-F1 {result.macro_f1:.3f}; log-loss {result.log_loss:.3f} "
        f"nats; {result.n_items} test items, {result.n_groups} groups, {result.n_train:.0f} training items a fold",
        f"permutation p {result.p_shuffled:.3g}; p of the margin {result.p_margin:.3g}, "
        f"adjusted over {result.n_sites} sites {result.q_margin:.3g}",
    ]
    if result.selectivity_note:
        notes.append(f"selectivity: {result.selectivity_note}")
    if result.status:
        notes.append(
            f"{result.status}: {result.n_items} test items in {result.n_groups} groups (20 and 5 are needed); "
            "the intervals cannot be trusted"
        )
    return [*notes, f"conclusion: {result.conclusion}"]


def applied_table(found: Sequence[Applied], class_names: Sequence[str], top: int = 3) -> TokenTable:
    """The most probable classes at each token."""
    top = min(top, len(class_names))
    columns = ["text", "position", "token"]
    columns += [name for n in range(1, top + 1) for name in (f"class {n}", f"p {n}")]
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        best = np.argsort(-one.probabilities, kind="stable")[:top]
        pairs = [cell for c in best.tolist() for cell in (class_names[c], round(float(one.probabilities[c]), 4))]
        rows.append((one.text, one.position, one.token, *pairs))
    named = frozenset({"text", "token", *columns[3::2]})
    return TokenTable(tuple(columns), tuple(rows), named)


def causal_table(found: CausalResult) -> TokenTable:
    """A line a change of the model."""
    rows = tuple(
        (
            effect.kind,
            effect.name,
            str(effect.drop),
            "" if effect.flipped is None else str(effect.flipped),
            str(effect.kl),
            "" if np.isnan(effect.accuracy) else f"{effect.accuracy:.3f}",
        )
        for effect in found.effects
    )
    columns = ("change", "of", "fall of m", "flipped", "KL elsewhere", "probe accuracy after")
    return TokenTable(columns, rows, title=f"causal check of {found.site}, {found.subspace}, rank {found.rank}")


def causal_verdict(found: CausalResult) -> str:
    """The margins over the strongest controls, and what they say."""
    said = "used: it does more than every control" if found.used else "not shown to be used: a control does as much"
    full = f"; the subspace is all of the site's {found.size} dimensions" if found.rank >= found.size else ""
    return (
        f"erasing minus {found.erase_control}: {found.erase_margin}; flips minus {found.flip_control}: "
        f"{found.flip_margin}; {said}{full}{'; ' + found.status if found.status else ''}"
    )
