"""The prompt around a vector, as id lists: start token, context, two slots, the mention, the stop token.

The embeddings of both slots are replaced, so their ids only need to exist; "_" and ">" are taken where the
tokenizer has them as one token. A mention is always tokenised as it stands after a space, whatever the context mode,
where the tokenizer knows such a form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from autointerp.errors import BadInput
from autointerp.model import LanguageModel

Ids = Int[np.ndarray, " pos"]
Spacing = Literal["space", "own", "none"]  # a space is put before; the tokenizer puts one itself; there is none
Context = Literal["none", "prefix", "sentence"]


@dataclass(frozen=True)
class Frame:
    """Ids that do not depend on the text, and the one rule of spacing."""

    start: int
    slots: tuple[int, int]
    stop: int
    spacing: Spacing

    @classmethod
    def of(cls, model: LanguageModel) -> Frame:
        """The frame of a model. Raises BadInput where its tokenizer has no start or no stop token."""
        tokenizer = model.tokenizer
        start = model.bos_id if model.bos_id is not None else tokenizer.bos_token_id
        stop = tokenizer.eos_token_id
        for name, found in (("BOS", start), ("EOS", stop)):
            if found is None or not 0 <= int(found) < model.d_vocab:
                raise BadInput(
                    f"the tokenizer of {model.name} has no {name} token, which entity-lens prompts need. "
                    f"Set its {name.lower()}_token to a token of the vocabulary."
                )
        slots = (_slot(model, "_"), _slot(model, ">"))
        return cls(int(start), slots, int(stop), _spacing(model))

    def text(self, model: LanguageModel, text: str) -> Ids:
        """Ids of a text, the start token first."""
        return np.concatenate([[self.start], model.encode(text)[0]]).astype(np.int64)

    def mention(self, model: LanguageModel, mention: str) -> Ids:
        """Ids of a mention by the spacing rule, without the stop token."""
        return model.encode(f" {mention}" if self.spacing == "space" else mention)[0].astype(np.int64)


def _slot(model: LanguageModel, text: str) -> int:
    ids = model.encode(text)[0]
    if len(ids) == 1:
        return int(ids[0])
    ordinary = (i for i in range(model.d_vocab) if i not in model.special_ids)
    return next(i for i in ordinary if i != model.tokenizer.unk_token_id)


def _spacing(model: LanguageModel) -> Spacing:
    def written(text: str) -> str:
        return "".join(model.strings[int(i)] for i in model.encode(text)[0])

    if written("a") == " a":
        return "own"
    return "space" if written(" a") == " a" else "none"


def stripped(model: LanguageModel, ids: Ids | list[int]) -> str:
    """Ids as text, without outer white space."""
    return str(model.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)).strip()
