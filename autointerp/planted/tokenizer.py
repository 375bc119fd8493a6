"""The planted model's tokenizer: one id a word, its leading space inside it, characters for what is no such word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from autointerp.planted.words import BOS, UNKNOWN, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def planted_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer over `vocabulary()`; text of its words, ASCII signs and line breaks round-trips."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, (token, _) in enumerate(vocabulary())}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    # A word of the vocabulary that is not part of a longer one, a sign with its space, or else one character.
    words = sorted((t for t in ids if t.isalnum() and len(t) > 1), key=len, reverse=True)
    spaced = sorted((t for t in ids if t[0] == " " and t[1:].isalnum()), key=len, reverse=True)
    signs = [re.escape(t) for t in ids if t[0] == " " and len(t) == 2 and not t[1].isalnum()]
    whole = f"(?:{'|'.join(spaced)}|(?<![A-Za-z0-9])(?:{'|'.join(words)}))(?![A-Za-z0-9])"
    core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([whole, *signs, r"[\s\S]"])), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )
    # transformer_lens loads a tokenizer again by its name to get BOS; this says that there is nothing to load.
    tokenizer.init_kwargs.update(name_or_path="planted", add_bos_token=True)
    return tokenizer
