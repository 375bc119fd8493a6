"""`autointerp entity-lens train | show | eval`."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.cli.options import resolve
from autointerp.cli.screen import Screen, say
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.lenses.entity_checkpoint import EntityVectors
    from autointerp.lenses.entity_items import MentionItem
    from autointerp.lenses.entity_run import PromptRunner
    from autointerp.lenses.entity_train import TrainPlan
    from autointerp.model import LanguageModel

CONTEXTS = ("none", "prefix", "sentence")
METHODS = ("in_context", "full_context", "after_context", "raw", "average")
FORMATS = ("table", "markdown", "csv", "json", "html")
DEMO_DOCUMENTS = 3000


def entity_lens_options(parser: argparse.ArgumentParser) -> None:
    """Its three commands."""
    commands = parser.add_subparsers(title="commands", metavar="train | show | eval", required=True)
    for name, text, add, run in (
        ("train", "train task vectors for a model", _train_options, train),
        ("show", "layers by tokens of a text: what each vector stands for", _show_options, show),
        ("eval", "exact and partial match by layer, with baselines", _eval_options, evaluate),
    ):
        one = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        one.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        add(one)
        _model_options(one)
        one.set_defaults(run=run)


def _model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="SPEC", help="demo (the default), a hub name, a local HuggingFace folder, or "
        "file.py:callable")  # fmt: skip
    add("--device", metavar="NAME", help="cpu, cuda, ... (cuda if there is one)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="auto: bfloat16 on a GPU, else float32")


def _training_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--data", metavar="FILE", help="a .jsonl or CoNLL-style file with entity spans (the demo corpus)")
    add("--context", choices=CONTEXTS, default="none", help="what stands before the vector (none)")
    add("--method", choices=METHODS, default="in_context", help="where a mention's vector is read (in_context)")
    add("--seeds", metavar="LIST", default="0,1,2", help="seeds, comma-separated (0,1,2)")
    add("--epochs", type=float, metavar="X", default=2.0, help="at most; training stops where dev match does not rise")
    add("--min-steps", type=int, metavar="N", default=150, help="steps at least, with few mentions (150)")
    add("--max-items", type=int, metavar="N", default=0, help="training mentions to use (all)")
    add("--no-filter", action="store_true", help="do not train the linear filter, only task vectors")


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", metavar="LIST", help="emb,0,4-7; emb is the embedding (all)")
    parser.add_argument(
        "--out", metavar="FILE", help="where the vectors go (runs/entity-lens/<model>/<context>.safetensors)"
    )
    _training_options(parser)


def _show_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("text", metavar="TEXT", help="text to read")
    add("--layers", metavar="LIST", help="emb,0,4-7; emb is the embedding (every fifth; all of up to eight)")
    add("--use-layer", type=int, metavar="N", help="one layer's vector at all layers (each layer's own)")
    add("--filter", choices=["auto", "on", "off"], default="auto", help="the linear filter (auto: as dev match says)")
    add("--logit-lens", type=int, metavar="K", default=0, help="the logit lens' top K tokens beside it (none)")
    add("--controls", metavar="LIST", help="no_insertion,zero,random_norm,mean,shuffled or none (mean; with a context "
        "mean,shuffled)")  # fmt: skip
    add("--max-new", type=int, metavar="N", default=8, help="tokens of an answer (8)")
    add("--vectors", metavar="FILE", help="vectors to use (those trained here, else those that ship for the model)")
    add("--train", action="store_true", help="train the vectors first where there are none")
    add("--format", choices=FORMATS, default="table")
    add("--out", metavar="FILE", help="write it there instead of printing it")
    _training_options(parser)


def _eval_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--layers", metavar="LIST", help="layers to evaluate (all that are trained)")
    add("--vectors", metavar="FILE", help="vectors to use (those trained here, else those that ship for the model)")
    add("--train", action="store_true", help="train the vectors first where there are none")
    add("--filter", choices=["auto", "on", "off"], default="auto", help="the linear filter (auto: as dev match says)")
    add("--matrix", action="store_true", help="every layer's vector on every layer's inputs, too")
    add("--max-test", type=int, metavar="N", default=600, help="test mentions of each part, seen and unseen (600)")
    add("--out", metavar="DIR", help="folder for bench.json, bench.csv and bench.md")
    _training_options(parser)


def train(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Train and save."""
    runner, screen = _open(arguments)
    model = runner.model
    from autointerp.lenses.entity_checkpoint import default_path

    path = Path(arguments.out) if arguments.out else default_path(model, arguments.context)
    vectors = _train(arguments, runner, screen, path)
    facts = vectors.facts
    say(f"{facts['data']['n_train']} mentions of {facts['data']['n_entities']} entities, {facts['seconds']:.0f} s")
    say(f"{'layer':>6}  {'rate':>5}  {'dev match, task vector':>22}" + ("  with filter" if vectors.filters else ""))
    for place, layer in enumerate(vectors.layers):
        seeds = [row[place] for row in facts["dev_em"]]
        mean = f"{sum(seeds) / len(seeds):.3f} ({min(seeds):.3f} to {max(seeds):.3f})"
        line = f"{layer:>6}  {facts['rates'][place]:>5.2g}  {mean:>22}"
        say(line + (f"  {facts['dev_match']['filter'][place]:>11.3f}" if vectors.filters else ""))
    say(f"vectors: {path}")
    return 0


def show(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """One text."""
    if not arguments.text.strip():
        raise BadInput("TEXT is empty. Give some words.")
    layers = parse_layers(arguments.layers)
    controls = _controls(arguments)
    runner, screen = _open(arguments)
    from autointerp.lenses.entity import LensOptions, entity_lens

    vectors = _vectors(arguments, runner, screen)
    if arguments.use_layer is not None and layers is None and arguments.use_layer not in vectors.layers:
        vectors.place(arguments.use_layer)
    options = LensOptions(
        layers, arguments.use_layer, _filter(arguments), arguments.logit_lens, controls, arguments.max_new
    )
    reading = entity_lens(runner.model, vectors, arguments.text, options, runner)
    screen.close()
    writers = {"table": reading.to_text, "markdown": reading.to_markdown, "csv": reading.to_csv,
               "json": reading.to_json, "html": reading.to_html}  # fmt: skip
    text = writers[arguments.format]()
    if not arguments.out:
        say(text)
        return 0
    from autointerp.store.files import write_whole

    write_whole(Path(arguments.out), text.encode("utf-8", "backslashreplace"))
    say(arguments.out)
    return 0


def evaluate(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """All tables of an evaluation."""
    runner, screen = _open(arguments)
    from autointerp.lenses.entity_bench import write_bench
    from autointerp.lenses.entity_eval import EvalPlan, evaluate_vectors
    from autointerp.lenses.entity_job import DataPlan, parts_of

    started = time.monotonic()
    vectors = _vectors(arguments, runner, screen)
    split = vectors.facts["data"]
    parts, _ = parts_of(_items(arguments), DataPlan(split_seed=split["split_seed"], max_items=split["max_items"]))
    if not arguments.data and split["hash"] != _hash(parts):
        screen.note("note: these vectors were trained on other data than the demo corpus; seen entities may be new")
    plan = EvalPlan(parse_layers(arguments.layers), _filter(arguments), arguments.matrix, arguments.max_test)
    found = evaluate_vectors(runner, vectors, parts, plan, screen)
    screen.close()
    say(found.to_markdown())
    last = found.summary() | {"seconds": round(time.monotonic() - started, 1)}
    if arguments.out:
        write_bench(Path(arguments.out), found, last)
        say(f"folder: {arguments.out}")
    say(json.dumps(last))
    return 0


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Layers of a list such as `emb,0,4-7`; `emb` or -1 is the embedding. Raises BadInput."""
    if text is None:
        return None
    import re

    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?\d+)(?:-(\d+))?", "-1" if part.strip() == "emb" else part.strip())
        if match is None:
            raise BadInput(f"--layers {text!r}: {part!r} is no layer. Write emb,0,4-7.")
        first = int(match[1])
        found += range(first, int(match[2]) + 1) if match[2] else [first]
    return tuple(found)


def _open(arguments: argparse.Namespace) -> tuple[PromptRunner, Screen]:
    warnings.filterwarnings("ignore")
    _seeds(arguments)
    keep = ("model", "device", "dtype")
    config, _ = resolve(argparse.Namespace(**{name: getattr(arguments, name) for name in keep}), {})
    screen = Screen()
    screen("loading the model", 0, 1)
    from autointerp.demo.model import weights_folder
    from autointerp.lenses.entity_frame import Frame
    from autointerp.lenses.entity_run import PromptRunner
    from autointerp.model import load_model

    place = str(weights_folder()) if config.model == "demo" else config.model
    model = load_model(place, config.device, config.dtype)[0]
    return PromptRunner(replace(model, name=config.model), Frame.of(model)), screen


def _seeds(arguments: argparse.Namespace) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in arguments.seeds.split(","))
    except ValueError:
        raise BadInput(f"--seeds {arguments.seeds!r} is no list of numbers. Write 0,1,2.") from None
    return seeds


def _items(arguments: argparse.Namespace) -> list[MentionItem]:
    from autointerp.lenses.entity_items import demo_items, read_items

    if arguments.data:
        return read_items(arguments.data)
    from autointerp.demo.corpus import documents

    return demo_items(documents(DEMO_SEED), DEMO_DOCUMENTS)


DEMO_SEED = 7


def _hash(parts: Any) -> str:
    from autointerp.lenses.entity_items import data_hash

    return data_hash([*parts.train, *parts.dev])


def _plan(arguments: argparse.Namespace, model: LanguageModel) -> TrainPlan:
    from autointerp.lenses.entity_job import plan_layers
    from autointerp.lenses.entity_train import TrainPlan

    layers = plan_layers(model, parse_layers(arguments.layers))
    return TrainPlan(
        layers, arguments.context, arguments.method, _seeds(arguments), epochs=arguments.epochs,
        with_filter=not arguments.no_filter,
        min_steps=arguments.min_steps,
    )  # fmt: skip


def _train(arguments: argparse.Namespace, runner: PromptRunner, screen: Screen, path: Path) -> EntityVectors:
    from autointerp.lenses.entity_checkpoint import save_vectors
    from autointerp.lenses.entity_job import DataPlan, train_vectors

    plan = _plan(arguments, runner.model)
    data = DataPlan(max_items=arguments.max_items)
    vectors, _ = train_vectors(runner, _items(arguments), plan, data, screen)
    save_vectors(path, vectors)
    screen.close()
    return vectors


def _vectors(arguments: argparse.Namespace, runner: PromptRunner, screen: Screen) -> EntityVectors:
    from autointerp.lenses.entity_checkpoint import default_path, find_vectors, load_vectors

    model, context = runner.model, arguments.context
    if arguments.vectors:
        return load_vectors(Path(arguments.vectors), model)
    found = find_vectors(model, context)
    if found is not None:
        return found
    if not arguments.train:
        raise BadInput(
            f"there are no entity-lens vectors for {model.name}, context {context}. Train them: "
            "`autointerp entity-lens train` with the same --model and --context, or add --train here."
        )
    wanted = argparse.Namespace(**{**vars(arguments), "layers": None})
    return _train(wanted, runner, screen, default_path(model, context))


def _filter(arguments: argparse.Namespace) -> bool | None:
    return {"auto": None, "on": True, "off": False}[arguments.filter]


def _controls(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.controls is None:
        return ("mean",) if arguments.context == "none" else ("mean", "shuffled")
    if arguments.controls == "none":
        return ()
    names = tuple(part.strip() for part in arguments.controls.split(",") if part.strip())
    from autointerp.lenses.entity_reader import check_controls

    return check_controls(names)
