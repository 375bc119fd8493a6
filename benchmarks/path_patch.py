"""Path patching from every head to the logits, against the published algorithm head by head.

    python benchmarks/path_patch.py [--quick]

A GPT-2-small-shaped random model and pairs of random prompts that differ in one token; senders at END, MLPs and norms
recomputed. The published side (arXiv 2211.00593, appendix B) caches z of all heads on the new and the original prompts
(passes A and B), then runs one whole forward a head with every z frozen but the head's (pass C) and reads the logits
off it. Our side is `circuits.path_patching.path_patch`, measures and statistics included. Both count their own
unpatched runs. The sides take turns: ours runs before, half-way and after.

The last line is JSON: {"speedup", "max_abs_diff"}: summed time of the published side over the mean time of ours, and
the largest difference between any head's logit difference on any prompt. `--quick` takes two heads of each layer.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np
import torch
from collect import random_model

from autointerp.circuits.path_patching import PathPlan, path_patch
from autointerp.circuits.prompts import ContrastSet
from autointerp.model import LanguageModel, prove
from autointerp.model.nodes import Grids, NodeKind, node_hook, putting, read_nodes
from autointerp.records import Head


def random_pairs(n: int, size: int, vocabulary: int) -> ContrastSet:
    """Prompts of random tokens; the corrupted ones differ in the middle token."""
    rng = np.random.default_rng(0)
    clean = rng.integers(1, vocabulary, (n, size))
    corrupted = clean.copy()
    corrupted[:, size // 2] = rng.integers(1, vocabulary, n)
    answers = rng.integers(1, vocabulary, (2, n))
    roles = {"END": np.full(n, size - 1)}
    return ContrastSet("random pairs", clean, corrupted, np.full(n, size), *answers, roles, ("",) * n)


class Published:
    """Passes A, B and C, a head at a time."""

    def __init__(self, model: LanguageModel, prompts: ContrastSet) -> None:
        self._model, self._prompts = model, prompts
        names: list[tuple[NodeKind, int]] = [("z", layer) for layer in range(model.n_layers)]
        self._ids = model.to_ids(prompts.clean)
        self._new: Grids = read_nodes(model, model.to_ids(prompts.corrupted), names)
        self._old: Grids = read_nodes(model, self._ids, names)
        self._base = self._difference()

    def effect(self, head: Head) -> np.ndarray:
        """Change of the logit difference of each prompt."""
        model, end = self._model, self._ids.shape[1] - 1
        everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
        hooks = []
        for layer in range(model.n_layers):
            z = self._old["z", layer]
            if layer == head.layer:
                z = z.clone()
                z[:, end, head.index] = self._new["z", layer][:, end, head.index]
            hooks.append((node_hook("z", layer), putting("z", model.n_heads, everywhere, z)))
        with model.hooks(hooks):
            return self._difference() - self._base

    def _difference(self) -> np.ndarray:
        hidden = self._model.final_states(self._ids)[1][:, -1]
        logits = self._model.unembed(hidden).double().numpy()
        each = np.arange(len(logits))
        return np.asarray(logits[each, self._prompts.answer] - logits[each, self._prompts.wrong])


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two heads of each layer; not the benchmark's numbers")
    parser.add_argument("--prompts", type=int, default=8, help="pairs (8)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a prompt (16)")
    arguments = parser.parse_args()
    model = prove(random_model(small=False))[0]
    prompts = random_pairs(arguments.prompts, arguments.tokens, model.d_vocab)
    per_layer = range(0, model.n_heads, model.n_heads // 2) if arguments.quick else range(model.n_heads)
    heads = [Head(layer=n, index=h) for n in range(model.n_layers) for h in per_layer]
    plan = PathPlan("noise", (), "END", senders=tuple((head,) for head in heads))
    print(f"{model.n_layers} layers of {model.n_heads} heads, {len(heads)} senders, {arguments.prompts} prompts of "
          f"{arguments.tokens} tokens; {torch.get_num_threads()} threads")  # fmt: skip
    ours: list[float] = []

    def run_ours() -> np.ndarray:
        start = time.perf_counter()
        found = path_patch(model, prompts, plan)["logit_diff"]
        ours.append(time.perf_counter() - start)
        return found.values

    path_patch(model, prompts.take(np.arange(2)), plan)  # warm
    values = run_ours()
    published, difference = 0.0, 0.0
    start = time.perf_counter()
    theirs = Published(model, prompts)
    published += time.perf_counter() - start
    for number, head in enumerate(heads):
        if number == len(heads) // 2:
            run_ours()
        start = time.perf_counter()
        effect = theirs.effect(head)
        published += time.perf_counter() - start
        difference = max(difference, float(np.abs(effect - values[number]).max()))
    run_ours()
    mean = sum(ours) / len(ours)
    print(f"published {published:.2f} s, ours {mean:.3f} s ({', '.join(f'{t:.3f}' for t in ours)})")
    print(f"largest effect {float(np.abs(values).max()):.3g} logits")
    print(json.dumps({"speedup": float(f"{published / mean:.4g}"), "max_abs_diff": float(f"{difference:.4g}")}))


if __name__ == "__main__":
    main()
