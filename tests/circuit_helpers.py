"""Small contrast sets of the tiny models' words, the demo model with its fillers, and a count of hooks."""

from __future__ import annotations

import functools

import numpy as np

from autointerp.circuits.contrast import ContrastPrompt, parse_prompt
from autointerp.circuits.prompts import ContrastSet, tokenise
from autointerp.demo.model import weights_folder
from autointerp.model import LanguageModel, load_model
from autointerp.studies.ioi_data import Fillers

NAMES = ("John", "Mary", "dog", "cat", "ball", "park", "news", "mat")


def pair(n: int, *, long: bool = False, group: str = "a") -> ContrastPrompt:
    """Two names and one of them again; the corrupted prompt repeats the other one."""
    first, second = NAMES[n % 8], NAMES[(3 * n + 1) % 8 if (3 * n + 1) % 8 != n % 8 else (3 * n + 2) % 8]
    middle = " went to the house and then" if long else " went to"
    clean = f"When {first} and {second}{middle} {first} gave"
    corrupted = f"When {first} and {second}{middle} {second} gave"
    repeat = (clean.rindex(first), clean.rindex(first) + len(first))
    return parse_prompt(
        {"clean": clean, "corrupted": corrupted, "answers": [f" {second}", f" {first}"],
         "roles": {"S2": list(repeat), "IO": second}, "group": group},
        f"pair {n}",
    )  # fmt: skip


def small_set(model: LanguageModel, n: int = 6, *, mixed: bool = True) -> ContrastSet:
    """Pairs of two lengths (`mixed`), in two groups."""
    prompts = [pair(k, long=mixed and k % 2 == 1, group="ab"[k % 2]) for k in range(n)]
    return tokenise(prompts, model, "small")


def padded(prompts: ContrastSet, n: int) -> ContrastSet:
    """The same set with `n` more pads on the right."""
    from dataclasses import replace

    def wider(ids: np.ndarray) -> np.ndarray:
        return np.pad(ids, ((0, 0), (0, n)), constant_values=5)

    return replace(prompts, clean=wider(prompts.clean), corrupted=wider(prompts.corrupted))


def hooks_of(model: LanguageModel) -> int:
    """All hooks on the model: torch's own and those in the bridge's hook points."""
    found = 0
    for module in (*model.bridge.modules(), *model.bridge.original_model.modules()):
        found += len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        found += len(getattr(module, "fwd_hooks", ())) + ("forward" in module.__dict__)
    return found


@functools.cache
def demo() -> LanguageModel:
    return load_model(str(weights_folder()), "cpu", "float32")[0]


@functools.cache
def fillers() -> Fillers:
    return Fillers.of(demo())
