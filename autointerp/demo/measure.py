"""Measures the demo model, with transformers alone: head detectors, two-person sentences, loss by kind.

The detectors are those of the product on `[BOS] r_1..r_T r_1..r_T` (ids drawn from ordinary ids, all distinct
within r), with o = 1:
- previous_token: mean of A[d, d-1], d >= 2;
- current_token: mean of A[d, d], d >= 2;
- first_token: mean of A[d, 0], d >= 1;
- duplicate_token: mean of A[o+T+i, o+i], 0 <= i < T;
- induction: mean of A[o+T+i, o+i+1], 0 <= i < T-1 (Olsson et al. 2022, arXiv 2209.11895).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.demo.brackets import bracket_pairs

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    from autointerp.demo.pairs import IoiPrompt

RUN_LENGTH = 50
N_SEQUENCES = 50
DETECTORS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")


@dataclass(frozen=True, slots=True)
class IoiResult:
    """Two-person prompts answered right (`logit[correct] > logit[wrong]`) and the mean logit difference."""

    n: int
    n_right: int
    mean_difference: float


def repeated_random(ordinary: Sequence[int], bos: int, seed: int) -> Int[Tensor, "batch pos"]:
    """`N_SEQUENCES` rows of BOS and a run of `RUN_LENGTH` distinct ordinary ids, said twice."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor(ordinary)
    rows = []
    for _ in range(N_SEQUENCES):
        run = pool[torch.randperm(len(pool), generator=generator)[:RUN_LENGTH]]
        rows.append(torch.cat((torch.tensor([bos]), run, run)))
    return torch.stack(rows)


@torch.no_grad()
def patterns(model: GPT2LMHeadModel, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "layer batch head dst src"]:
    """Attention after the softmax; the model must have been loaded with attn_implementation="eager"."""
    attentions = model(ids, output_attentions=True, use_cache=False).attentions
    if not attentions or attentions[0] is None:
        raise ValueError('the model returned no attentions; load it with attn_implementation="eager"')
    return torch.stack(attentions)


def detector_scores(
    pattern: Float[Tensor, "layer batch head dst src"], run_length: int = RUN_LENGTH
) -> dict[str, Float[Tensor, "layer head"]]:
    """The five detectors on repeated random tokens with BOS, averaged over sequences and positions."""
    again = torch.arange(1 + run_length, 1 + 2 * run_length)
    dst = torch.arange(2, pattern.shape[-2])

    def mean(rows: Tensor, sources: Tensor) -> Tensor:
        return pattern[..., rows, sources].mean(dim=(1, 3))

    return {
        "previous_token": mean(dst, dst - 1),
        "current_token": mean(dst, dst),
        "first_token": mean(torch.arange(1, pattern.shape[-2]), torch.tensor(0)),
        "duplicate_token": mean(again, again - run_length),
        "induction": mean(again[:-1], again[:-1] - run_length + 1),
    }


@torch.no_grad()
def ioi_result(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: Iterable[IoiPrompt]) -> IoiResult:
    """Logit difference correct - wrong at the last token of BOS + prompt, one prompt at a time."""
    differences = []
    for item in prompts:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(item.prompt, add_special_tokens=False)]
        correct, wrong = (single_id(tokenizer, name) for name in (item.correct, item.wrong))
        logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
        differences.append(float(logits[correct] - logits[wrong]))
    right = sum(difference > 0 for difference in differences)
    return IoiResult(len(differences), right, sum(differences) / max(1, len(differences)))


def single_id(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """The id of a text that is one token; ValueError where it is not."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens for this tokenizer, not one; train the tokenizer again")
    return ids[0]


@torch.no_grad()
def window_losses(model: GPT2LMHeadModel, ids: Sequence[int], bos: int) -> Float[Tensor, " pos"]:
    """Loss in nats of each of the ids, given BOS and the ids before it."""
    row = torch.tensor([[bos, *ids]])
    logits = model(row, use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="none")


@dataclass(frozen=True)
class TextScores:
    """Mean attention per head on held-out text; see `text_scores` for the rows of each column."""

    first: Float[Tensor, "layer head"]
    previous: Float[Tensor, "layer head"]
    duplicate: Float[Tensor, "layer head"]
    induction: Float[Tensor, "layer head"]
    opening: Float[Tensor, "layer head"]
    n_documents: int
    n_closings: int


def text_masks(ids: Int[Tensor, " pos"], pairs: Iterable[tuple[int, int]]) -> dict[str, Float[Tensor, "dst src"]]:
    """Cells (1 or 0) of each kind for one window with BOS; `pairs`: (src, dst) of opening and closing tokens.

    first: source 0; previous: d-1; duplicate: earlier equal ids; induction: sources after an earlier equal
    id; opening: the token of the opening sign, for the token of its closing sign. Position 0 is no
    destination, and BOS no source but for `first`.
    """
    n = len(ids)
    content = torch.ones(n, n).tril(-1)
    content[:, 0] = 0
    equal = (ids[:, None] == ids[None, :]).float() * content
    first, previous, after, opening = torch.zeros(4, n, n)
    first[1:, 0] = 1
    previous[torch.arange(2, n), torch.arange(1, n - 1)] = 1
    after[:, 1:] = equal[:, :-1]
    for src, dst in pairs:
        opening[dst, src] = 1
    return {"first": first, "previous": previous, "duplicate": equal, "induction": after, "opening": opening}


def text_scores(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TextScores:
    """Attention summed over the cells of `text_masks`, averaged over the rows that have such a cell."""
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    for text in texts:
        encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([tokenizer.bos_token_id, *encoding.ids][: model.config.n_positions])
        pattern = patterns(model, ids[None])[:, 0]
        for name, mask in text_masks(ids, _token_pairs(text, encoding.offsets, len(ids))).items():
            summed = torch.einsum("lhds,ds->lh", pattern, mask)
            sums[name] = sums.get(name, torch.zeros_like(summed)) + summed
            rows[name] = rows.get(name, 0) + int(mask.any(-1).sum())
    means = {name: total / max(1, rows[name]) for name, total in sums.items()}
    return TextScores(**means, n_documents=len(texts), n_closings=rows["opening"])


def _token_pairs(text: str, offsets: Sequence[tuple[int, int]], n_positions: int) -> set[tuple[int, int]]:
    """(position of the opening token, position of the closing token) within the window; BOS is position 0."""
    token_at = {char: index for index, span in enumerate(offsets) for char in range(*span)}
    positions = ((token_at[start] + 1, token_at[stop] + 1) for start, stop in bracket_pairs(text))
    return {(src, dst) for src, dst in positions if src < dst < n_positions}
