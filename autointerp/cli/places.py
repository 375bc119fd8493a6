"""Options that the lens commands share: which model, which layers, which tokens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from autointerp.cli.options import resolve
from autointerp.cli.sources import sources_of
from autointerp.errors import BadInput

if TYPE_CHECKING:
    from autointerp.lenses.sources import FedText
    from autointerp.model import LanguageModel


def model_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose the model."""
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="SPEC", help="demo (the default), planted[:SEED], a hub name, a local HuggingFace folder, "
        "or file.py:callable")  # fmt: skip
    add("--device", metavar="NAME", help="cpu, cuda, ... (cuda if there is one)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="auto: bfloat16 on a GPU, else float32")


def place_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose layers and positions."""
    add = parser.add_argument
    add("--layers", metavar="LIST", help='blocks whose inputs are read: "0,3-5" or all')
    add("--positions", metavar="LIST", help='positions as fed, BOS included: "1,4-6"')
    add("--at", metavar="STR", help="only this token, at its last place in the text")


def load(arguments: argparse.Namespace) -> LanguageModel:
    """The model that the options name."""
    given = {name: getattr(arguments, name) for name in ("model", "device", "dtype")}
    config, _ = resolve(argparse.Namespace(**given), {})
    from autointerp.model import load_model

    sources = sources_of(config)
    if sources.load is not None:
        return sources.load(config.device, config.dtype)[0]
    return load_model(sources.model, config.device, config.dtype)[0]


def places(arguments: argparse.Namespace, model: LanguageModel, fed: FedText) -> tuple[int, ...] | None:
    """Positions that the options name in a text; None where they name none."""
    if arguments.positions and arguments.at is not None:
        raise BadInput("give --positions or --at, not both.")
    if arguments.positions:
        return numbers("--positions", arguments.positions)
    if arguments.at is None:
        return None
    found = [n for n, i in enumerate(fed.ids) if model.strings[i] == arguments.at]
    if not found:
        known = " ".join(repr(model.strings[i]) for i in fed.ids[:40])
        raise BadInput(f"--at {arguments.at!r} is no token of the text. Its tokens are {known}.")
    return (found[-1],)


def layers_of(text: str | None, model: LanguageModel) -> tuple[int, ...] | None:
    """Layers that `--layers` names; None where it names none."""
    if text is None:
        return None
    return tuple(range(model.n_layers)) if text.strip() == "all" else numbers("--layers", text)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Read `0,3-5`. Raises BadInput for anything else."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or len(part) > 20:
            raise BadInput(f"{option} {text!r} is no list of numbers. Write 0,3-5.")
        last = min(int(high), int(low) + 10**6) if dash else int(low)
        found += range(int(low), last + 1)
    return tuple(dict.fromkeys(found))
