"""Source vectors of mentions: what the lens is asked to read.

One forward over a text caches all layers. Layer -1 is the output of the token embedding (before positions are added),
layer l the stream after block l. Texts are padded on the right, which causal attention needs no mask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.lenses.entity_frame import Context, Frame, Ids
from autointerp.lenses.entity_items import MAX_IDS, MentionItem
from autointerp.model import LanguageModel
from autointerp.model.language_model import HookFunction
from autointerp.model.sites import hook_name, run_to

Method = Literal["in_context", "full_context", "after_context", "raw", "average", "random_span"]
METHODS: tuple[Method, ...] = get_args(Method)
EMBEDDING = -1


@dataclass(frozen=True, eq=False)
class Place:
    """Ids to feed, and the positions `start <= pos < stop` whose mean is the vector."""

    ids: Ids
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Sources:
    """Vectors of items: `h [item layer d_model]`, float32, and the prompts' contexts, `contexts[item]`.

    `merged` counts items whose prefix does not tokenise to a prefix of the whole text's ids.
    """

    items: tuple[MentionItem, ...]
    layers: tuple[int, ...]
    h: Float[Tensor, "item layer d_model"]
    contexts: tuple[Ids, ...]
    targets: tuple[Ids, ...]
    merged: int

    def at(self, rows: Sequence[int]) -> Sources:
        """Some of the items."""
        pick = [int(row) for row in rows]
        return Sources(
            tuple(self.items[i] for i in pick), self.layers, self.h[pick],
            tuple(self.contexts[i] for i in pick), tuple(self.targets[i] for i in pick), self.merged,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.items)


def check_layers(model: LanguageModel, layers: Sequence[int]) -> tuple[int, ...]:
    """Layers in order, once each. Raises BadInput for one that the model does not have."""
    wrong = [layer for layer in layers if not EMBEDDING <= layer < model.n_layers]
    if wrong or not layers:
        raise BadInput(
            f"layer {wrong[0] if wrong else '(none)'}: {model.name} has the embedding, -1, and layers 0 to "
            f"{model.n_layers - 1}. Name some of those."
        )
    return tuple(sorted(set(layers)))


@dataclass(frozen=True)
class ReadPlan:
    """What is read, and what stands before the slots."""

    layers: tuple[int, ...]
    method: Method = "in_context"
    context: Context = "none"
    batch_size: int = 32
    random_span: int = 1  # tokens, for the method of that name


Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, of: int) -> None:
    """Progress that nobody watches."""


def read_sources(
    model: LanguageModel, frame: Frame, items: Sequence[MentionItem], plan: ReadPlan, progress: Progress = silent
) -> Sources:
    """Vectors of all items whose mention has at most `MAX_IDS` tokens and that fit the model's context."""
    kept, places, contexts, targets, merged = [], [], [], [], 0
    for item in items:
        target = frame.mention(model, item.mention)
        place, whole = _place(model, frame, item, plan)
        merged += not whole
        context = _context(model, frame, item, plan.context)
        if not 0 < len(target) <= MAX_IDS or max(len(context) + len(target) + 3, len(place.ids)) > model.n_ctx:
            continue
        kept.append(item)
        places.append(place)
        contexts.append(context)
        targets.append(target)
    if not kept:
        raise BadInput(
            f"none of {len(items)} mentions fits {model.name}, of context {model.n_ctx}. Give shorter texts."
        )
    h = read_places(model, places, plan.layers, plan.batch_size, progress)
    return Sources(tuple(kept), plan.layers, h, tuple(contexts), tuple(targets), merged)


def _context(model: LanguageModel, frame: Frame, item: MentionItem, context: Context) -> Ids:
    if context == "none":
        return np.array([frame.start])
    return frame.text(model, item.text if context == "sentence" else item.text[: item.char_end])


def _place(model: LanguageModel, frame: Frame, item: MentionItem, plan: ReadPlan) -> tuple[Place, bool]:
    """Where the vector of an item is read, and whether its prefix is tokenised as in the whole text."""
    ids, offsets = model.encode(item.text)
    full = np.concatenate([[frame.start], ids]).astype(np.int64)
    first, last = _tokens_of(offsets, item)
    prefix = frame.text(model, item.text[: item.char_end])
    whole = len(prefix) == last + 2 and bool((full[: len(prefix)] == prefix).all())
    if plan.method == "full_context":
        return Place(full, last + 1, last + 2), whole
    if plan.method == "average":
        return Place(full, first + 1, last + 2), whole
    if plan.method == "raw":
        alone = np.concatenate([[frame.start], frame.mention(model, item.mention)])
        return Place(alone, len(alone) - 1, len(alone)), whole
    if plan.method == "after_context":
        again = frame.text(model, f"{item.text} {item.mention}")
        return Place(again, len(again) - 1, len(again)), whole
    if plan.method == "random_span":
        end = _random_word_end(item, offsets)
        return Place(full, max(1, end + 2 - plan.random_span), end + 2), whole
    if whole:  # a causal model gives the mention the same vector in the whole text, which others may share
        return Place(full, last + 1, last + 2), whole
    return Place(prefix, len(prefix) - 1, len(prefix)), whole


def _tokens_of(offsets: Int[np.ndarray, "pos 2"], item: MentionItem) -> tuple[int, int]:
    """First and last token that share a character with the mention."""
    inside = np.flatnonzero((offsets[:, 0] < item.char_end) & (offsets[:, 1] > item.char_start))
    if not len(inside):
        raise BadInput(
            f"{item.source}: no token covers the mention {item.mention!r} at {item.char_start} to {item.char_end}. "
            "Check the text for characters that the tokenizer drops."
        )
    return int(inside[0]), int(inside[-1])


def _random_word_end(item: MentionItem, offsets: Int[np.ndarray, "pos 2"]) -> int:
    """A token that ends a word, drawn by the item."""
    text = item.text
    ends = [i for i, (_, stop) in enumerate(offsets) if stop == len(text) or not text[int(stop)].isalnum()]
    seed = int.from_bytes(f"{item.doc_id}:{item.char_start}".encode()[-8:], "big")
    return int(np.random.default_rng(seed).choice(ends)) if ends else len(offsets) - 1


def read_places(
    model: LanguageModel,
    places: Sequence[Place],
    layers: tuple[int, ...],
    batch_size: int = 32,
    progress: Progress = silent,
) -> Float[Tensor, "place layer d_model"]:
    """Vectors of all layers at each place, float32 on the CPU. Raises ModelError where a hook stays silent."""
    texts: dict[bytes, list[int]] = {}
    for number, place in enumerate(places):
        texts.setdefault(place.ids.tobytes(), []).append(number)
    order = sorted(texts.values(), key=lambda numbers: len(places[numbers[0]].ids))
    found: Tensor | None = None
    for start in range(0, len(order), batch_size):
        progress("reading vectors", start, len(order))
        batch = order[start : start + batch_size]
        numbers = [number for group in batch for number in group]
        row = [n for n, group in enumerate(batch) for _ in group]
        vectors = _read_batch(model, [places[n] for n in numbers], row, layers)
        found = torch.empty(len(places), *vectors.shape[1:]) if found is None else found
        found[numbers] = vectors
    progress("reading vectors", len(order), len(order))
    if found is None:
        raise BadInput("there is no place to read. Give a text.")
    return found


def _read_batch(
    model: LanguageModel, places: Sequence[Place], row: list[int], layers: tuple[int, ...]
) -> Float[Tensor, "place layer d_model"]:
    """`row[i]` is the text of place i; places of one text stand together."""
    first = [n for n in range(len(row)) if n == 0 or row[n] != row[n - 1]]
    found = _streams(model, padded([places[n].ids for n in first]), layers)
    means = [
        torch.stack([found[layer][text, place.start : place.stop].float().mean(0) for layer in layers])
        for text, place in zip(row, places, strict=True)
    ]
    return torch.stack(means).cpu()


def read_streams(model: LanguageModel, ids: Ids, layers: tuple[int, ...]) -> Float[Tensor, "pos layer d_model"]:
    """Every position of one text at each layer, from one forward."""
    found = _streams(model, ids[None], layers)
    return torch.stack([found[layer][0].float().cpu() for layer in layers], 1)


def _streams(model: LanguageModel, ids: Int[np.ndarray, "row pos"], layers: tuple[int, ...]) -> dict[int, Tensor]:
    """The stream `[row pos d_model]` at each layer; nothing after the last of them runs."""
    found: dict[int, Tensor] = {}

    def keeping(layer: int) -> HookFunction:
        def keep(stream: Tensor, hook: Any) -> None:
            found[layer] = stream.detach().clone()

        return keep

    names = {layer: "hook_embed" if layer == EMBEDDING else hook_name("resid_post", layer) for layer in layers}
    with model.hooks([(name, keeping(layer)) for layer, name in names.items()]):
        run_to(model, model.to_ids(ids), max(layers) + 1)
    missing = [names[layer] for layer in layers if layer not in found]
    if missing:
        raise ModelError(f"{model.name}: nothing arrived from {missing[0]}. Leave this layer out.")
    return found


def padded(rows: Sequence[Ids]) -> Int[np.ndarray, "row pos"]:
    """Rows padded on the right with id 0."""
    ids = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids
