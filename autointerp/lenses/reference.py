"""Plain sentences whose vectors serve as controls: the mean of a site, and vectors of other tokens of other texts."""

from __future__ import annotations

REFERENCE_TEXTS = (
    "The train left the station two minutes late.",
    "Her brother keeps bees behind the garden wall.",
    "Rain fell all night, and the road was closed by morning.",
    "A small company in the north makes most of these lamps.",
    "He counted the coins twice and put them back.",
    "The museum opens at nine, but the doors were locked.",
    "Nobody had told the driver about the broken bridge.",
    "They planted three rows of beans and one of corn.",
    "The letter was short: come home, bring the dog.",
    "In winter the lake freezes from the shore inwards.",
    "Prices rose again last year, mostly for bread and oil.",
    "The nurse asked whether the pain came after meals.",
    "An old map hung over the desk in the captain's room.",
    "We could not agree on the colour of the kitchen.",
    "The second chapter explains how the engine is cooled.",
    "Two boys were fishing where the river meets the sea.",
    "After the vote, the mayor thanked everyone and left.",
    "The violin had belonged to her grandmother.",
    "Turn the key to the right and wait for the light.",
    "Most birds had gone by the end of September.",
    "The judge read the sentence in a quiet voice.",
    "My neighbour sells cheese at the market on Fridays.",
    "There was a strange smell in the tunnel under the hill.",
    "She wrote the answer on the back of her hand.",
)
