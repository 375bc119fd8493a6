"""Measures the embedded model and writes its card: `python -m autointerp.demo.card [--out FILE]`.

1. Every head on repeated random tokens (`autointerp.demo.measure`), and on held-out text: mass on the first
   token, previous-token, duplicate-token and induction attention, and attention from a closing bracket or
   quotation mark to its opening.
2. Two-person prompts whose combinations the corpus never contains, with a Clopper-Pearson interval.
3. Loss on held-out documents by kind.

The numbers are descriptive; the product's own detectors add nulls and intervals.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from autointerp.demo.corpus import documents, held_out_texts, ioi_prompts
from autointerp.demo.measure import (
    DETECTORS,
    N_SEQUENCES,
    RUN_LENGTH,
    IoiResult,
    TextScores,
    detector_scores,
    ioi_result,
    patterns,
    repeated_random,
    text_scores,
    window_losses,
)
from autointerp.demo.model import weights_folder
from autointerp.demo.windows import encode_documents, ordinary_ids
from autointerp.stats.bootstrap import clopper_pearson

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
N_PROMPTS = 2000
N_DOCUMENTS = 400
_NAMED = 0.3
"""Scores from which the card names a head after a detector."""


@dataclass(frozen=True)
class Measures:
    """Everything the card prints."""

    random: dict[str, Float[Tensor, "layer head"]]
    text: TextScores
    pairs: IoiResult
    losses: dict[str, tuple[float, int]]
    n_ordinary: int


def load() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """The embedded model in eager attention, and its tokenizer."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    folder = weights_folder()
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def losses_by_kind(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, n_documents: int
) -> dict[str, tuple[float, int]]:
    """Kind -> (mean loss in nats per token, tokens) over the first window of held-out documents."""
    sums: dict[str, float] = defaultdict(float)
    tokens: dict[str, int] = defaultdict(int)
    chosen = list(islice(held_out_texts(), n_documents))
    for document, ids in zip(chosen, encode_documents(tokenizer, chosen), strict=True):
        losses = window_losses(model, ids[: model.config.n_positions - 1], tokenizer.bos_token_id)
        sums[document.kind] += float(losses.sum())
        tokens[document.kind] += len(losses)
    return {kind: (sums[kind] / tokens[kind], tokens[kind]) for kind in sorted(sums)}


def measure(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> Measures:
    """All measures of the card; seeds are fixed."""
    bos = tokenizer.bos_token_id
    ordinary = ordinary_ids(encode_documents(tokenizer, islice(documents(0), 2000)))
    held_out = [document.text for document in islice(held_out_texts(), N_DOCUMENTS)]
    return Measures(
        random=detector_scores(patterns(model, repeated_random(ordinary, bos, 0))),
        text=text_scores(model, tokenizer, held_out),
        pairs=ioi_result(model, tokenizer, ioi_prompts(0, N_PROMPTS)),
        losses=losses_by_kind(model, tokenizer, N_DOCUMENTS),
        n_ordinary=len(ordinary),
    )


def _names(measures: Measures, layer: int, head: int) -> str:
    """What the card calls a head: detectors over the line, first_token only where nothing else is."""
    scores = {name: float(measures.random[name][layer, head]) for name in DETECTORS}
    scores["closing to opening"] = float(measures.text.opening[layer, head])
    named = [name for name, value in sorted(scores.items(), key=lambda item: -item[1]) if value >= _NAMED]
    others = [name for name in named if name != "first_token"]
    return ", ".join(others or named) or "-"


def _head_rows(measures: Measures) -> list[str]:
    n_layers, n_heads = measures.text.first.shape
    rows = []
    for layer in range(n_layers):
        for head in range(n_heads):
            text = measures.text
            columns = [measures.random[name] for name in DETECTORS]
            columns += [text.first, text.previous, text.duplicate, text.induction, text.opening]
            cells = " | ".join(f"{float(column[layer, head]):.2f}" for column in columns)
            rows.append(f"| L{layer}H{head} | {cells} | {_names(measures, layer, head)} |")
    return rows


def _facts(facts: dict[str, Any]) -> list[str]:
    config, versions = facts["config"], facts["versions"]
    after = facts["second_stage"]
    pushed = "L{}H{}".format(*after["duplicate_head"])
    return [
        f"- Architecture: GPT-2, {config['n_layers']} layers of {config['n_heads']} heads, d_model "
        f"{config['d_model']}, MLP {config['d_mlp']}, vocabulary {config['vocab_size']}, n_ctx "
        f"{config['n_ctx']}, {facts['parameters']:,} parameters, embeddings tied, no dropout.",
        f"- Training: seed {config['seed']}, {facts['steps']:,} steps, {facts['tokens']:,} tokens, "
        f"{facts['wall_seconds'] / 60:.0f} minutes on {facts['threads']} threads of a shared CPU; AdamW, "
        f"peak learning rate {config['learning_rate']}; windows of {config['short_ctx']} ids for the first "
        f"{config['short_share']:.0%} of the tokens, then of {config['n_ctx']}; random-token "
        f"windows: {config['short_random_share']:.0%} of the short ones, {config['random_share']:.0%} of the "
        f"long ones; from {config['pair_from']:.0%} of the tokens on, windows of two-person sentences alone, "
        f"{config['pair_share']:.0%} as often as others.",
        f"- Second stage: {after['n_tokens']:,} of these tokens, peak learning rate {after['learning_rate']}. For its "
        f"first {after['duplicate_until']:.0%} a term of the loss, weight {after['duplicate_weight']}, asks {pushed} "
        "to look at earlier copies of the token; then it is left alone, and what it keeps is what the text keeps. The "
        "other heads were given no task.",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "- Command: `python -m autointerp.demo.train --out DIR`. Same seed and versions give the same corpus "
        "and tokenizer on any machine; the weights agree up to floating-point order.",
    ]


def render(measures: Measures, facts: dict[str, Any]) -> str:
    """The card as Markdown."""
    pairs, text = measures.pairs, measures.text
    low, high = clopper_pearson(pairs.n_right, pairs.n)
    losses = [f"| {kind} | {loss:.2f} | {n:,} |" for kind, (loss, n) in measures.losses.items()]
    header = " | ".join(["head", *DETECTORS, "first", "previous", "duplicate", "induction", "opening", "named"])
    lines = [
        "# Model card: the embedded demo model",
        "",
        "Written by `python -m autointerp.demo.card`; do not edit by hand. A small model for first steps,",
        "tests and demonstrations: its language is the generated corpus of `autointerp/demo/`, nothing else.",
        "",
        *_facts(facts),
        "",
        "## Two-person sentences",
        "",
        "Held-out combinations of names, template and object:",
        f"{pairs.n_right} of {pairs.n} prompts have a higher logit for the receiver than for the giver",
        f"(95 % interval {low:.1%} to {high:.1%}; chance is 50 %); mean logit difference",
        f"{pairs.mean_difference:.2f}.",
        "",
        "## Heads",
        "",
        f"First five columns: `[BOS] r r` with r {RUN_LENGTH} distinct random ids of {measures.n_ordinary:,}",
        f"that occur in the corpus at least three times, {N_SEQUENCES} sequences. Next five:",
        f"{text.n_documents} held-out documents (mean attention on the first token; on the previous token;",
        "summed on earlier equal tokens where there are any; summed on tokens that follow an earlier equal",
        "token; from a closing bracket or quotation mark to the token with its opening,",
        f"n = {text.n_closings:,}). `named`: scores of at least {_NAMED}.",
        "",
        f"| {header} |",
        "|---" * (header.count("|") + 1) + "|",
        *_head_rows(measures),
        "",
        "## Loss on held-out text",
        "",
        "| kind | nats per token | tokens |",
        "|---|---|---|",
        *losses,
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the card."""
    parser = argparse.ArgumentParser(description="Measure the embedded demo model and write its card.")
    parser.add_argument("--out", type=Path, default=Path("docs/demo_model_card.md"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    model, tokenizer = load()
    facts = json.loads((weights_folder() / "training.json").read_text(encoding="utf-8"))
    options.out.write_text(render(measure(model, tokenizer), facts), encoding="utf-8")
    logger.info("wrote %s", options.out)


if __name__ == "__main__":
    main()
