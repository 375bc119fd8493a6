"""What the lenses read: residual-stream vectors of texts by block and position, and the pools that controls use.

`resid_pre k` is the input of block k; `resid_post` of the last block is the input of the final norm. Original SelfIE
code counts HuggingFace hidden states: index L < n_layers is `resid_pre` L, the last index is after the final norm
and is no residual (`site_of_hidden_state`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput, ModelError
from autointerp.lenses.reference import REFERENCE_TEXTS
from autointerp.model import LanguageModel
from autointerp.model.language_model import HookFunction
from autointerp.model.sites import Row, Site, hook_name, read_sites

POOL_SIZE = 128


@dataclass(frozen=True)
class FedText:
    """A text as fed: ids with BOS where the model's rule says so; `offset` is the number of ids before the text."""

    text: str
    ids: tuple[int, ...]
    offset: int

    def own_positions(self, model: LanguageModel) -> list[int]:
        """Positions of the text's tokens: not BOS, no control token."""
        return [p for p in range(self.offset, len(self.ids)) if self.ids[p] not in model.special_ids]

    def own_ids(self, up_to: int | None = None) -> tuple[int, ...]:
        """Ids of the text without BOS, up to and with a position."""
        return self.ids[self.offset : None if up_to is None else up_to + 1]


def feed_text(model: LanguageModel, text: str, new: int = 0) -> FedText:
    """`text` as fed, with room for `new` more tokens. Raises BadInput for an empty one or one past the context."""
    ids = [int(i) for i in model.encode(text)[0]]
    if not ids:
        raise BadInput(f"the text {text[:40]!r} has no token. Give a text.")
    fed = ids if model.bos_id is None else [model.bos_id, *ids]
    if len(fed) + new > model.n_ctx:
        raise BadInput(
            f"the text {text[:40]!r}… has {len(fed)} tokens as fed{f' and {new} are to follow' if new else ''}, more "
            f"than the context of {model.name} ({model.n_ctx}). Shorten it."
        )
    return FedText(text, tuple(fed), len(fed) - len(ids))


def default_layers(model: LanguageModel) -> tuple[int, ...]:
    """Blocks whose inputs are read by default: 0, 1, every fifth, the last two."""
    n = model.n_layers
    return tuple(sorted({k for k in (0, 1, *range(0, n, 5), n - 2, n - 1) if 0 <= k < n}))


def check_layers(model: LanguageModel, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers, ascending. Raises BadInput for one that the model does not have."""
    wrong = [k for k in layers if not 0 <= k < model.n_layers]
    if wrong:
        raise BadInput(f"layer {wrong[0]} is out of range: {model.name} has layers 0 to {model.n_layers - 1} "
                       "(resid_pre k is the input of block k). Name one of those.")  # fmt: skip
    return tuple(sorted(set(layers)))


def site_of_hidden_state(model: LanguageModel, index: int) -> Site:
    """The site of HuggingFace's `hidden_states[index]`. Raises BadInput for the last index, which is normed."""
    if index == model.n_layers:
        raise BadInput(f"hidden state {index} of {model.name} is after the final norm, so it is no residual stream. "
                       f"Use resid_post {model.n_layers - 1}.")  # fmt: skip
    return Site("resid_pre", check_layers(model, [index])[0])


def read_stream(model: LanguageModel, fed: FedText, layers: Sequence[int]) -> dict[int, Float[Tensor, "pos d_model"]]:
    """`resid_pre` k at every position, float32 on the CPU, for the layers named."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> HookFunction:
        def read(stream: Tensor, hook: Any) -> None:
            found[layer] = stream[0].detach().float().cpu()

        return read

    wanted = check_layers(model, layers)
    with model.hooks([(hook_name("resid_pre", k), keep(k)) for k in wanted]):
        model.forward_base(model.to_ids(np.array([fed.ids])))
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ModelError(f"{model.name}: nothing arrived from the residual stream before block {missing[0]}, so it "
                         "cannot be read.")  # fmt: skip
    return found


@dataclass(frozen=True, eq=False)
class Source:
    """A vector to read out, `[d_model]`, or `[insert d_model]` with one for each placeholder, and where it is from.

    `text_ids` are the ids of the text behind it (no BOS), up to where it may know of; empty for a direction.
    """

    source_id: str
    vector: Float[Tensor, "*insert d_model"]
    site: str
    layer: int
    text: str = ""
    text_ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    pos: int = -1
    token: str = ""
    category: str = ""
    continuation: str = ""
    document: str = ""  # that the text is from; the text itself where it is empty
    flags: tuple[str, ...] = ()

    @property
    def source_document(self) -> str:
        return self.document or self.text

    @property
    def key(self) -> str:
        """Names the vector among all of a request."""
        return f"{self.source_id}|{self.site}|{self.pos}"


@dataclass(frozen=True, eq=False)
class Pool:
    """Vectors of one site at tokens of other texts: `vectors[n]` stood at a token `tokens[n]` of `texts[n]` (a text
    or the name of a document)."""

    vectors: Float[Tensor, "vector d_model"]
    texts: tuple[str, ...]
    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.texts)) < 2:
            raise BadInput(f"the controls need vectors of at least 2 texts, got {len(set(self.texts))}. Give more "
                           "reference texts.")  # fmt: skip

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        return self.vectors.mean(0)

    def other(self, text: str, token: str, draw: torch.Generator) -> int:
        """A seeded vector of another token of another text (of any token where all are the same)."""
        places = [n for n, t in enumerate(self.texts) if t != text]
        apart = [n for n in places if self.tokens[n] != token] or places
        if not apart:
            raise BadInput(f"no reference text differs from {text[:40]!r}. Give others.")
        return apart[int(torch.randint(len(apart), (1,), generator=draw))]


def read_pool(model: LanguageModel, site: Site, texts: Sequence[str] = REFERENCE_TEXTS) -> Pool:
    """The site's vectors at own tokens of the texts (cut to the context), at most `POOL_SIZE`, evenly spread."""
    rows: list[Row] = []
    named: list[tuple[str, str]] = []
    for text in texts:
        ids = [int(i) for i in model.encode(text)[0]]
        fed = ([] if model.bos_id is None else [model.bos_id]) + ids
        cut = fed[: model.n_ctx]
        whole = FedText(text, tuple(cut), len(fed) - len(ids))
        for pos in whole.own_positions(model):
            rows.append(Row(np.array(cut[: pos + 1]), pos))
            named.append((text, model.strings[cut[pos]]))
    if not rows:
        raise BadInput("the reference texts have no token. Give others.")
    step = -(-len(rows) // POOL_SIZE)
    rows, named = rows[::step], named[::step]
    vectors = read_sites(model, rows, [site])[site]
    return Pool(vectors, tuple(t for t, _ in named), tuple(t for _, t in named))
