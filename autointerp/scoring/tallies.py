"""Counts of predicted against true pairs, for every head of a layer and every predicate, by document.

1. The model runs over the held-out windows; for a group of layers the contributions `a_s ||v_s W_O||` are kept.
2. Off the sink, by row: `a` = contribution over the row's contribution (attention share where the head writes
   nothing). Positive: a >= .3, negative: a <= .02, between: left out of the classification (scoring_validity rule 3).
3. One product a window, [head x quantity, dst x src] times [dst x src, predicate], gives all counts at once.
4. Negatives are counted three times: as they come (tier T0); weighted so that their destination tokens are distributed
   like those of the positives (tier T1), the weights keep the total; and those whose two tokens and distance bucket are
   those of some positive (tier T2), weighted to the positives' distribution over these.

Rows with mass under tau are left out, but for coverage, which is over all rows. It does not choose anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from autointerp.evidence.buckets import bucket_of
from autointerp.evidence.rows import TAU, Masks, OutputGeometry, write_norms
from autointerp.model import LanguageModel, Layer
from autointerp.model.read_up_to import read_up_to
from autointerp.records import Head
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.token_identity import THRESHOLDS, IdentityPredictions

THETA_HIGH, THETA_LOW = 0.3, 0.02
NO_WRITE = 1e-6  # of the residual stream's norm
GROUP_CELLS = 24_000_000  # pairs held at once, over a group of layers
BY_PREDICATE = ("tp", "fp", "fp_natural", "predicted", "predicted_a", "covered", "fp_same_tokens")
BY_HEAD = (
    "positives", "negatives", "pairs", "sum_a", "sum_aa", "mass_positive", "contribution", "same_tokens",
    "n_same_tokens",
)  # fmt: skip
# Rows of the product: the seven of BY_PREDICATE, then a squared, a on positives, and T2 negatives without weights.


@dataclass(frozen=True)
class LayerTallies:
    """Sums by document. `by_predicate [quantity head predicate doc]` in the order of BY_PREDICATE, `by_head
    [quantity head doc]` in the order of BY_HEAD; `no_write [head]` share of rows in which the head writes nothing;
    `positives` of each head as rows of (window, dst, src)."""

    layer: int
    by_predicate: Float64[np.ndarray, "quantity head predicate doc"]
    by_head: Float64[np.ndarray, "quantity head doc"]
    no_write: Float64[np.ndarray, " head"]
    positives: tuple[Int[np.ndarray, "pair 3"], ...] = ()


def tally(
    model: LanguageModel,
    held_out: HeldOutRows,
    predicted: Callable[[int], Bool[np.ndarray, "predicate window dst src"]],
    batch_size: int,
    identity: IdentityPredictions | None = None,
) -> Iterator[LayerTallies]:
    """Tallies of all layers in turn, with the masks that `predicted` gives for each layer; a group of layers is held
    at a time, so the model runs once a group. With `identity`, each head's own predictions at THRESHOLDS come as
    further predicates after those."""
    size = held_out.ids.shape[1]
    cells = len(held_out.ids) * model.n_heads * size * size
    group = max(1, GROUP_CELLS // max(cells, 1))
    kinds = pair_kinds(held_out)
    for start in range(0, model.n_layers, group):
        layers = list(range(start, min(start + group, model.n_layers)))
        read = _read_group(model, held_out, layers, batch_size)
        for layer in layers:
            yield _tally_layer(layer, read.pop(layer), held_out, kinds, _Predictions(predicted(layer), identity))


@dataclass
class _Truth:
    """What one layer did on all windows: contributions of all pairs, off the sink; rows that have shares."""

    contribution: list[Float[Tensor, "head dst src"]]  # by window
    a: list[Float[Tensor, "head dst src"]]
    valid: list[Bool[Tensor, "head dst"]]
    no_write: list[Bool[Tensor, "head dst"]]


@dataclass(frozen=True, eq=False)
class HeadTruth:
    """What one head did on held-out rows, kept so that any predicate is tallied without another run of the model.

    `a` and `contribution` `[window dst src]`, `valid [window dst]`: as in step 2 above; not cut to allowed pairs.
    """

    head: Head
    held_out: HeldOutRows
    _truth: _Truth

    @classmethod
    def of(cls, model: LanguageModel, held_out: HeldOutRows, head: Head, batch_size: int) -> HeadTruth:
        """One run over the rows."""
        one = slice(head.index, head.index + 1)
        truth = _read_group(model, held_out, [head.layer], batch_size, one)[head.layer]
        return cls(head, held_out, truth)

    @property
    def nbytes(self) -> int:
        """Of all tensors; the kinds of pairs count as if they were there."""
        truth = self._truth
        read = (*truth.contribution, *truth.a, *truth.valid, *truth.no_write)
        return sum(t.nbytes for t in read) + 8 * sum(a.numel() for a in truth.a)

    @cached_property
    def _kinds(self) -> Int[Tensor, "window dst src"]:
        return pair_kinds(self.held_out)

    @property
    def a(self) -> Float[np.ndarray, "window dst src"]:
        return np.stack([a[0].numpy() for a in self._truth.a])

    @property
    def contribution(self) -> Float[np.ndarray, "window dst src"]:
        return np.stack([c[0].numpy() for c in self._truth.contribution])

    @property
    def valid(self) -> Bool[np.ndarray, "window dst"]:
        return np.stack([v[0].numpy() for v in self._truth.valid])

    def tally(self, predicted: Bool[np.ndarray, "predicate window dst src"]) -> LayerTallies:
        """The tallies of these predicates; the head is number 0 of them."""
        return _tally_layer(self.head.layer, self._truth, self.held_out, self._kinds, _Predictions(predicted, None))


def _read_group(
    model: LanguageModel,
    held_out: HeldOutRows,
    layers: list[int],
    batch_size: int,
    heads: slice = slice(None),
) -> dict[int, _Truth]:
    truth = {layer: _Truth([], [], [], []) for layer in layers}
    outputs = {layer: OutputGeometry.of(model, layer) for layer in layers}
    scale = float(model.final_states(model.to_ids(held_out.ids[:batch_size]))[0].float().norm(dim=-1).mean())
    for start in range(0, len(held_out.ids), batch_size):
        part = slice(start, start + batch_size)
        ids = model.to_ids(held_out.ids[part])
        lengths = torch.as_tensor(held_out.lengths[part].astype(np.int64), device=ids.device)
        masks = Masks.of(ids, lengths, model.special_ids)
        rows = torch.as_tensor(held_out.rows[part], device=ids.device) & masks.rows

        def keep(layer: Layer, masks: Masks = masks, rows: Tensor = rows) -> None:
            norms = write_norms(model, layer, outputs[layer.index])[:, heads]
            allowed = masks.allowed[:, None, None, :]
            attention = layer.pattern[:, heads].float() * allowed
            mass = attention.sum(-1)
            contribution = attention * norms[:, :, None, :]
            total = contribution.sum(-1)
            silent = total < NO_WRITE * scale
            share = attention / mass.clamp_min(1e-9)[..., None]
            a = torch.where(silent[..., None], share, contribution / total.clamp_min(1e-30)[..., None])
            valid = rows[:, None, :] & (mass >= TAU)
            kept = truth[layer.index]
            kept.contribution += list((contribution * rows[:, None, :, None]).cpu())
            kept.a += list(a.cpu())
            kept.valid += list(valid.cpu())
            kept.no_write += list((silent & valid).cpu())

        read_up_to(model, ids, layers, keep)
    return truth


@dataclass(frozen=True)
class _Predictions:
    """Of one layer: masks that all heads share, and the token-identity table."""

    shared: Bool[np.ndarray, "predicate window dst src"]
    identity: IdentityPredictions | None


def _tally_layer(
    layer: int,
    truth: _Truth,
    held_out: HeldOutRows,
    kinds: Int[Tensor, "window dst src"],
    predictions: _Predictions,
) -> LayerTallies:
    n_heads, shared = truth.a[0].shape[0], len(predictions.shared) + 1
    graded = 0 if predictions.identity is None else len(THRESHOLDS)
    sums = np.zeros((len(BY_PREDICATE) + 3, n_heads, shared + graded, held_out.n_documents))
    classes = [_classes(truth, held_out, window) for window in range(len(held_out.ids))]
    weights = _matched_weights(classes, held_out)
    same = _same_tokens(classes, kinds)
    everything = np.ones((1, *kinds.shape[1:]), dtype=bool)  # the predicate "every pair" gives the head's totals
    for window, document in enumerate(held_out.documents):
        pairs, positive, negative = classes[window]
        share = truth.a[window] * pairs
        matched = negative * weights[:, window, :, None]
        contribution = truth.contribution[window]
        alike = same[window]
        matrices = [
            positive, matched, negative, pairs, share, contribution, alike,
            share.square(), share * positive, (alike > 0).float(),
        ]  # fmt: skip
        cells = torch.from_numpy(np.concatenate([everything, predictions.shared[:, window]])).flatten(1).float()
        stacked = torch.stack(matrices).flatten(2)
        sums[:, :, :shared, document] += (stacked @ cells.T).double().numpy()
        if predictions.identity is not None:
            of_head = predictions.identity.of_window(layer, window).flatten(1)
            levels = (of_head[:, None] >= torch.tensor(THRESHOLDS)[:, None]).float()  # [head threshold pair]
            sums[:, :, shared:, document] += torch.einsum("qhc,htc->qht", stacked, levels).double().numpy()
    rows = torch.stack(truth.valid).sum((0, 2)).clamp_min(1)
    silent = (torch.stack(truth.no_write).sum((0, 2)) / rows).double().numpy()
    totals = sums[:, :, 0]
    by_head = totals[[0, 2, 3, 4, 7, 8, 5, 6, 9]]  # in the order of BY_HEAD
    return LayerTallies(layer, sums[: len(BY_PREDICATE), :, 1:], by_head, silent, _positives(classes))


_Classes = tuple[Float[Tensor, "head dst src"], Float[Tensor, "head dst src"], Float[Tensor, "head dst src"]]


def _classes(truth: _Truth, held_out: HeldOutRows, window: int) -> _Classes:
    """Scored pairs of a window, the positive and the negative ones: 1 or 0."""
    a = truth.a[window]
    causal = torch.ones(a.shape[1], a.shape[2], dtype=torch.bool).tril()
    pairs = truth.valid[window][..., None] & (causal & torch.from_numpy(held_out.sources[window]))
    return pairs.float(), (pairs & (a >= THETA_HIGH)).float(), (pairs & (a <= THETA_LOW)).float()


def _positives(classes: list[_Classes]) -> tuple[Int[np.ndarray, "pair 3"], ...]:
    """By head, (window, dst, src) of its positive pairs."""
    found = [torch.nn.functional.pad(positive.nonzero(), (1, 0), value=n) for n, (_, positive, _) in enumerate(classes)]
    pairs = torch.cat(found).numpy()  # window, head, dst, src
    return tuple(pairs[pairs[:, 1] == head][:, [0, 2, 3]] for head in range(len(classes[0][1])))


def pair_kinds(held_out: HeldOutRows) -> Int[Tensor, "window dst src"]:
    """A number for each (destination token, source token, distance bucket) of a pair: the key of tier T2."""
    tokens = np.unique(held_out.ids, return_inverse=True)[1].reshape(held_out.ids.shape).astype(np.int64)
    places = np.arange(held_out.ids.shape[1])
    bucket = bucket_of(np.maximum(places[:, None] - places, 0))
    n_tokens, n_kinds = int(tokens.max(initial=0)) + 1, int(bucket.max(initial=0)) + 1
    codes = (tokens[:, :, None] * n_tokens + tokens[:, None, :]) * n_kinds + bucket
    return torch.from_numpy(np.unique(codes, return_inverse=True)[1].reshape(codes.shape))


def _same_tokens(classes: list[_Classes], kinds: Int[Tensor, "window dst src"]) -> Float[Tensor, "window head dst src"]:
    """Weight of each negative that shares tokens and distance with a positive (tier T2), 0 elsewhere: the weights of a
    kind add up to the head's positives of that kind."""
    positive, negative = (torch.stack([c[k] for c in classes], 1) for k in (1, 2))  # [head window dst src]
    flat = kinds.reshape(-1)
    n_kinds = int(flat.max()) + 1
    weights = torch.zeros_like(negative)
    for head in range(len(positive)):
        by_kind = torch.bincount(flat, positive[head].reshape(-1).double(), n_kinds)
        against = torch.bincount(flat, negative[head].reshape(-1).double(), n_kinds)
        ratio = torch.where(against > 0, by_kind / against.clamp_min(1), 0.0)
        weights[head] = ratio[flat].reshape(kinds.shape).float() * negative[head]
    return weights.transpose(0, 1)


def _matched_weights(classes: list[_Classes], held_out: HeldOutRows) -> Float[Tensor, "head window dst"]:
    """Weight of each row's negatives so that destination tokens are distributed as in the positives (tier T1)."""
    positives = torch.stack([positive.sum(-1) for _, positive, _ in classes], 1).double()
    negatives = torch.stack([negative.sum(-1) for _, _, negative in classes], 1).double()
    tokens = torch.from_numpy(np.unique(held_out.ids, return_inverse=True)[1].reshape(-1))
    index = tokens.expand(len(positives), -1)

    def by_token(rows: Tensor) -> Tensor:
        sums = torch.zeros(len(rows), int(tokens.max()) + 1, dtype=torch.float64)
        return sums.scatter_add_(1, index, rows.flatten(1))

    ratio = by_token(positives) / by_token(negatives).clamp_min(1)
    weight = ratio.gather(1, index).reshape(positives.shape)
    total = (weight * negatives).sum((1, 2), keepdim=True)
    return (weight * negatives.sum((1, 2), keepdim=True) / total.clamp_min(1e-12)).float()
