"""`autointerp probe`: linear probes on a labelled dataset, with their controls; and a saved probe on new text."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.cli.options import resolve
from autointerp.cli.screen import Screen, say
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.config import RunConfig
    from autointerp.model import LanguageModel
    from autointerp.model.sites import Site
    from autointerp.probing.collection import CollectOptions
    from autointerp.probing.items import ProbeItem, ProbeSet
    from autointerp.probing.study import Study
    from autointerp.records import Head

SITES = ("z", "result", "pattern_row", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")
_OF_HEADS = SITES[:3]


def probe_options(parser: argparse.ArgumentParser) -> None:
    """Options of `probe`."""
    add = parser.add_argument
    add("dataset", nargs="?", metavar="DATASET", help="a .jsonl file (text, span, label, groups), or file.py:callable "
        "that yields items")  # fmt: skip
    add("--site", choices=SITES, default="z", help="what is read (z)")
    add("--head", dest="one_head", metavar="HEAD", help="L5H1 or 5.1, for z, result and pattern_row")
    add("--heads", metavar="LIST", help='several heads, each probed: "0.1,3.*,L5H0-L5H3", or all')
    add("--layer", type=int, metavar="N", help="for sites of a layer; -1 is the embedding")
    add("--split", metavar="NAME", help="the group to hold out: template, lexeme, document, lexeme_x_template, ...; "
        "leaky_row_split only to compare (the only group, if there is one)")  # fmt: skip
    add("--controls", choices=["full", "light"], help="full: 20 shuffles, 3 control tasks, 3 random projections, 20 "
        "more heads; light: 3, 1, 1, 0 (full for one site, light for several)")  # fmt: skip
    add("--ablate", metavar="LIST", help="heads to take out in every text while reading")
    add("--ablation", choices=["zero", "mean", "resample"], default="zero", help="what stands for their z (zero)")
    add("--ablate-everywhere", action="store_true", help="at all positions, not only at the one that is read")
    add("--out", metavar="DIR", help="folder of activations, probes and results (runs/<time>-probe)")
    group = parser.add_argument_group("a saved probe on new text")
    group.add_argument("--apply", metavar="PROBE", help="a saved probe (DIR/probes/NAME)")
    group.add_argument("--text", action="append", metavar="TEXT", help="text to read; repeatable")
    group.add_argument("--at", metavar="STR", help="read this token only, its last place in each text")
    group.add_argument("--top", type=int, default=3, metavar="N", help="classes to show (3)")
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("--model", metavar="SPEC", help="demo (the default; with --apply the probe's own), planted, a hub name, a "
        "local HuggingFace folder, or file.py:callable")  # fmt: skip
    add("--device", metavar="NAME", help="cpu, cuda, ... (cuda if there is one)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="auto: bfloat16 on a GPU, else float32")
    add("--seed", type=int, metavar="N", help="seed of folds and controls (0)")
    add("--batch-size", type=int, metavar="N", help="texts run together (8)")


def probe(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Train and test probes, or apply one."""
    warnings.filterwarnings("ignore")
    if arguments.apply:
        return _apply(arguments)
    if not arguments.dataset:
        raise BadInput("no dataset is given. Give a .jsonl file or file.py:callable, or --apply PROBE with --text.")
    config, settings = resolve(_without(arguments, "heads", "top", "text"), {})
    _check_site(arguments)
    from autointerp.probing import check_items, read_items

    items = read_items(arguments.dataset)
    check_items(items)
    split = arguments.split or _only_group(items)
    check_items(items, split)
    return _train(arguments, config, items, split, settings.batch_size)


def _train(
    arguments: argparse.Namespace, config: RunConfig, items: Sequence[ProbeItem], split: str, batch_size: int
) -> int:
    screen = Screen()
    screen.note(f"{len(items)} items, split {split}; loading the model")
    from autointerp.probing.collection import CollectOptions
    from autointerp.probing.controls import FULL, LIGHT
    from autointerp.probing.items import Interventions, place_items
    from autointerp.probing.study import StudySettings, run_study, task_of

    model = _load(config)
    sites = _sites(arguments, model)
    ablate = _heads(arguments.ablate, model) if arguments.ablate else ()
    probe_set = place_items(model, items, Interventions(ablate))
    task = task_of(probe_set, split, config.seed)
    full = arguments.controls == "full" or (arguments.controls is None and len(sites) == 1)
    options = CollectOptions(arguments.ablation, arguments.ablate_everywhere, None, batch_size, config.seed)
    study = run_study(model, probe_set, task, sites, StudySettings(FULL if full else LIGHT, options, screen))
    screen.close()
    folder = Path(arguments.out) if arguments.out else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-probe"
    from autointerp.probing.folder import save_study

    save_study(folder, study, probe_set, model, options, (config.model, arguments.dataset))
    _say_sites(study, sites)
    if len(sites) == 1 and all(item.correct and item.incorrect for item in items):
        _causal(model, probe_set, study, options, folder)
    return _end(study, sites, folder)


def _say_sites(study: Study, sites: Sequence[Site]) -> None:
    from autointerp.probing.tables import baselines_table, notes_of, sites_table
    from autointerp.records import Failure

    say(sites_table(study.results, [str(site) for site in sites]).to_markdown())
    if len(sites) == 1 and not isinstance(study.results[0], Failure):
        say(baselines_table(study.results[0]).to_markdown())
        say("\n".join(notes_of(study.results[0])))
    elif len(sites) > 1:
        say(f"{len(sites)} sites tested, q adjusted over all of them. A site picked by its accuracy here needs new "
            "items for that number to be believed.")  # fmt: skip


def _causal(model: LanguageModel, probe_set: ProbeSet, study: Study, options: CollectOptions, folder: Path) -> None:
    """All items name a correct and an incorrect continuation: is what was decoded used?"""
    from autointerp.probing.causal import run_causal
    from autointerp.probing.causal_conditions import causal_inputs
    from autointerp.probing.tables import causal_table, causal_verdict
    from autointerp.store.files import write_whole

    site, x = next(iter(study.activations.items()))
    found = run_causal(causal_inputs(model, probe_set, study.task, (site, x), options))
    write_whole(folder / "causal.json", found.model_dump_json(indent=1).encode())
    say(causal_table(found).to_markdown())
    say(causal_verdict(found))


def _end(study: Study, sites: Sequence[Site], folder: Path) -> int:
    from autointerp.records import Failure

    failed = [result for result in study.results if isinstance(result, Failure)]
    say(f"folder: {folder}")
    say(json.dumps({"n_sites": len(sites), "n_failed": len(failed), "folder": str(folder)}))
    return 1 if failed else 0


def _apply(arguments: argparse.Namespace) -> int:
    if not arguments.text:
        raise BadInput("--apply needs --text TEXT, what to read.")
    from autointerp.probing.saved import apply_probe, load_probe
    from autointerp.probing.tables import applied_table

    saved = load_probe(Path(arguments.apply))
    arguments.model = arguments.model or saved.facts.model.spec
    config, _ = resolve(_without(arguments, "heads", "top", "text"), {})
    found = apply_probe(_load(config), saved, arguments.text, arguments.at)
    if saved.facts.ablated:
        Screen().note("note: the probe was trained with heads ablated; the text is read without ablation")
    say(applied_table(found, saved.facts.class_names, arguments.top).to_markdown())
    return 0


def _without(arguments: argparse.Namespace, *names: str) -> argparse.Namespace:
    return argparse.Namespace(**{name: value for name, value in vars(arguments).items() if name not in names})


def _load(config: RunConfig) -> LanguageModel:
    from autointerp.cli.sources import sources_of
    from autointerp.model import load_model

    sources = sources_of(config)
    if sources.load is not None:
        return sources.load(config.device, config.dtype)[0]
    return load_model(sources.model, config.device, config.dtype)[0]


def _check_site(arguments: argparse.Namespace) -> None:
    if arguments.site in _OF_HEADS:
        if (arguments.one_head is None) == (arguments.heads is None):
            raise BadInput(f"--site {arguments.site} is a site of a head. Give either --head L5H1 or --heads LIST.")
    elif arguments.layer is None or arguments.one_head or arguments.heads:
        raise BadInput(f"--site {arguments.site} is a site of a layer. Give --layer N, and no head.")


def _only_group(items: Sequence[ProbeItem]) -> str:
    from autointerp.probing.items import group_names

    names = group_names(items)
    if len(names) == 1:
        return names[0]
    raise BadInput(f"the items have the groups {', '.join(names)}. Say which to hold out, with --split.")


def _sites(arguments: argparse.Namespace, model: LanguageModel) -> list[Site]:
    from autointerp.model.sites import Site

    if arguments.site not in _OF_HEADS:
        return [Site(arguments.site, arguments.layer)]
    heads = _heads(arguments.one_head or arguments.heads, model)
    return [Site.of_head(arguments.site, head) for head in heads]


def _heads(text: str, model: LanguageModel) -> tuple[Head, ...]:
    from autointerp.pipeline.inputs import parse_heads

    return parse_heads("" if text.strip() == "all" else text, model.n_layers, model.n_heads)
