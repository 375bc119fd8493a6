"""`autointerp patch`: which nodes, heads and paths carry an answer."""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.places import load, model_options
from autointerp.cli.screen import Screen, say
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.circuits.cells import CellTable
    from autointerp.circuits.contrast import ContrastPrompt
    from autointerp.circuits.patching import PatchPlan
    from autointerp.circuits.path_patching import PathPlan
    from autointerp.circuits.prompts import ContrastSet
    from autointerp.circuits.runs import Direction
    from autointerp.model import LanguageModel
    from autointerp.model.nodes import NodeKind

NODES = ("z", "q", "k", "v", "pattern", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_NODES = NODES[:5]
METRICS = ("logit_diff", "score", "log_prob", "prob", "rank", "kl")


def patch_options(parser: argparse.ArgumentParser) -> None:
    """Options of `patch`."""
    add = parser.add_argument
    add("set", metavar="SET", help="a .jsonl file of clean, corrupted, answers, roles, group; or file.py:callable that "
        "yields such objects")  # fmt: skip
    add("--node", choices=NODES, help="what is patched (z)")
    add("--by", choices=["head", "position", "head-position"], help="what a cell is (head; position for nodes without)")
    add("--direction", choices=["denoise", "noise"], help="denoise: clean into corrupted, is it enough? noise: "
        "corrupted into clean, is it needed? (denoise; noise for paths)")  # fmt: skip
    add("--metric", metavar="LIST", help=f"comma-separated, of {','.join(METRICS)} (logit_diff; log_prob where there "
        "is no wrong answer)")  # fmt: skip
    add("--ratio", choices=["of_means", "mean_of_ratios"], default="of_means", help="form of the score (of_means)")
    add("--positions", metavar="LIST", help="roles, comma-separated (all of the set), or each: every index of equally "
        "long prompts")  # fmt: skip
    add("--screen", type=int, metavar="N", help="estimate all cells by gradients and patch only the N strongest")
    group = parser.add_argument_group("path patching")
    add = group.add_argument
    add("--to", metavar="LIST", help="logits, or receivers such as L8H6.q,L7H9.v; every head is a sender at one role "
        "of --positions, or at all positions")  # fmt: skip
    add("--senders", metavar="LIST", help="heads, or groups of them joined by +, instead of every head")
    add("--mlps", choices=["recompute", "freeze"], default="recompute", help="MLPs on the way (recompute)")
    add("--norms", choices=["recompute", "freeze"], default="recompute", help="norms on the way (recompute)")
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--out", metavar="DIR", help="write patch.csv, patch.html and patch_METRIC.png here")
    add("--top", type=int, default=15, metavar="N", help="cells shown on the terminal (15)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the intervals and tests (0)")
    model_options(parser)
    parser.set_defaults(run=patch_command)


def patch_command(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Patch, print the strongest cells, write the files; the last line is JSON."""
    warnings.filterwarnings("ignore")
    _check(arguments)
    screen = Screen()
    from autointerp.circuits.contrast import needs_model, read_prompts
    from autointerp.circuits.prompts import tokenise

    read: list[ContrastPrompt] = [] if needs_model(arguments.set) else read_prompts(arguments.set)
    screen.note("loading the model")
    model = replace(load(arguments), name=arguments.model or "demo")
    prompts = tokenise(read or read_prompts(arguments.set, model), model, Path(arguments.set).name)
    tables = _run(arguments, model, prompts, screen)
    screen.close()
    for note in dict.fromkeys(note for table in tables for note in table.notes):
        screen.note(f"note: {note}")
    files = _write(Path(arguments.out), tables) if arguments.out else []
    for table in tables:
        say(_shown(table, arguments.top))
    say(json.dumps(_summary(tables, files), allow_nan=False))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """What is wrong with the options is said before anything is loaded."""
    if arguments.top < 1:
        raise BadInput(f"--top is {arguments.top}; give at least 1.")
    if arguments.out and Path(arguments.out).exists() and not Path(arguments.out).is_dir():
        raise BadInput(f"--out {arguments.out} is a file. Give a folder.")
    unknown = [name for name in _metrics(arguments) if name not in METRICS]
    if unknown:
        raise BadInput(f"--metric {', '.join(unknown)} is unknown. Known are {', '.join(METRICS)}.")
    if arguments.to is not None:
        given = [f"--{name}" for name in ("node", "by", "screen") if getattr(arguments, name) is not None]
        if given:
            raise BadInput(
                f"{', '.join(given)} is not for path patching (--to): senders are heads, their z is patched."
            )
        _path_plan(arguments)
        return
    if arguments.senders or arguments.mlps != "recompute" or arguments.norms != "recompute":
        raise BadInput("--senders, --mlps and --norms are for path patching. Name its receivers with --to.")
    if arguments.screen is not None and arguments.screen < 1:
        raise BadInput(f"--screen is {arguments.screen}; give how many cells to patch exactly.")
    _plan(arguments).check()


def _metrics(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(part.strip() for part in (arguments.metric or "logit_diff").split(",") if part.strip())


def _roles(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(part.strip() for part in (arguments.positions or "").split(",") if part.strip())


def _plan(arguments: argparse.Namespace) -> PatchPlan:
    from autointerp.circuits.patching import PatchPlan

    node: NodeKind = arguments.node or "z"
    by: str = arguments.by or ("position" if node not in HEAD_NODES else "head")
    direction: Direction = arguments.direction or "denoise"
    return PatchPlan(
        node, by, direction, _metrics(arguments), _roles(arguments), arguments.ratio, arguments.seed
    ).check()


def _path_plan(arguments: argparse.Namespace) -> PathPlan:
    from autointerp.circuits.path_patching import PathPlan, Receiver
    from autointerp.model.path_runs import PathRules
    from autointerp.records import Head

    parts = [part.strip() for part in arguments.to.split(",") if part.strip()]
    if not parts or ("logits" in parts and len(parts) > 1):
        raise BadInput(f"--to {arguments.to!r}: give logits, or receivers such as L8H6.q,L7H9.v.")
    roles = _roles(arguments)
    if len(roles) > 1 or roles == ("each",):
        raise BadInput("--positions: path patching takes one role, or none for all positions.")
    try:
        groups = tuple(
            tuple(Head.parse(name) for name in group.split("+"))
            for group in (arguments.senders or "").split(",")
            if group
        )
    except ValueError as error:
        raise BadInput(f"--senders: {error}.") from None
    receivers = () if parts == ["logits"] else tuple(Receiver.parse(part) for part in parts)
    rules = PathRules(arguments.mlps, arguments.norms)
    direction: Direction = arguments.direction or "noise"
    return PathPlan(
        direction, receivers, roles[0] if roles else "", rules, groups, _metrics(arguments), arguments.ratio,
        arguments.seed,
    )  # fmt: skip


def _run(arguments: argparse.Namespace, model: LanguageModel, prompts: ContrastSet, screen: Screen) -> list[CellTable]:
    from autointerp.circuits.attribution_patching import screen as estimate
    from autointerp.circuits.patching import patch
    from autointerp.circuits.path_patching import path_patch

    metrics = _metrics(arguments)
    if arguments.metric is None and not prompts.has_wrong:
        metrics = ("log_prob",)
    if arguments.to is not None:
        return list(path_patch(model, prompts, replace(_path_plan(arguments), metrics=metrics), screen).values())
    plan = replace(_plan(arguments), metrics=metrics)
    if arguments.screen is None:
        return list(patch(model, prompts, plan, progress=screen).values())
    if len(metrics) > 1:
        raise BadInput("--screen takes one metric. Give one in --metric.")
    found = estimate(model, prompts, plan, arguments.screen, screen)
    note = f"exact effects of the {len(found.exact.cells)} strongest estimates; correlation {found.agreement:.2f}"
    return [replace(found.exact, notes=(*found.exact.notes, note))]


def _write(folder: Path, tables: Sequence[CellTable]) -> list[str]:
    from autointerp.circuits.heat_map import page
    from autointerp.circuits.png import pngs
    from autointerp.store.files import write_whole

    text = "".join(
        table.to_table().to_csv().split("\n", 1)[1] if number else table.to_table().to_csv()
        for number, table in enumerate(tables)
    )
    title = f"Patching {tables[0].settings['set']} on {tables[0].settings['model']}"
    files = {"patch.csv": text.encode(), "patch.html": page(title, tables).encode()}
    files |= {f"patch_{name}.png": data for name, data in pngs(tables).items()}
    for name, data in files.items():
        write_whole(folder / name, data)
    return [str(folder / name) for name in files]


def _shown(table: CellTable, top: int) -> str:
    """The strongest cells as lines."""
    settings = ", ".join(f"{k} {v}" for k, v in table.settings.items() if v != "")
    lines = [settings, f"{'cell':<16} {'mean':>10} {'95 % interval':>24} {'p':>9} {'q':>9} {'n':>5}"]
    numbers, flagged = table.numbers, table.flagged
    for n in table.strongest(top):
        between = f"{numbers['low'][n]:.4g} to {numbers['high'][n]:.4g}"
        mark = " *" if flagged[n] else ""
        lines.append(
            f"{table.name(n):<16} {table.mean[n]:>10.4g} {between:>24} {numbers['p'][n]:>9.2g} "
            f"{numbers['q'][n]:>9.2g} {table.n[n]:>5}{mark}"
        )
    without = sum(not math.isfinite(value) for value in table.mean)
    lines.append(
        f"{int(flagged.sum())} cells differ from 0 (*, false discovery rate 5 %); {without} have no causal path"
    )
    return "\n".join(lines)


def _summary(tables: Sequence[CellTable], files: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for table in tables:
        top = [{"cell": table.name(n), "mean": float(f"{table.mean[n]:.6g}"), "flag": bool(table.flagged[n])}
               for n in table.strongest(5)]  # fmt: skip
        found[str(table.settings["metric"])] = {
            "clean": table.settings["clean"], "corrupted": table.settings["corrupted"],
            "cells": len(table.cells), "tested": table.settings["n_cells"], "flagged": int(table.flagged.sum()),
            "top": top,
        }  # fmt: skip
    settings = {
        k: v for k, v in tables[0].settings.items() if k not in ("metric", "ratio", "clean", "corrupted", "n_cells")
    }
    return {**settings, "metrics": found, "files": files}
