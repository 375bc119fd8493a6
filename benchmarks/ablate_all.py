"""Cost of exact mean ablation of every head, against a full forward a head that scores the same positions.

    python benchmarks/ablate_all.py [--quick]

A GPT-2-small-shaped random model, contexts of 128 tokens. Both sides replace z of one head by its mean at all positions
after the first, and compute the rise of the loss and the KL of the scored positions against the same unchanged run by
the same code; both count that run. One side resumes (`scoring.ablation`), the other runs the whole model with a hook
on z. The two take turns head by head, so that what else the machine does meets both; the ratio is of summed times.

1. All positions are scored: `time_share`.
2. A sample is scored, as in a run (`scored_positions`): `time_share_sampled`. The full forwards run the whole windows;
   `time_share_sampled_cut` is against full forwards that are cut after the last scored position too.

The last line is JSON: {"time_share", "time_share_sampled", "time_share_sampled_cut", "max_abs_diff"}; the difference
is the largest between any rise or KL of the two sides, nats. `--quick` ablates a few heads of every layer; its numbers
are not the benchmark's.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from collect import random_model

from autointerp.model import LanguageModel, prove, with_changed_z
from autointerp.scoring.ablation import AblationBatch, BatchAblation, ablation_batches, scored_positions
from autointerp.scoring.held_out import HeldOutRows, text_rows

CONTEXT = 128
Found = tuple[np.ndarray, np.ndarray]


@dataclass
class Tally:
    """Summed seconds of both sides, by the clock and of the processor, and the largest difference of their numbers."""

    fast: np.ndarray = field(default_factory=lambda: np.zeros(2))
    full: np.ndarray = field(default_factory=lambda: np.zeros(2))
    difference: float = 0.0

    @property
    def share(self) -> float:
        return float(self.fast[0] / self.full[0])


def held_out_rows(windows: int, vocabulary: int) -> HeldOutRows:
    """Windows of random tokens, a document each."""
    ids = np.random.default_rng(0).integers(1, vocabulary, (windows, CONTEXT)).astype(np.int32)
    ids[:, 0] = 0
    return text_rows(ids, np.full(windows, CONTEXT), np.arange(windows), "test", (0,))


def mean_z(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """Mean of each head's z over all positions after the first, `[layer head d_head]`."""
    means = np.zeros((model.n_layers, model.n_heads, model.W_O(0).shape[1]))

    def keep(layer: object) -> None:
        means[layer.index] = layer.z[:, 1:].mean((0, 1)).numpy()  # type: ignore[attr-defined]

    model.read_attention(model.to_ids(ids), list(range(model.n_layers)), keep)
    return means


def full_forwards(side: BatchAblation, layer: int, heads: list[int], means: np.ndarray) -> Iterator[Found]:
    """What `BatchAblation.ablate` gives, by a whole forward a head."""
    model = replace(side.model, exact_resume=False)
    for head in heads:

        def change(z: torch.Tensor, head: int = head) -> torch.Tensor:
            z[:, 1:, head] = torch.as_tensor(means[head], dtype=z.dtype)
            return z

        hidden = with_changed_z(model, side.run, layer, change)
        rise, kl = side.clean.effects(hidden[side.rows.window, side.rows.pos][None])
        yield rise[0].numpy(), kl[0].numpy()


def timed(work: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    start = np.array([time.perf_counter(), time.process_time()])
    found = work()
    return np.array([time.perf_counter(), time.process_time()]) - start, found


def compare(model: LanguageModel, batches: tuple[AblationBatch, AblationBatch], heads: list[int]) -> Tally:
    """All layers of one batch; `batches` are the same rows as each side runs them: cut, and cut or whole."""
    tally = Tally()
    means = mean_z(model, batches[1].ids)
    tally.fast, ours = timed(lambda: BatchAblation(model, batches[0]))
    tally.full, theirs = timed(lambda: BatchAblation(model, batches[1]))
    list(full_forwards(theirs, 0, heads[:1], means[0]))  # both sides warm
    list(ours.ablate(0, heads[:1], means[0]))
    for layer in range(model.n_layers):
        fast = ours.ablate(layer, heads, means[layer])
        full = full_forwards(theirs, layer, heads, means[layer])
        for _ in heads:
            spent, found = timed(lambda fast=fast: next(fast))
            tally.fast += spent
            spent, wanted = timed(lambda full=full: next(full))
            tally.full += spent
            worst = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
            tally.difference = max(tally.difference, worst)
    return tally


def total(title: str, tallies: list[Tally]) -> Tally:
    fast, full = np.sum([t.fast for t in tallies], 0), np.sum([t.full for t in tallies], 0)
    summed = Tally(fast, full, max(t.difference for t in tallies))
    print(
        f"{title}: full forwards {full[0]:.1f} s, ablation {fast[0]:.1f} s, share {summed.share:.3f} "
        f"({fast[1] / full[1]:.3f} in processor time); largest difference {summed.difference:.1e} nats",
        flush=True,
    )
    return summed


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three heads of each layer, fewer windows")
    parser.add_argument("--only", choices=("all", "sampled"), help="one of the two comparisons")
    arguments = parser.parse_args()
    model = prove(random_model(small=False))[0]
    print(f"{model.n_layers} layers of {model.n_heads} heads; {model.shortcuts}; {torch.get_num_threads()} threads")
    heads = [0, 5, 11] if arguments.quick else list(range(model.n_heads))
    result: dict[str, float] = {}
    differences: list[float] = []
    if arguments.only != "sampled":
        rows = held_out_rows(2 if arguments.quick else 4, model.d_vocab)
        scored = rows.rows & (np.arange(CONTEXT) < CONTEXT - 1)
        everything = [compare(model, (b, b), heads) for b in ablation_batches(rows, scored, model.d_vocab)]
        whole = total("all positions", everything)
        result["time_share"] = whole.share
        differences.append(whole.difference)
    if arguments.only != "all":
        rows = held_out_rows(4 if arguments.quick else 8, model.d_vocab)
        scored = scored_positions(rows, model.d_vocab, np.random.default_rng(0))
        batches = list(ablation_batches(rows, scored, model.d_vocab))
        cuts = [batch.ids.shape[1] for batch in batches]
        print(f"a sample of {int(scored.sum())} positions of {len(rows.ids)} windows, batches cut at {cuts}")
        whole = total("a sample", [compare(model, (b, replace(b, ids=rows.ids[b.windows])), heads) for b in batches])
        cut = total("a sample, full forwards cut too", [compare(model, (b, b), heads) for b in batches])
        result |= {"time_share_sampled": whole.share, "time_share_sampled_cut": cut.share}
        differences += [whole.difference, cut.difference]
    result["max_abs_diff"] = max(differences)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in result.items()}))


if __name__ == "__main__":
    main()
