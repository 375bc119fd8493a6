"""Runs prompts whose first slots hold vectors: teacher-forced log-probabilities with gradients, and greedy decoding.

1. The contexts' keys and values are computed once, without gradients (`prefix`), and expanded to rows.
2. The tail (slots, then known ids) runs after them. A hook on the token embedding replaces the slots' vectors; it must
   fire exactly once in each forward that has it, and steps after the first have none.
3. Decoding adds one token a step to the cache; rows that have stopped leave the batch.

Contexts of unlike length are padded on the right; mask and positions are explicit. Where the model has no such cache,
or a check on first use finds it inexact, every forward runs whole rows, padded on the right, from the start.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.lenses.entity_frame import Frame, Ids
from autointerp.lenses.entity_vectors import padded
from autointerp.model import LanguageModel

KeyValues = list[tuple[Tensor, Tensor]]  # by layer, each [row kv_head pos d_head]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Contexts, one a row, padded on the right; `cache` is None where each forward runs whole rows."""

    ids: Int[Tensor, "context pos"]
    lengths: Int[Tensor, " context"]
    cache: KeyValues | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Row i continues context `of[i]` with `tail[i]`, whose first `soft.shape[1]` embeddings are `soft[i]`."""

    prefix: Prefix
    of: Int[Tensor, " row"]
    tail: Int[Tensor, "row pos"]
    soft: Float[Tensor, "row slot d_model"]

    def take(self, part: slice | Tensor) -> Rows:
        return replace(self, of=self.of[part], tail=self.tail[part], soft=self.soft[part])

    def __len__(self) -> int:
        return len(self.of)


@dataclass(frozen=True)
class Generated:
    """What one row said: ids without the stop token, and the mean negative log-probability of all ids that were
    generated, the stop token included."""

    ids: tuple[int, ...]
    nll: float


@dataclass(frozen=True, eq=False)
class Scored:
    """Log-probabilities of targets, flat over rows: `row` says whose, `first` whether it is the row's first."""

    log_prob: Float[Tensor, " target"]
    hit: Bool[Tensor, " target"]
    row: Int[Tensor, " target"]
    first: Bool[Tensor, " target"]


class PromptRunner:
    """Runs rows of one model. `insertions` counts firings of the hook, `forwards` all forwards."""

    def __init__(self, model: LanguageModel, frame: Frame, *, cached: bool | None = None, max_rows: int = 1024) -> None:
        self.model, self.frame, self._max_rows = model, frame, max_rows
        self.insertions = self.forwards = 0
        original = model.bridge.original_model
        self._base = getattr(original, "base_model", None)
        self._positions = self._base is not None and "position_ids" in inspect.signature(self._base.forward).parameters
        self.cached = self._base is not None and (self._is_exact() if cached is None else cached)

    def prefix(self, contexts: Sequence[Ids]) -> Prefix:
        """Contexts with their keys and values."""
        ids = self.model.to_ids(padded(contexts))
        lengths = torch.tensor([len(one) for one in contexts], device=ids.device)
        return Prefix(ids, lengths, self._key_values(ids) if self.cached else None)

    def beginnings(self, ids: Ids, sizes: Sequence[int]) -> Prefix:
        """The first `sizes[i]` ids of one text as contexts; its keys and values are computed once."""
        one = self.prefix([ids])
        n, cache = len(sizes), one.cache
        shared = cache and [(k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)) for k, v in cache]
        return Prefix(one.ids.expand(n, -1), torch.tensor(list(sizes), device=one.ids.device), shared)

    def _key_values(self, ids: Int[Tensor, "row pos"]) -> KeyValues | None:
        from transformers import DynamicCache

        assert self._base is not None
        with torch.no_grad():
            self.forwards += 1
            cache = getattr(self._base(ids, use_cache=True), "past_key_values", None)
        if not isinstance(cache, DynamicCache) or len(cache.layers) != self.model.n_layers:
            return None
        found = [(layer.keys, layer.values) for layer in cache.layers]
        return found if all(k is not None and k.shape[2] == ids.shape[1] for k, _ in found) else None

    def rows(self, prefix: Prefix, of: Sequence[int] | Tensor, soft: Float[Tensor, "row slot d"], tail: Ids) -> Rows:
        """Rows that all have the same tail ids."""
        device = self.model.device
        ids = torch.as_tensor(np.asarray(tail), device=device).expand(len(of), -1)
        return Rows(prefix, torch.as_tensor(of, device=device), ids, soft.to(device))

    def score(self, rows: Rows, targets: Sequence[Ids]) -> Scored:
        """Log-probabilities of `targets` (stop token included) after the tail; gradients flow to `soft`."""
        size = torch.tensor([len(one) for one in targets], device=rows.tail.device)
        wanted = self.model.to_ids(padded(targets))
        given = replace(rows, tail=torch.cat([rows.tail, wanted[:, :-1]], 1))
        hidden = self._whole(given) if rows.prefix.cache is None else self._after(given, _Past.of(rows))
        hidden = hidden[:, rows.tail.shape[1] - 1 :]
        mask = torch.arange(wanted.shape[1], device=size.device) < size[:, None]
        row, column = mask.nonzero(as_tuple=True)
        logits = self._unembed(hidden[row, column])
        target = wanted[row, column]
        log_prob = torch.log_softmax(logits, -1).gather(1, target[:, None])[:, 0]
        return Scored(log_prob, logits.detach().argmax(-1) == target, row, column == 0)

    def _unembed(self, hidden: Float[Tensor, "target d_model"]) -> Float[Tensor, "target d_vocab"]:
        """`LanguageModel.unembed`, with gradients."""
        logits: Tensor = self.model.bridge.unembed(hidden[None])[0].float()
        if self.model.logit_scale != 1.0:  # a product would copy the largest tensor there is
            logits = logits * self.model.logit_scale
        cap = self.model.soft_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    def generate(self, rows: Rows, max_tokens: int, stops: Sequence[int] = ()) -> list[Generated]:
        """Greedy continuations until a stop token (EOS and `stops`) or `max_tokens`."""
        stop = torch.tensor([self.frame.stop, *stops], device=self.model.device)
        found: list[Generated] = []
        with torch.no_grad():
            for start in range(0, len(rows), self._max_rows):
                part = rows.take(slice(start, start + self._max_rows))
                found += self._decode(part, max_tokens, stop)
        return found

    def _decode(self, rows: Rows, max_tokens: int, stop: Int[Tensor, " stop"]) -> list[Generated]:
        said: list[list[int]] = [[] for _ in range(len(rows))]
        sums, lengths = [0.0] * len(rows), [0] * len(rows)
        alive = torch.arange(len(rows), device=self.model.device)
        past = None if rows.prefix.cache is None else _Past.of(rows)
        step = rows
        for turn in range(max_tokens):
            hidden = self._whole(step) if past is None else self._after(step, past)
            logits = self._unembed(hidden[:, -1])
            best = logits.max(-1)
            log_p = best.values - logits.logsumexp(-1)
            for row, token, value in zip(alive.tolist(), best.indices.tolist(), log_p.tolist(), strict=True):
                sums[row] -= value
                lengths[row] += 1
                said[row].append(token)
            going = ~torch.isin(best.indices, stop)
            if not bool(going.any()) or turn + 1 == max_tokens:
                break
            alive, token_ids = alive[going], best.indices[going][:, None]
            if past is None:
                kept = step.take(going)
                step = replace(kept, tail=torch.cat([kept.tail, token_ids], 1))
            else:
                past.keep(going)
                step = Rows(rows.prefix, rows.of[alive], token_ids, rows.soft[alive, :0])
        ends = set(stop.tolist())
        return [
            Generated(tuple(ids[:-1] if ids[-1] in ends else ids), total / n)
            for ids, total, n in zip(said, sums, lengths, strict=True)
        ]

    # -- forwards --------------------------------------------------------------------------------------------------

    def _after(self, rows: Rows, past: _Past) -> Float[Tensor, "row pos d_model"]:
        """Final states of the tail, run after the cache, which grows by it."""
        assert self._base is not None
        options: dict[str, Any] = {"past_key_values": past.cache, "use_cache": True}
        n = rows.tail.shape[1]
        mask = past.grown(n)
        if mask is not None:
            options["attention_mask"] = mask
        if self._positions:
            options["position_ids"] = past.next[:, None] + torch.arange(n, device=rows.tail.device)
        past.next = past.next + n
        with self._inserting(rows.soft, None), self._final() as kept:
            self._base(rows.tail, **options)
        return kept[0]

    def _whole(self, rows: Rows) -> Float[Tensor, "row pos d_model"]:
        """Final states of the tail, in forwards of whole rows; rows are padded on the right."""
        size, n = rows.prefix.lengths[rows.of], rows.tail.shape[1]
        ids = torch.zeros(len(rows), int(size.max()) + n, dtype=torch.long, device=rows.tail.device)
        context = rows.prefix.ids[rows.of, : int(size.max())]
        ids[:, : context.shape[1]] = context
        each = torch.arange(len(rows), device=ids.device)[:, None]
        at = size[:, None] + torch.arange(n, device=ids.device)
        ids[each, at] = rows.tail
        with self._inserting(rows.soft, at), self._final() as kept:
            if self._base is None:
                self.model.bridge(ids)
            else:
                self._base(ids, use_cache=False)
        return kept[0][each, at]

    @contextmanager
    def _inserting(self, soft: Float[Tensor, "row slot d"], at: Int[Tensor, "row pos"] | None) -> Iterator[None]:
        """Put `soft` in place of the embeddings at the slots: the first columns, or the first of `at`."""
        self.forwards += 1
        slots, fired = soft.shape[1], 0
        if not slots:
            yield
            return

        def insert(embedded: Tensor, hook: Any) -> Tensor:
            nonlocal fired
            fired += 1
            new = soft.to(embedded)
            if at is None:
                return torch.cat([new, embedded[:, slots:]], 1)
            index = at[:, :slots, None].expand_as(new)
            return embedded.scatter(1, index, new)

        with self.model.bridge.hooks(fwd_hooks=[("hook_embed", insert)]):
            yield
        self.insertions += fired
        if fired != 1:
            raise ModelError(f"{self.model.name}: the embedding ran {fired} times in a forward. It is not supported.")

    @contextmanager
    def _final(self) -> Iterator[list[Tensor]]:
        kept: list[Tensor] = []
        handle = self.model.bridge.ln_final.register_forward_hook(lambda _module, _args, out: kept.append(out))
        try:
            yield kept
        finally:
            handle.remove()

    def _is_exact(self) -> bool:
        """Whether decoding after a cache with a gap gives what whole rows give, on a few ids."""
        usable = [i for i in range(self.model.d_vocab) if i not in self.model.special_ids]
        step = max(1, len(usable) // 7)
        ids = [self.frame.start, *usable[::step][:6]]
        contexts = [np.array(ids), np.array(ids[:4])]
        self.cached = True  # for the contexts below
        prefix = self.prefix(contexts)
        if prefix.cache is None:
            return False
        soft = torch.zeros(2, 0, int(self.model.bridge.cfg.d_model))
        rows = self.rows(prefix, [0, 1], soft, np.array(ids[1:4]))
        with torch.no_grad():
            stepped = self._after(rows, _Past.of(rows)).float()
            whole = self._whole(rows).float()
        tolerance = 1e-4 if self.model.dtype == torch.float32 else 5e-2
        return bool((stepped - whole).abs().max() <= tolerance * whole.abs().max())


class _Past:
    """A cache expanded to rows; `next` is each row's next position, `gap` marks its padded columns."""

    def __init__(self, cache: Any, following: Int[Tensor, " row"], mask: Int[Tensor, "row pos"] | None) -> None:
        self.cache, self.next, self._mask = cache, following, mask

    @classmethod
    def of(cls, rows: Rows) -> _Past:
        from transformers import DynamicCache

        assert rows.prefix.cache is not None
        lengths = rows.prefix.lengths[rows.of]
        longest = int(lengths.max())
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(rows.prefix.cache):
            cache.update(keys[rows.of, :, :longest], values[rows.of, :, :longest], layer)
        there = torch.arange(longest, device=lengths.device) < lengths[:, None]
        return cls(cache, lengths, None if bool(there.all()) else there.long())

    def grown(self, n: int) -> Int[Tensor, "row pos"] | None:
        """The mask with `n` more columns, or None where nothing is masked."""
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), n)], 1)
        return self._mask

    def keep(self, rows: Bool[Tensor, " row"]) -> None:
        """Drop the rows that have stopped."""
        if bool(rows.all()):
            return
        self.next = self.next[rows]
        self._mask = None if self._mask is None else self._mask[rows]
        self.cache.batch_select_indices(rows.nonzero()[:, 0])
