"""A tiny model folder, a small corpus file and the command line in this process, for the tests of whole runs."""

from __future__ import annotations

import functools
import json
import os
import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autointerp.cli.screen import Screen
from autointerp.config import RunConfig, Settings
from autointerp.pipeline import JobOptions, JobResult, Sources, run_job
from tests.servers import content_for
from tests.tiny_models import N_CTX, WORDS, tiny_tokenizer

LAYERS, HEADS = 2, 4
ALL_HEADS = [f"L{layer}H{index}" for layer in range(LAYERS) for index in range(HEADS)]
PREDICATES = ("distance == 1", "distance == 0", "src == dst and distance > 0", "1 <= distance <= 8", "src.is_first")
NOWHERE = "http://127.0.0.1:9/v1"  # in configs, so that runs against servers on different ports are the same run
QUICK = ("--max-tokens", "5000", "--context", "24", "--seed", "3")


def save_model(folder: Path, layers: int = LAYERS, heads: int = HEADS) -> Path:
    """A random GPT-2 that attends unevenly, saved as HuggingFace does."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(1)  # tests run side by side, and more threads only wait for each other here
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs.pop("name_or_path", None)
    config = GPT2Config(
        n_layer=layers, n_embd=8 * heads, n_head=heads, vocab_size=len(tokenizer), n_positions=N_CTX,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_corpus(path: Path, documents: int = 170, seed: int = 0, extra: str = "") -> Path:
    """Paragraphs of the tiny tokenizer's words; `extra` goes into every document."""
    draw = random.Random(seed)
    words = [w for w in WORDS if w.isalpha()]
    lines = [" ".join(draw.choices(words, k=26)) + extra for _ in range(documents)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def describing(body: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """A valid description that depends on the prompt, letters for pointing, the servers' own content otherwise."""
    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    if "looks_at" not in schema.get("properties", {}):
        return content_for(body)
    draw = random.Random(json.dumps(body["messages"]))
    rule = draw.choice(PREDICATES)
    said = content_for(body)
    assert isinstance(said, Mapping)
    return {**said, "predicate": rule, "looks_at": f"rule {rule}", "label": "other", "domain": "text", "unclear": False}


def command(model: Path, corpus: Path, out: Path, *more: str) -> list[str]:
    """The main job on a folder and a file, quick."""
    places = ["--model", str(model), "--corpus", str(corpus), "--out", str(out)]
    return ["describe-all-heads", *places, *QUICK, *more]


def asking(url: str, *more: str) -> list[str]:
    """Options that ask a test server."""
    return ["--explainer", "llm", "--llm", "test-model", "--base-url", url, "--agent", "off", *more]


def config_for(model: Path, corpus: Path, **values: Any) -> RunConfig:
    """The same job for `run_job`."""
    quick = {"max_tokens": 5000, "context": 24, "seed": 3, "explainer": "detectors"}
    return RunConfig(**{"model": str(model), "corpus": (str(corpus),), **quick, **values})


def asking_config(model: Path, corpus: Path, **values: Any) -> RunConfig:
    """A config that asks a server, whose address `run_here(base_url=...)` gives."""
    return config_for(model, corpus, explainer="llm", llm="test-model", base_url=NOWHERE, **values)


def run_here(
    config: RunConfig, out: Path, *, retry_failed: bool = False, dry_run: bool = False, **settings: Any
) -> JobResult:
    """`run_job` with quick retries."""
    options = JobOptions(Settings(**{"retry_base": 0.002, **settings}), "autointerp test", retry_failed, dry_run)
    return run_job(config, Sources(config.model), out, options, Screen())


def subprocess_environment() -> dict[str, str]:
    """The environment of a child that imports this checkout and keeps to one thread."""
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """All lines of a JSONL file, each of which must be whole."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_in(cache: Path, table: str) -> int:
    """How many rows a table of the request cache has."""
    with sqlite3.connect(cache) as database:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def all_text(folder: Path) -> bytes:
    """Every byte that a run wrote, the request cache beside it included."""
    files = [p for p in folder.parent.rglob("*") if p.is_file()]
    return b"\n".join(p.read_bytes() for p in files)


@functools.cache
def shipped(name: str) -> str:
    """The text of a shipped template."""
    from autointerp.prompting import shipped_folder

    return (shipped_folder() / f"{name}.jinja").read_text(encoding="utf-8")
