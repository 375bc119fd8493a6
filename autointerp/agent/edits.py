"""A text before and after one span of it is replaced, with the same marked token in both."""

from __future__ import annotations

from autointerp.agent.arguments import LAST, MAX_CHARACTERS, Edit, Place
from autointerp.agent.reading import Fed, fed_text, feed
from autointerp.errors import BadInput
from autointerp.model import LanguageModel


def both_texts(model: LanguageModel, asked: Edit) -> tuple[Fed, Fed]:
    """The text as it is and as it becomes. Raises BadInput for an edit that changes nothing or loses the mark."""
    if asked.replace not in asked.text:
        raise BadInput(f"{asked.replace!r} does not stand in the text; copy the span exactly")
    changed = asked.text.replace(asked.replace, asked.by, 1)
    if changed == asked.text:
        raise BadInput("the edit changes nothing; replace the span by something else")
    if not 1 <= len(changed) <= MAX_CHARACTERS:
        raise BadInput(f"the edit leaves {len(changed)} characters; a text has 1 to {MAX_CHARACTERS}")
    before = feed(model, asked)
    return before, _after(model, asked, changed, before)


def _after(model: LanguageModel, asked: Edit, changed: str, before: Fed) -> Fed:
    """The same destination in the changed text: counted from the start before the span, from the end after it."""
    if asked.mark == LAST:
        return feed(model, Place(text=changed))
    ids, _ = fed_text(model, changed)
    start = asked.text.index(asked.replace)
    ranges = fed_text(model, asked.text)[1]
    past = int(ranges[before.dst][0]) >= start + len(asked.replace)
    dst = before.dst + (len(ids) - len(before.ids)) if past else min(before.dst, len(ids) - 1)
    tokens = tuple(model.strings[i] for i in ids.tolist())
    if dst < 0:
        raise BadInput("the destination is lost by the edit; mark another token")
    return Fed(ids, dst, tokens)
