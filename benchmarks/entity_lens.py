"""Time of the entity lens over layers x tokens, against the loop of full forwards that the original tool used.

    python benchmarks/entity_lens.py [--quick]

The loop: for each layer one forward of the text, then one full forward of all prompts of that layer for each token of
the answer, without a cache, until every prompt has stopped at the same step. Ours: `entity_lens`. A random model of
GPT-2 small's shape, every layer and the embedding, random task vectors; once without context, once with the text up
to each token as context. Both ways must say the same strings.

The last line is JSON: {"speedup", "same_strings"}; `speedup` is the smaller of the two. `--quick` takes a smaller
model and a shorter text; its numbers are not the benchmark's.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np
import torch
from collect import random_model

from autointerp.lenses.entity import LensOptions, entity_lens
from autointerp.lenses.entity_checkpoint import EntityVectors
from autointerp.lenses.entity_frame import Context, Frame
from autointerp.lenses.entity_run import PromptRunner
from autointerp.lenses.entity_vectors import EMBEDDING
from autointerp.model import LanguageModel

MAX_TOKENS = 8
Answer = tuple[int, ...]  # ids, so that answers are compared that the tokenizer cannot spell
TEXT = "Shares of Union Tools rose before Tamsin Marr left"
SHORT = "Shares of Union Tools rose"  # with the text before each token as context, the loop is slow


def random_vectors(model: LanguageModel, context: Context) -> EntityVectors:
    layers = tuple(range(EMBEDDING, model.n_layers))
    draw = torch.Generator().manual_seed(0)
    theta, mean = (torch.randn(len(layers), int(model.bridge.cfg.d_model), generator=draw) for _ in range(2))
    return EntityVectors(layers, theta, theta[None], mean, mean[None], None, {"context": context})


def loop_of_forwards(model: LanguageModel, vectors: EntityVectors, text: str) -> list[Answer]:
    """The original way: layer by layer, whole prompts at every step."""
    frame = Frame.of(model)
    ids = frame.text(model, text)
    found: list[Answer] = []
    for place, layer in enumerate(vectors.layers):
        name = "hook_embed" if layer < 0 else f"blocks.{layer}.hook_resid_post"
        kept: list[torch.Tensor] = []
        with model.hooks([(name, lambda stream, hook, kept=kept: kept.append(stream.clone()))]):
            model.bridge(model.to_ids(ids[None]))
        h = kept[0][0, 1:].float()
        found += _decode(model, frame, ids, torch.stack([h, vectors.theta[place].expand_as(h)], 1), vectors.context)
    return found


def _decode(model: LanguageModel, frame: Frame, ids: np.ndarray, soft: torch.Tensor, context: Context) -> list[Answer]:
    """Prompts of one layer, side by side, padded on the left like the original's."""
    starts = [[frame.start] if context == "none" else [int(i) for i in ids[: pos + 2]] for pos in range(len(soft))]
    longest = max(len(start) for start in starts)
    rows = torch.tensor([[0] * (longest - len(start)) + [*start, *frame.slots] for start in starts])
    pads = torch.tensor([longest - len(start) for start in starts])
    for _ in range(MAX_TOKENS):
        mask = torch.arange(rows.shape[1]) >= pads[:, None]
        places = (torch.arange(rows.shape[1]) - pads[:, None]).clamp_min(0)

        def insert(embedded: torch.Tensor, hook: object) -> torch.Tensor:
            embedded[:, longest : longest + 2] = soft
            return embedded

        with model.hooks([("hook_embed", insert)]):
            logits = model.bridge.original_model(
                rows, attention_mask=mask.long(), position_ids=places, use_cache=False
            ).logits
        best = logits[:, -1].argmax(-1)
        rows = torch.cat([rows, best[:, None]], 1)
        if bool((best == frame.stop).all()):
            break
    answers = rows[:, longest + 2 :].tolist()
    return [tuple(row[: row.index(frame.stop)] if frame.stop in row else row) for row in answers]


def compare(model: LanguageModel, context: Context, words: str, repeats: int) -> tuple[float, bool]:
    """Time of the loop over time of the lens, in turn; and whether all strings agree."""
    vectors = random_vectors(model, context)
    options = LensOptions(vectors.layers, use_filter=False, controls=(), max_tokens=MAX_TOKENS)
    runner = PromptRunner(model, Frame.of(model))
    ours = theirs = 0.0
    same = True
    for number in range(repeats + 1):
        text = words if number else "The"  # the first round warms up
        start = time.perf_counter()
        reading = entity_lens(model, vectors, text, options, runner)
        middle = time.perf_counter()
        said = loop_of_forwards(model, vectors, text)
        stop = time.perf_counter()
        same = same and said == [cell.ids for cell in reading.cells]
        if number:
            ours, theirs = ours + middle - start, theirs + stop - middle
    n = f"{len(vectors.layers)} layers x {len(reading.tokens)} tokens, {len(set(said))} different answers"
    print(f"context {context}: {n}; loop {theirs / repeats:.2f} s, lens {ours / repeats:.2f} s, {theirs / ours:.2f}x")
    return theirs / ours, same


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and a short text")
    quick = parser.parse_args().quick
    model = random_model(small=quick, noise=0.05)
    texts: dict[Context, str] = {"none": SHORT if quick else TEXT, "prefix": SHORT}
    found = [compare(model, context, text, 1) for context, text in texts.items()]
    print(json.dumps({"speedup": min(f for f, _ in found), "same_strings": all(same for _, same in found)}))


if __name__ == "__main__":
    main()
