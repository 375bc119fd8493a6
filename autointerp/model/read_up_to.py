"""Reading the attention of some layers at the price of the forward up to the last of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from jaxtyping import Int
from torch import Tensor

from autointerp.model.language_model import LanguageModel, Layer


class _AllReadError(Exception):
    """Ends a forward whose later layers nobody reads."""


def read_up_to(
    model: LanguageModel, ids: Int[Tensor, "batch pos"], layers: list[int], read: Callable[[Layer], None]
) -> None:
    """As `LanguageModel.read_attention`; the forward ends with the last named layer, so other hooks may see no more."""
    left = set(layers)

    def read_or_end(layer: Layer) -> None:
        read(layer)
        left.discard(layer.index)
        if not left:
            raise _AllReadError

    with suppress(_AllReadError):
        model.read_attention(ids, layers, read_or_end)
