"""Texts to read with SelfIE: from memory or from a JSON of examples, and the vectors at their tokens.

A file is a JSON list of texts or of `{text, category?, raw?}`, or the ancestor's `{"examples": [{prompt, category,
raw}]}`. With `raw` false or absent a text becomes a user message of the tokenizer's chat template, where it has one.
(The ancestor only asked whether `raw` was there, so `"raw": false` counted as true.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autointerp.errors import BadInput
from autointerp.lenses.selfie_prompts import chat_text, encode_chat, prompt_form
from autointerp.lenses.sources import FedText, Source, default_layers, feed_text, read_stream
from autointerp.model import LanguageModel
from autointerp.model.decoding import Decoding, generate
from autointerp.model.sites import Site


@dataclass(frozen=True)
class SourceText:
    """A text to read; `raw`: as it is, else in the chat template where there is one."""

    text: str
    category: str = ""
    raw: bool = False
    source_id: str = ""


@dataclass(frozen=True)
class ReadPlan:
    """Layers (None: 0, 1, every fifth, the last two) and positions (None: all but BOS and control tokens) to read;
    `continuation`: tokens to generate after the text, for the record; `with_next`: the first of them is read too."""

    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    continuation: int = 0
    with_next: bool = False


def text_sources(model: LanguageModel, source: SourceText, plan: ReadPlan | None = None) -> list[Source]:
    """`resid_pre` of the text at the plan's layers and positions, layer by layer.

    Raises BadInput for a layer or position out of range, and for a text past the context.
    """
    plan = plan or ReadPlan()
    fed, after = _continued(model, fed_text(model, source), plan)
    wanted = fed.own_positions(model) if plan.positions is None else list(plan.positions)
    for pos in wanted:
        if not 0 <= pos < len(fed.ids):
            raise BadInput(f"position {pos} is outside the {len(fed.ids)} tokens of the text as fed. Name one inside.")
    stream = read_stream(model, fed, default_layers(model) if plan.layers is None else plan.layers)
    tokens = tuple(model.strings[i] for i in fed.ids)
    own = tuple(int(i) for i in model.encode(source.text)[0])
    name = source.source_id or source.text[:40]
    return [
        Source(name, vectors[pos], str(Site("resid_pre", layer)), layer, source.text, own, tokens, pos, tokens[pos],
               source.category, after)
        for layer, vectors in stream.items()
        for pos in wanted
    ]  # fmt: skip


def fed_text(model: LanguageModel, source: SourceText) -> FedText:
    """The text as fed. Raises BadInput where it is empty or past the context."""
    if source.raw or prompt_form(model) == "base":
        return feed_text(model, source.text)
    ids = encode_chat(model, chat_text(model, source.text))
    fed = ids if model.bos_id is None or ids[:1] == (model.bos_id,) else (model.bos_id, *ids)
    if len(fed) > model.n_ctx:
        raise BadInput(f"the text {source.text[:40]!r}… has {len(fed)} tokens in its chat template, more than the "
                       f"context of {model.name} ({model.n_ctx}). Shorten it.")  # fmt: skip
    return FedText(source.text, fed, len(fed) - len(ids))


def _continued(model: LanguageModel, fed: FedText, plan: ReadPlan) -> tuple[FedText, str]:
    """The text, with its first generated token where the plan says so, and what the model writes after it."""
    n = min(max(plan.continuation, int(plan.with_next)), model.n_ctx - len(fed.ids))
    if n < 1:
        return fed, ""
    made = generate(model, model.to_ids(np.array([fed.ids])), Decoding(n)).ids[0]
    after = str(model.tokenizer.decode(list(made), skip_special_tokens=True))
    return (FedText(fed.text, (*fed.ids, made[0]), fed.offset) if plan.with_next else fed), after


def read_examples(path: Path) -> list[SourceText]:
    """The texts of a JSON file. Raises BadInput for what is no such file, naming the place."""
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}). Give a JSON file of examples.") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}. Give a list of texts or of objects with a text.") from None
    listed = told.get("examples") if isinstance(told, dict) else told
    if not isinstance(listed, list) or not listed:
        raise BadInput(f"{path} holds no examples: give a JSON list of texts or of {{text, category, raw}}.")
    return [_example(path, number, item) for number, item in enumerate(listed)]


def _example(path: Path, number: int, item: object) -> SourceText:
    where = f"{path}, example {number}"
    if isinstance(item, str):
        item = {"text": item}
    if not isinstance(item, Mapping):
        raise BadInput(f"{where} is a {type(item).__name__}: give a text or an object with a text.")
    text = item.get("text", item.get("prompt"))
    category, raw = item.get("category", ""), item.get("raw", False)
    if not isinstance(text, str) or not text:
        raise BadInput(f"{where} has the text {text!r}: give a text that is not empty under text (or prompt).")
    if not isinstance(raw, bool):
        raise BadInput(f"{where} has raw {raw!r}: give true or false.")
    name = f"{category} {number}".strip()
    return SourceText(text, str(category or ""), raw, name)
