"""The longest of ever shorter prompts for which there is room, found without making all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from autointerp.prompting import Prompt


class Sized(NamedTuple):
    """A prompt, its tokens, and whether there is room for it."""

    prompt: Prompt
    size: int
    fits: bool


def first_fitting(
    choices: Sequence[tuple[Any, ...]], made: Callable[[tuple[Any, ...]], Sized]
) -> tuple[Prompt, int] | None:
    """The prompt of the first of ever shorter choices for which there is room, and which choice it is."""
    first = made(choices[0])
    if first.fits:
        return first.prompt, 0
    too_long, fitting = 0, len(choices) - 1
    best = made(choices[fitting])
    if not best.fits:
        return None
    while fitting - too_long > 1:
        middle = (too_long + fitting) // 2
        tried = made(choices[middle])
        if tried.fits:
            fitting, best = middle, tried
        else:
            too_long = middle
    return best.prompt, fitting
