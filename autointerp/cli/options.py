"""Options of the commands, and what they, the environment and `.env` amount to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autointerp.config import DEFAULT_AGENT, FEATURE_SCORERS, SCORERS, RunConfig, Settings, check_lenses, chosen_lenses
from autointerp.errors import BadInput

_LISTS = ("scorers", "lenses")
M = TypeVar("M", bound=BaseModel)


def run_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose model and text."""
    group = parser.add_argument_group("model and text")
    add = group.add_argument
    add("--model", metavar="SPEC", help="demo (the default), planted[:SEED], planted-features[:SEED], a hub name, "
        "a local HuggingFace folder, or file.py:callable / package.module:callable that returns a "
        "TransformerBridge")  # fmt: skip
    add("--corpus", metavar="SPEC", action="append", help="demo (the default), planted, a .txt (a document a "
        "paragraph), .jsonl, .csv or .parquet file, or hf:NAME[:SPLIT]; repeatable")  # fmt: skip
    add("--text-column", metavar="NAME", help="column of the text in .jsonl, .csv, .parquet and hf: (text)")
    add("--max-tokens", type=int, metavar="N", help="tokens to use, all splits together (200000)")
    add("--context", type=int, metavar="N", help="tokens of a window, BOS included (128)")
    add("--device", metavar="NAME", help="cpu, cuda, ... (cuda if there is one)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="auto: bfloat16 on a GPU, else float32")
    add("--seed", type=int, metavar="N", help="seed of every draw (0)")
    add("--batch-size", type=int, metavar="N", help="windows run together; no result depends on it (8)")


def explain_options(parser: argparse.ArgumentParser, *, heads: bool = True) -> None:
    """Options of describing and scoring: heads, or else neurons and latents."""
    group = parser.add_argument_group("describing and scoring")
    add = group.add_argument
    add("--explainer", choices=["auto", "llm", "detectors"], help="auto (the default): llm where a server, a key or "
        "--llm is set, else detectors")  # fmt: skip
    add("--prompts", metavar="DIR", help="folder whose templates win over the shipped ones, name by name")
    add("--instruction", metavar="TEXT", help="text added to the explain prompt")
    add("--judge", metavar="NAME", help="a second model of the same server (AUTOINTERP_JUDGE), asked once more what "
        "the scorers ask on a tenth of the units: how far the two agree (default: none)")  # fmt: skip
    names, default = (SCORERS, "all but probe") if heads else (FEATURE_SCORERS, "all")
    add("--scorers", metavar="LIST", help=f"comma-separated, of {','.join(names)} ({default})")
    if heads:
        add("--lenses", metavar="LIST", help="what each head writes, in words, as evidence: comma-separated, of logit, "
            "entity, selfie, or none (logit, and entity where vectors for the model exist; selfie takes minutes a head "
            "on large models)")  # fmt: skip
    else:
        add("--lenses", metavar="LIST", help="what each unit's direction is about, in words, as evidence: entity, "
            "selfie, or both (default: none; selfie takes seconds to minutes a unit)")  # fmt: skip
    add("--entity-vectors", metavar="FILE", help="entity-lens vectors to read with (those trained here, else those "
        "that ship for the model)")  # fmt: skip
    if heads:
        _head_options(group)
    add("--agent", metavar="off|rounds=N", help="let the language model test what it says: other hypotheses, N "
        f"rounds of experiments, revision, where the verdict is open ({DEFAULT_AGENT} with an LLM explainer, else off; "
        "at most half of a budget)")  # fmt: skip
    server_options(parser)
    group = parser.add_argument_group("budget")
    add = group.add_argument
    add("--budget-usd", type=float, metavar="X", help="stop before a request would pass this cost (exit code 3)")
    add("--budget-tokens", type=int, metavar="N", help="stop before a request would pass this many tokens")
    add("--price-input", type=float, metavar="X", help="USD a million prompt tokens, where the price list has none")
    add("--price-output", type=float, metavar="X", help="USD a million reply tokens")


def _head_options(group: argparse._ArgumentGroup) -> None:
    """What only heads have: circuits."""
    add = group.add_argument
    add("--circuit", metavar="FILE", help="circuit.json that `autointerp replicate` wrote for this model: heads called "
        "name_mover, duplicate_token, s_inhibition or induction are held against it (default: none)")  # fmt: skip


def server_options(parser: argparse.ArgumentParser) -> None:
    """Options that name the OpenAI-compatible server."""
    group = parser.add_argument_group("language model", "the key comes from OPENAI_API_KEY, in the environment or .env")
    add = group.add_argument
    add("--llm", metavar="NAME", help="model name (AUTOINTERP_LLM), scripted:FILE, recorded:RUN, or rules "
        "(fixed rules, to try things out)")  # fmt: skip
    add("--base-url", metavar="URL", help="of the OpenAI-compatible server, with /v1 (OPENAI_BASE_URL)")
    add("--timeout", type=float, metavar="S", help="seconds for one request (600)")
    add("--concurrency", type=int, metavar="N", help="requests in flight (8)")


def folder_options(parser: argparse.ArgumentParser, noun: str = "heads") -> None:
    """Options of a run folder; `noun`: what is described."""
    add = parser.add_argument
    add("--out", metavar="DIR", help="run folder (runs/<time>-<model>); the same command with the same --out resumes")
    add("--dry-run", action="store_true", help="collect evidence, print the calls, tokens and cost, send nothing")
    add("--retry-failed", action="store_true", help=f"describe failed {noun} again")


def resolve(arguments: argparse.Namespace, environment: Mapping[str, str]) -> tuple[RunConfig, Settings]:
    """Options over environment over defaults. Raises BadInput for a value that cannot be used."""
    given = {name: value for name, value in vars(arguments).items() if value is not None and value is not False}
    both = {**environment, **given}
    for name in _LISTS:
        if isinstance(both.get(name), str):
            both[name] = tuple(part.strip() for part in both[name].split(",") if part.strip())
    known = FEATURE_SCORERS if both.get("units") else SCORERS
    if "scorers" in both and not both["scorers"]:
        raise BadInput(f"--scorers names none. Leave it out for all, or name some of {', '.join(known)}.")
    unknown = sorted(set(both.get("scorers", ())) - set(known))
    if unknown:
        raise BadInput(f"--scorers names {', '.join(unknown)}; known are {', '.join(known)}.")
    if both.get("units"):
        both.setdefault("scorers", FEATURE_SCORERS)
    if "lenses" in both:
        both["lenses"] = chosen_lenses(both["lenses"])
    if str(both.get("model", "")).partition(":")[0] in ("planted", "planted-features"):
        both.setdefault("corpus", ("planted",))  # it knows no other words
    if both.get("judge") and both["judge"] == both.get("llm"):
        raise BadInput(f"--judge {both['judge']!r} is the model of --llm. Name another one, or leave --judge out.")
    if "corpus" in both:
        both["corpus"] = tuple(both["corpus"])
    settings = _build(Settings, {n: v for n, v in both.items() if n in Settings.model_fields})
    config = _build(RunConfig, {n: v for n, v in both.items() if n in RunConfig.model_fields})
    check_lenses(config)
    return config, settings


def _build(kind: type[M], values: dict[str, Any]) -> M:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "option"
        raise BadInput(f"{name} {first.get('input')!r}: {first['msg']}. Give another value.") from None
