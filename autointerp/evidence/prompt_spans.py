"""Prompts of the "looks at" query, and where their spans stand among the ids fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from autointerp.errors import BadInput
from autointerp.finder import TokenFinder, TokenSpan
from autointerp.model import LanguageModel

Where = str | TokenSpan | tuple[int, int]
"""A needle (its first place counts), a span of `finder`, or half-open token positions as fed."""


@dataclass(frozen=True)
class LooksAtPrompt:
    """A text, the destination to look from, the sources to look at, and distractors that are none of them.

    A destination of several tokens is read at its last. `id` names it in failures (its place if empty).
    """

    text: str
    dst: Where
    src: Sequence[Where]
    distractors: Sequence[Where] = ()
    id: str = ""


@dataclass(frozen=True, eq=False)
class Placed:
    """A prompt as positions; `src` are those up to `dst`, each distractor span keeps what is up to `dst`."""

    id: str
    ids: Int[np.ndarray, " pos"]
    dst: int
    src: tuple[int, ...]
    distractors: tuple[tuple[int, ...], ...]


def looks_at_prompts(
    texts: Sequence[str],
    dst: Where | Sequence[Where],
    src: Where | Sequence[Where],
    distractors: Where | Sequence[Where] | None = None,
) -> list[LooksAtPrompt]:
    """A prompt for each text with one span of each kind; a needle given once holds for all.

    Raises BadInput for lists of unequal lengths.
    """
    spans = [_each(texts, name, where) for name, where in (("dst", dst), ("src", src))]
    others = [()] * len(texts) if distractors is None else [(w,) for w in _each(texts, "distractors", distractors)]
    return [LooksAtPrompt(t, d, (s,), o) for t, d, s, o in zip(texts, *spans, others, strict=True)]


def _each(texts: Sequence[str], name: str, where: Where | Sequence[Where]) -> Sequence[Where]:
    if isinstance(where, str):
        return [where] * len(texts)
    one = isinstance(where, TokenSpan) or all(isinstance(part, int) for part in where)
    if one or len(where) != len(texts):
        size = 1 if one else len(where)
        raise BadInput(f"{name} has {size} spans for {len(texts)} texts; give one a text, or one needle for all.")
    return list(where)  # type: ignore[arg-type]


def place(model: LanguageModel, prompt: LooksAtPrompt, number: int) -> Placed | str:
    """Positions of a prompt, or the reason why it cannot be used.

    Raises BadInput for a prompt that asks for nothing: an empty span, or a destination before every source.
    """
    name = prompt.id or str(number)
    if not prompt.src:
        raise BadInput(f"prompt {name} has no source span (0); give at least one.")
    finder = prompt_finder(model, prompt.text)
    if len(finder) > model.n_ctx:
        return f"{name}: its {len(finder)} tokens exceed n_ctx {model.n_ctx}"
    spans: list[range] = []
    for where in (prompt.dst, *prompt.src, *prompt.distractors):
        found = _span(finder, where, name)
        if isinstance(found, str):
            return f"{name}: {found}"
        spans.append(found)
    dst, sources, others = spans[0][-1], spans[1 : len(prompt.src) + 1], spans[len(prompt.src) + 1 :]
    src = tuple(sorted({p for span in sources for p in span if p <= dst}))
    if not src:
        raise BadInput(
            f"prompt {name}: the destination ({dst}) stands before every source "
            f"({min(s[0] for s in sources)}), so that nothing can be attended. "
            "Exchange them, or take a later destination."
        )
    special = set(model.special_ids)
    if all(p == 0 or int(finder.ids[p]) in special for p in src):
        return f"{name}: its source is the sink (position 0 or a control token)"
    left = (tuple(p for p in span if p <= dst and p not in src) for span in others)
    return Placed(name, finder.ids, dst, src, tuple(span for span in left if span))


def prompt_finder(model: LanguageModel, text: str) -> TokenFinder:
    """A finder of the ids that would be fed for `text`, BOS included where the model's rule says so."""
    return TokenFinder(text, *model.encode(text), bos_id=model.bos_id)


def _span(finder: TokenFinder, where: Where, name: str) -> range | str:
    """Positions of a span, or why it is missing."""
    if isinstance(where, str):
        if not where:
            raise BadInput(f"prompt {name} has an empty span (''); name at least one token.")
        try:
            span = finder.find_first_range(where)
        except BadInput as missing:
            return str(missing)
        return range(span.start, span.stop)
    if isinstance(where, TokenSpan):
        finder.check_own(where)
        return range(where.start, where.stop)
    start, stop = where
    if not 0 <= start < stop <= len(finder):
        raise BadInput(f"prompt {name}: {where} is empty or not within its {len(finder)} tokens; give start < stop.")
    return range(start, stop)
