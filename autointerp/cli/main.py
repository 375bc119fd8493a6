"""Commands, their options and exit codes.

0 done · 1 done, but some units failed · 2 the request was wrong · 3 stopped at the budget · 4 too many failures ·
130 interrupted. Errors are one to three lines on standard error; `--debug` gives the traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from autointerp import __version__
from autointerp.cli import commands
from autointerp.cli.bench import bench_options
from autointerp.cli.compare import compare_options
from autointerp.cli.entity_lens import entity_lens_options
from autointerp.cli.features import UNITS_HELP, activations_options, all_features_options, one_feature_options
from autointerp.cli.interrupt import INTERRUPTED, ends_on_interrupt
from autointerp.cli.logit_lens import logit_lens_options
from autointerp.cli.options import explain_options, folder_options, run_options, server_options
from autointerp.cli.patch import patch_options
from autointerp.cli.probe import probe, probe_options
from autointerp.cli.replicate import replicate_options
from autointerp.cli.selfie import selfie_options
from autointerp.cli.sources import without_demo_folder
from autointerp.errors import AutointerpError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # tokens can hold what a terminal's encoding cannot
    parser = _parser()
    arguments = parser.parse_args(argv)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with ends_on_interrupt():
            return int(arguments.run(arguments, words))
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the same command with the same --out goes on from here\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # threads of the libraries must not hold the process back
    except BrokenPipeError:  # the reader of our output has seen enough; what Python writes at its end must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except AutointerpError as error:
        if arguments.debug:
            raise
        sys.stderr.write(f"\nautointerp: {_short(without_demo_folder(str(error)))}\n")
        return error.exit_code
    except OSError as error:
        if arguments.debug:
            raise
        sys.stderr.write(f"\nautointerp: {_short(str(error))}. What was written before is intact.\n")
        return AutointerpError.exit_code


def _short(text: str) -> str:
    """At most three lines, and no page of them."""
    return "\n".join(line[:1500] for line in text.strip().splitlines()[:3])


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing all options first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"autointerp: {message}. `{self.prog} --help` lists what can be given.\n")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="autointerp",
        description="Describes what each attention head, neuron or SAE latent of a language model does, and tests "
        "every description.",
        epilog="exit codes: 0 done, 1 done but some heads failed, 2 wrong request, 3 stopped at the budget, "
        "4 too many of them failed, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"autointerp {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _describe_all, _describe_one, _multiples, _all_features, _one_feature, _activations, _render, _report, _check,
        _compare, _probe, _bench, _entity_lens, _selfie, _logit_lens, _patch, _replicate,
    ):  # fmt: skip
        add(subparsers)
    return parser


Adder = argparse._SubParsersAction  # argparse has no public name for it


def _command(subparsers: Adder[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _describe_all(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "describe-all-heads", "collect, describe, score and report all heads of a model")
    parser.add_argument("--heads", metavar="LIST", help='some heads only: "0.1,3.*,L5H0-L5H3"')
    folder_options(parser)
    run_options(parser)
    explain_options(parser)
    parser.set_defaults(run=commands.describe_all_heads)


def _describe_one(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "describe-head", "the same for one head, and print its card")
    parser.add_argument("heads", metavar="HEAD", help="L5H1 or 5.1")
    folder_options(parser)
    run_options(parser)
    explain_options(parser)
    parser.set_defaults(run=commands.describe_head)


def _multiples(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "multiples", "ranked and random attention multiples of one head")
    parser.add_argument("heads", metavar="HEAD", help="L5H1 or 5.1")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--top", type=int, metavar="N", help="the N highest (default: --top 10)")
    which.add_argument("--bottom", type=int, metavar="N", help="the N lowest")
    which.add_argument("--random", type=int, metavar="N", help="N drawn evenly, seeded")
    parser.add_argument("--token", metavar="STR", help="only this attended token, exactly as the vocabulary has it")
    parser.add_argument("--dst-token", metavar="STR", help="only this attending token")
    parser.add_argument(
        "--by",
        choices=["multiple", "share", "contribution", "column_lift", "position_lift"],
        default="multiple",
        help="quantity to rank by (multiple)",
    )
    parser.add_argument("--format", choices=["table", "csv", "json", "html"], default="table")
    run_options(parser)
    parser.set_defaults(run=commands.multiples)


def _all_features(subparsers: Adder[argparse.ArgumentParser]) -> None:
    text = "collect, describe, score and report neurons or SAE latents"
    all_features_options(_command(subparsers, "describe-all-features", text))


def _one_feature(subparsers: Adder[argparse.ArgumentParser]) -> None:
    one_feature_options(_command(subparsers, "describe-feature", "the same for one of them, and print its card"))


def _activations(subparsers: Adder[argparse.ArgumentParser]) -> None:
    activations_options(_command(subparsers, "activations", "ranked and random activations of one neuron or latent"))


def _render(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "render", "print the exact prompt for a head or unit; no key and no network")
    parser.add_argument("heads", metavar="HEAD", help="L5H1 or 5.1; a neuron L3N17, or a latent L3F17")
    parser.add_argument("--units", metavar="SPEC", help=UNITS_HELP)
    parser.add_argument("--out", metavar="DIR", help="a run folder whose evidence to use; else it is collected")
    run_options(parser)
    explain_options(parser)
    parser.set_defaults(run=commands.render)


def _report(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "report", "rebuild the pages of a run from disk alone")
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.set_defaults(run=commands.report)


def _check(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "check-server", "show what an OpenAI-compatible server can do")
    server_options(parser)
    parser.set_defaults(run=commands.check_server)


def _compare(subparsers: Adder[argparse.ArgumentParser]) -> None:
    compare_options(_command(subparsers, "compare", "two runs side by side: which heads changed, and margins"))


def _probe(subparsers: Adder[argparse.ArgumentParser]) -> None:
    parser = _command(subparsers, "probe", "linear probes on a labelled dataset, with their controls; or apply one")
    probe_options(parser)
    parser.set_defaults(run=probe)


def _bench(subparsers: Adder[argparse.ArgumentParser]) -> None:
    text = "ground truth: planted heads, how often nonsense passes, loop against one shot, published heads"
    bench_options(_command(subparsers, "bench", text))


def _entity_lens(subparsers: Adder[argparse.ArgumentParser]) -> None:
    text = "what a vector inside the model stands for, spelt out by the model itself"
    entity_lens_options(_command(subparsers, "entity-lens", text))


def _selfie(subparsers: Adder[argparse.ArgumentParser]) -> None:
    selfie_options(_command(subparsers, "selfie", "vectors inside the model in its own words, beside controls"))


def _logit_lens(subparsers: Adder[argparse.ArgumentParser]) -> None:
    logit_lens_options(_command(subparsers, "logit-lens", "what the model would predict before each block"))


def _patch(subparsers: Adder[argparse.ArgumentParser]) -> None:
    text = "activation patching and path patching over a set of clean and corrupted prompts"
    patch_options(_command(subparsers, "patch", text))


def _replicate(subparsers: Adder[argparse.ArgumentParser]) -> None:
    text = "a published study on any model, every head found by what it does"
    replicate_options(_command(subparsers, "replicate", text))
