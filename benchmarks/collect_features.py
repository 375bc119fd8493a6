"""Cost of the first pass over the latents of a sparse autoencoder, against the forward with its plain encoding.

    python benchmarks/collect_features.py [--quick]

1. Time: a GPT-2-small-shaped random model (d_model 768, 12 layers) with a random autoencoder of 16,384 latents at the
   stream after layer 5 reads the same batches twice in turn: the forward up to there with the encoding, and the same
   with all statistics, top lists, reservoirs and shared rows. The ratio is of summed times.
2. Memory: peak resident size of a process that collects 100k tokens over that of one that collects 10k, minus 1. The
   windows lie in a memory-mapped file, as a corpus does.

Biases are set so that about 1 % of the latents are above 0 at a token. The last line is JSON:
{"ratio", "memory_growth"}. `--quick` measures fewer batches, and memory on a smaller model with 2,048 latents.
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
from pathlib import Path

import numpy as np
import torch

from autointerp.demo.model import weights_folder
from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.examples import Windows
from autointerp.features.first_pass import PassPlan, UnitPassReader, run_unit_pass
from autointerp.model import LanguageModel, UnitSite, read_units

BATCH, CONTEXT, WINDOWS_A_DOCUMENT = 8, 128, 2
LATENTS, LAYER, SHARE_ABOVE_0 = 16_384, 5, 0.01
_VOCABULARY = 50257


def random_model(*, small: bool) -> LanguageModel:
    """GPT-2 small's shape with random weights; its tokenizer is the demo model's and stands in."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    shape = {"n_layer": 4, "n_embd": 128, "n_head": 4} if small else {}
    config = GPT2Config(vocab_size=_VOCABULARY, bos_token_id=0, eos_token_id=0, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2LMHeadModel(config).eval()
    network.requires_grad_(requires_grad=False)
    bridge = TransformerBridge.boot_transformers("random/gpt2", hf_model=network, tokenizer=tokenizer)
    return LanguageModel(bridge, tokenizer, "random GPT-2 small", "", [str(n) for n in range(_VOCABULARY)], 0)


def random_site(model: LanguageModel, ids: np.ndarray, *, small: bool) -> UnitSite:
    """Latents with random directions, each with the bias that leaves `SHARE_ABOVE_0` of some rows above 0."""
    width, n, layer = int(model.W_U.shape[0]), LATENTS // 8 if small else LATENTS, 1 if small else LAYER
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(width, n, generator=generator) / width**0.5
    plain = UnitSite("latent", layer, "resid_post", n, width, lambda x: x @ encoder, encoder.T.contiguous())
    bias: list[torch.Tensor] = []

    def fit(_: int, values: torch.Tensor) -> None:
        bias.append(-torch.quantile(values[:, 1:].reshape(-1, n)[:256], 1 - SHARE_ABOVE_0, dim=0))

    read_units(model, model.to_ids(ids), [plain], fit)
    encode = lambda x: torch.addmm(bias[0], x, encoder).relu_()  # noqa: E731
    return UnitSite("latent", layer, "resid_post", n, width, encode, encoder.T.contiguous())


def random_windows(n: int, folder: Path) -> ExplainWindows:
    """`n` windows of random ids, the ids in a file."""
    path = folder / "ids.npy"
    ids = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(n, CONTEXT))
    rng = np.random.default_rng(0)
    for start in range(0, n, 256):
        ids[start : start + 256] = rng.integers(1, _VOCABULARY, (min(256, n - start), CONTEXT))
    ids[:, 0] = 0
    ids.flush()
    del ids
    doc = np.arange(n) // WINDOWS_A_DOCUMENT
    names = [f"{number * 2654435761 % 2**64:064x}"[::-1] for number in range(int(doc.max()) + 1)]
    windows = Windows(np.load(path, mmap_mode="r"), np.full(n, CONTEXT), doc, np.arange(n) % WINDOWS_A_DOCUMENT, names)
    return ExplainWindows(windows, np.arange(n), doc, CONTEXT)


def time_ratio(n: int) -> float:
    """Summed time of collecting over that of the forward with the plain encoding, batch by batch in turn."""
    model = random_model(small=False)
    with tempfile.TemporaryDirectory() as folder:
        explain = random_windows((n + 1) * BATCH, Path(folder))
        site = random_site(model, np.asarray(explain.windows.ids[:BATCH]), small=False)
        reader = UnitPassReader(model, explain, (site,), PassPlan(0, BATCH))
        bare = collected = 0.0
        for number, batch in enumerate(explain.batches(BATCH)(0)):
            start = time.perf_counter()
            read_units(model, model.to_ids(batch.ids), [site], lambda *_: None)
            middle = time.perf_counter()
            reader.read(batch)
            stop = time.perf_counter()
            if number:  # the first batch warms up
                bare += middle - start
                collected += stop - middle
        above = reader.state.rows_above.sum() / max(int(reader.state.progress[1]), 1) / site.n_units
    print(f"{site.n_units} latents, {above:.3%} above 0: forward and encoding {bare / n:.3f} s a batch, "
          f"collecting {collected / n:.3f} s, ratio {collected / bare:.3f}")  # fmt: skip
    return collected / bare


def peak_memory(n_tokens: int, *, small: bool) -> float:
    """Peak resident size, MiB, of a process of its own that collects `n_tokens`."""
    command = [sys.executable, __file__, "--memory-of", str(n_tokens), *(["--quick"] if small else [])]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = float(found.stdout.strip().splitlines()[-1])
    print(f"{n_tokens} tokens: peak resident size {peak:.0f} MiB")
    return peak


def collect_tokens(n_tokens: int, *, small: bool) -> float:
    """Run the first pass over `n_tokens`, return the peak resident size in MiB."""
    model = random_model(small=small)
    with tempfile.TemporaryDirectory() as folder:
        explain = random_windows(n_tokens // CONTEXT, Path(folder))
        site = random_site(model, np.asarray(explain.windows.ids[:BATCH]), small=small)
        state = run_unit_pass(model, explain, (site,), PassPlan(0, BATCH, Path(folder) / "state.npz", every=20.0))
        assert int(state.progress[0]) == len(explain.numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches, a small model for the memory part")
    parser.add_argument("--memory-of", type=int, metavar="TOKENS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(collect_tokens(arguments.memory_of, small=arguments.quick))
        return
    few = 20_000 if arguments.quick else 10_000
    # Memory first: a child's peak begins with what its parent held when it was made.
    peaks = [peak_memory(tokens, small=arguments.quick) for tokens in (few, 10 * few)]
    ratio = time_ratio(4 if arguments.quick else 16)
    print(json.dumps({"ratio": round(ratio, 4), "memory_growth": round(peaks[1] / peaks[0] - 1, 4)}))


if __name__ == "__main__":
    main()
