"""Cost of the first pass over attention, against the bare forward of the same model over the same batches.

    python benchmarks/collect.py [--quick]

1. Time: a GPT-2-small-shaped random model reads the same batches twice in turn, bare (base model, no unembedding) and
   with all statistics, write norms, reservoirs and totals; the ratio is of summed times, contexts 128 and 256.
2. Memory: peak resident size of a process that builds a corpus of 100k and of 1M tokens from a file and collects it.

The last line is JSON: {"ratio_128", "ratio_256", "memory_growth"}. `--quick` measures fewer batches and a smaller
model for the memory part; its numbers are not the benchmark's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autointerp.demo.corpus import documents
from autointerp.demo.model import weights_folder
from autointerp.evidence.first_pass import Batch, FirstPass, FirstPassReader, PassSpec, run_first_pass
from autointerp.evidence.hashing import document_keys
from autointerp.model import LanguageModel

BATCH = 8


@dataclass(frozen=True)
class Windows:
    """One batch."""

    ids: np.ndarray
    lengths: np.ndarray
    doc: np.ndarray
    windows: np.ndarray


def random_model(*, small: bool, noise: float = 0.0) -> LanguageModel:
    """GPT-2 small's shape with random weights, and the demo model's tokenizer (ids below its vocabulary are used).

    `noise` is added to every weight: a fresh model says the same whatever it is fed.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    shape = {"n_layer": 4, "n_embd": 256, "n_head": 4} if small else {}
    config = GPT2Config(vocab_size=50257, bos_token_id=0, eos_token_id=0, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in network.parameters() if noise else ():
                parameter.add_(torch.randn_like(parameter) * noise)
    network.requires_grad_(requires_grad=False)
    bridge = TransformerBridge.boot_transformers("random/gpt2", hf_model=network, tokenizer=tokenizer)
    strings = [str(number) for number in range(config.vocab_size)]
    return LanguageModel(bridge, tokenizer, "random GPT-2 small", "", strings, 0)


def batches(context: int, n: int, vocabulary: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    made: list[Batch] = []
    for number in range(n):
        ids = rng.integers(1, vocabulary, (BATCH, context)).astype(np.int32)
        ids[:, 0] = 0
        windows = np.arange(BATCH) + number * BATCH
        made.append(Windows(ids, np.full(BATCH, context), windows // 4, windows))
    return made


def time_ratio(model: LanguageModel, context: int, n: int) -> float:
    """Summed time of collecting over summed time of the bare forward, batch by batch in turn."""
    all_batches = batches(context, n + 1, 50257)
    count = len(all_batches) * BATCH
    spec = PassSpec(
        lambda first: iter(all_batches[first // BATCH :]),
        document_keys([f"{number:064x}" for number in range(count)]),
        np.arange(count) % 4,
        np.arange(50257),
        context,
        seed=0,
    )
    reader = FirstPassReader(model, spec, FirstPass.empty(model.n_layers * model.n_heads, 64, spec))
    bare = collected = 0.0
    for number, batch in enumerate(all_batches):
        start = time.perf_counter()
        model.forward_base(model.to_ids(batch.ids))
        middle = time.perf_counter()
        reader.read(batch)
        stop = time.perf_counter()
        if number:  # the first batch warms up
            bare += middle - start
            collected += stop - middle
    ratio = collected / bare
    print(f"context {context}: bare {bare / n:.3f} s a batch, collecting {collected / n:.3f} s, ratio {ratio:.3f}")
    return ratio


def peak_memory(n_tokens: int, *, small: bool) -> float:
    """Peak resident size, MiB, of a process of its own that builds and collects a corpus of `n_tokens`."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "corpus.txt"
        with text.open("w", encoding="utf-8") as file:
            size = 0
            for document in documents(1):
                line = document.text.replace("\n", " ")
                file.write(line + "\n\n")
                size += len(line)
                if size > 7 * n_tokens:
                    break
        command = [sys.executable, __file__, "--memory-of", str(text), str(n_tokens), *(["--quick"] if small else [])]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = float(found.stdout.strip().splitlines()[-1])
    print(f"{n_tokens} tokens: peak resident size {peak:.0f} MiB")
    return peak


def collect_file(path: Path, n_tokens: int, *, small: bool) -> float:
    """Build the corpus of a file, run the first pass over all its windows, return the peak resident size in MiB."""
    from autointerp.corpus import WindowSpec, build_corpus, read_texts
    from autointerp.evidence.collect import ExplainWindows
    from autointerp.evidence.examples import Windows as CorpusWindows
    from autointerp.evidence.windows import ModelEncoder

    model = random_model(small=small)
    spec = WindowSpec(context=128, bos_id=0, special_ids=(0,), max_tokens=n_tokens, salt="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        corpus = build_corpus(read_texts([str(path)]), ModelEncoder(model), spec, Path(folder) / "corpus")
        windows = CorpusWindows(corpus.ids, corpus.lengths, corpus.doc, corpus.window_in_doc, corpus.doc_ids)
        cluster = np.asarray(corpus.cluster)[np.asarray(corpus.doc)]
        every = ExplainWindows(windows, np.arange(len(corpus.lengths)), cluster, 128)
        plan = PassSpec(
            every.batches(BATCH), document_keys(corpus.doc_ids), corpus.window_in_doc, every.token_ids(), 128, seed=0
        )
        state = run_first_pass(model, plan)
        assert int(state.progress[0]) == len(corpus.lengths)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches, a small model for the memory part")
    parser.add_argument("--memory-of", nargs=2, metavar=("FILE", "TOKENS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(collect_file(Path(arguments.memory_of[0]), int(arguments.memory_of[1]), small=arguments.quick))
        return
    model = random_model(small=False)
    n = 4 if arguments.quick else 16
    ratios = {context: time_ratio(model, context, n) for context in (128, 256)}
    del model
    peaks = [peak_memory(tokens, small=arguments.quick) for tokens in (100_000, 1_000_000)]
    result = {"ratio_128": ratios[128], "ratio_256": ratios[256], "memory_growth": peaks[1] / peaks[0] - 1}
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
