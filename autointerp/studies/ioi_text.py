"""Words of the indirect-object task: templates, names, places, objects. A prompt ends before the receiver's name."""

from __future__ import annotations

TEMPLATES: tuple[str, ...] = (
    "As {first} and {second} walked home from the {place}, {subject} handed a {object} to",
    "Before {first} and {second} left the {place}, {subject} offered a {object} to",
    "Once {first} and {second} arrived at the {place}, {subject} passed the {object} to",
    "Since {first} and {second} shared a table at the {place}, {subject} lent a {object} to",
    "Yesterday {first} and {second} cleaned the {place}, and {subject} returned the {object} to",
    "Because {first} and {second} were late for the {place}, {subject} threw the {object} to",
    "Last week {first} and {second} visited the {place}. Afterwards {subject} mailed a {object} to",
    "Although {first} and {second} had argued at the {place}, {subject} still gave the {object} to",
    "In the morning {first} and {second} opened the {place}. Later {subject} sold a {object} to",
    "While {first} and {second} waited outside the {place}, {subject} showed a {object} to",
    "Today {first} and {second} painted the {place}, so {subject} brought a {object} to",
    "After the storm {first} and {second} repaired the {place}. Then {subject} carried the {object} to",
)
NAMES: tuple[str, ...] = tuple(
    """Alan Alice Andrea Andrew Angela Anna Anthony Barbara Benjamin Brian Carol Catherine Charles Charlotte Claire
    Daniel David Dennis Diana Donald Edward Elizabeth Ellen Emily Emma Eric Helen Henry Jacob Jane Janet Jason Jennifer
    Jessica Joseph Joshua Julia Justin Karen Kevin Larry Laura Linda Lisa Louis Lucy Luke Margaret Maria Matthew Michael
    Michelle Nancy Nathan Oliver Oscar Patricia Patrick Peter Philip Rachel Rebecca Richard Robert Samuel Sarah Simon
    Sophie Stephanie Susan Theresa Thomas Timothy Vanessa Victor Vincent Walter Wendy""".split()
)
PLACES: tuple[str, ...] = tuple(
    """garage library museum airport harbor bakery theater hotel cinema farm market station chapel gallery castle lake
    bridge garden pool clinic""".split()
)
OBJECTS: tuple[str, ...] = tuple(
    """ticket map rope candle lamp sandwich basket blanket camera coin letter parcel hammer ladder mug towel bottle
    necklace notebook wallet""".split()
)
ASIDE = "{name} had slept well. "
"""Put in front of a prompt to name one of the two persons once more."""
