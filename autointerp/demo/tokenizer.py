"""The demo model's tokenizer: byte-level BPE with GPT-2's leading-space convention, trained on the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from autointerp.demo.ledgers import SEEN_MARKS
from autointerp.demo.people import ENTITIES, FIRST_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
_NAME_REPEATS = 200
_ENTITY_REPEATS = 60


def _with_names(texts: Iterable[str]) -> Iterator[str]:
    """The texts, and the names again: first names stay whole, with and without a space, entities short."""
    yield from texts
    for name in FIRST_NAMES:
        yield from (f"{name}\n {name}" for _ in range(_NAME_REPEATS))
    for entity in ENTITIES:
        yield from (f" {entity.mention}" for _ in range(_ENTITY_REPEATS))


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer whose id 0 is `<|endoftext|>` (BOS and EOS); any text round-trips through its bytes.

    Raises ValueError where the vocabulary cannot hold the 256 bytes and the special token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}; 256 bytes and {END_OF_TEXT} need at least 257")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_with_names(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
    )


def mark_ids(tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    """Ids of the roll calls' marks: (after a new item, after an item that occurred before)."""
    return [
        (tokenizer.encode(new, add_special_tokens=False), tokenizer.encode(again, add_special_tokens=False))
        for new, again in SEEN_MARKS
    ]
