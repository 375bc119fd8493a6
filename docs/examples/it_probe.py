"""Probe items: which noun does the word "it" stand for? Four templates, one item for each noun in each of them.

    autointerp probe docs/examples/it_probe.py:items --head L2H3 --split template --out runs/it

The label is the noun, which is an identity: the template is what has to be held out, so that a noun is read in a
sentence that training never saw. `eight` has four more templates; fewer than five held-out templates are
`underpowered`.
"""

from __future__ import annotations

from collections.abc import Iterator

from autointerp.probing import ProbeItem, template_items

NOUNS = (
    "lantern ladder basket blanket bottle bucket button candle carpet chair clock coin compass cup curtain drum "
    "envelope feather flag flute glove hammer handle hat helmet jacket jar kettle key kite knife lamp letter map "
    "mirror mug needle notebook oar package paddle painting pencil photograph pillow pipe plate pocket poster pot "
    "purse puzzle quilt radio ribbon ring rope saddle scarf shovel sign sled spoon stamp statue stone stool suitcase "
    "sword table teapot telescope tent ticket torch towel toy tray trumpet umbrella vase violin wagon wallet watch "
    "wheel whistle wreath bell broom bracelet camera cart chain crate crown diary"
).split()

FOUR = (
    "The {noun} was old, but nobody wanted to sell it.",
    "On Monday the baker found the {noun} near the river and carried it home.",
    "Because the {noun} was broken, the teacher repaired it.",
    "There was one {noun} on the table, and the farmer took it.",
)
MORE = (
    "The sailor lost the {noun} in March and missed it.",
    "When the {noun} fell, the doctor caught it.",
    "She had seen the {noun} before; now he painted it.",
    "Nobody knew who had hidden the {noun}, until the clerk found it.",
)


def items() -> Iterator[ProbeItem]:
    """97 nouns in four templates: 388 items."""
    yield from template_items(FOUR, {"noun": NOUNS}, read="it", label="noun")


def eight() -> Iterator[ProbeItem]:
    """The same nouns in eight templates."""
    yield from template_items(FOUR + MORE, {"noun": NOUNS}, read="it", label="noun")
