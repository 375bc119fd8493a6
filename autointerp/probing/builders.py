"""Makes probe items: templates filled with words, or natural occurrences in texts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from autointerp.errors import BadInput
from autointerp.probing.items import ProbeItem

_SLOT = re.compile(r"\{(\w+)\}")
Label = str | Callable[[Mapping[str, str]], str]


def filled(template: str, words: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The text of a template, and the character range of each slot (of its first place)."""
    text, at = "", 0
    ranges: dict[str, tuple[int, int]] = {}
    for match in _SLOT.finditer(template):
        text += template[at : match.start()]
        if match[1] not in words:
            raise BadInput(f"the template {template!r} has a slot {match[1]!r} without fillers. Give it a list.")
        ranges.setdefault(match[1], (len(text), len(text) + len(words[match[1]])))
        text += words[match[1]]
        at = match.end()
    return text + template[at:], ranges


def template_items(
    templates: Sequence[str], fillers: Mapping[str, Sequence[str]], *, read: str, label: Label
) -> Iterator[ProbeItem]:
    """Every template with every combination of fillers.

    `read`: a slot (its own place is read) or a word of the texts (its last place). `label`: a slot, or a function of
    the fillers. Groups: `template` (t1, t2, ...), every slot by its name, and `lexeme`, the label's slot or else the
    first one. Raises BadInput for a slot without fillers.
    """
    if not templates or not fillers or any(not words for words in fillers.values()):
        raise BadInput(f"{len(templates)} templates and fillers {dict(fillers)}: give at least one of each.")
    lexeme = label if isinstance(label, str) else next(iter(fillers))
    if lexeme not in fillers:
        raise BadInput(f"the label {lexeme!r} is no slot; slots are {', '.join(fillers)}.")
    for number, template in enumerate(templates, 1):
        for combination in itertools.product(*fillers.values()):
            words = dict(zip(fillers, combination, strict=True))
            text, ranges = filled(template, words)
            named = words[label] if isinstance(label, str) else label(words)
            groups = {**words, "template": f"t{number}", "lexeme": words[lexeme]}
            position = ranges[read] if read in ranges else read
            yield ProbeItem(text, position, named, groups, last=True)


Labeller = Callable[[str], Iterable[tuple[tuple[int, int], str]]]
"""A text to the character ranges to read in it, each with its label."""


def corpus_items(texts: Iterable[str], labeller: Labeller, n: int, seed: int) -> list[ProbeItem]:
    """A seeded sample of `n` natural occurrences, the same whatever the order of the rest; group: `document`.

    Every occurrence is given a random number as it passes (reservoir by smallest), so that texts are streamed.
    """
    rng = np.random.default_rng(seed)
    kept: list[tuple[float, int, int, ProbeItem]] = []
    for document, text in enumerate(texts):
        for place, (position, label) in enumerate(labeller(text)):
            kept.append(
                (float(rng.random()), document, place, ProbeItem(text, position, label, {"document": f"d{document}"}))
            )
            if len(kept) > 2 * n + 1000:
                kept = sorted(kept, key=lambda one: one[:3])[:n]
    return [one[3] for one in sorted(sorted(kept, key=lambda one: one[:3])[:n], key=lambda one: one[1:3])]
