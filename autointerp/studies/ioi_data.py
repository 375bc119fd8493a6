"""The indirect-object data set of a model: prompts, roles, and flips paired row by row (arXiv 2211.00593).

1. Fillers: names, places and objects that are one token behind a space in this model's vocabulary. Fewer than 20 names
   are refused. Where fewer than 4 places (objects) are single tokens, those of the commonest number of tokens are used.
2. A prompt names two persons; one of them, S, is named again as the giver, the other, IO, is the answer. ABBA: IO is
   named first; BABA: S is. A group is a template in one order: all its prompts have one length and one place a role.
3. A flip keeps template, place, object and length and changes names: `s2_io` (S2 becomes IO: the answer swaps), `abc`
   (three new names, the reference distribution), `random_names`, `swap` (IO and S1 exchange places), and their
   compositions, which move the token signal and the position signal of S apart (`SIGNALS`).

All draws come from one seed. Names within a prompt are distinct, and new names are neither IO nor S.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int

from autointerp.circuits.contrast import END, ContrastPrompt
from autointerp.circuits.measures import Reader
from autointerp.circuits.prompts import ContrastSet, tokenise
from autointerp.circuits.runs import BATCH_CELLS
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.studies.ioi_text import ASIDE, NAMES, OBJECTS, PLACES, TEMPLATES

LEAST_NAMES, LEAST_FILLERS = 20, 4
ORDERS = ("ABBA", "BABA")


@dataclass(frozen=True)
class Flip:
    """What a flip does to the names. `abc` excludes the others."""

    s2_io: bool = False
    swap: bool = False
    random_names: bool = False
    abc: bool = False


FLIPS: dict[str, Flip] = {
    "s2_io": Flip(s2_io=True),
    "abc": Flip(abc=True),
    "random_names": Flip(random_names=True),
    "swap": Flip(swap=True),
    "swap+s2_io": Flip(swap=True, s2_io=True),
    "random_names+swap": Flip(random_names=True, swap=True),
    "none": Flip(),
}
SIGNALS: dict[tuple[str, str], str] = {
    ("original", "original"): "none",
    ("random", "original"): "random_names",
    ("inverted", "original"): "swap+s2_io",
    ("original", "inverted"): "swap",
    ("random", "inverted"): "random_names+swap",
    ("inverted", "inverted"): "s2_io",
}
"""The flip whose runs carry a (token, position) signal of S, seen from the original prompt."""


@dataclass(frozen=True)
class Fillers:
    """Words that this model's vocabulary allows; `notes` on what was left out."""

    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: LanguageModel) -> Fillers:
        """Raises BadInput where fewer than 20 names are single tokens."""
        names = [name for name in NAMES if _tokens(model, name) == 1]
        if len(names) < LEAST_NAMES:
            raise BadInput(
                f"only {len(names)} of {len(NAMES)} names are single tokens of {model.name}, and the task needs "
                f"{LEAST_NAMES}. Use a model with a larger vocabulary."
            )
        notes = [] if len(names) == len(NAMES) else [f"{len(names)} of {len(NAMES)} names are single tokens"]
        places, told_places = _equal(model, PLACES, "places")
        objects, told_objects = _equal(model, OBJECTS, "objects")
        return cls(tuple(names), places, objects, (*notes, *told_places, *told_objects))


def _tokens(model: LanguageModel, word: str) -> int:
    """How many tokens a word takes behind another one; 0 where it changes what stands before it."""
    before = model.encode("Then")[0].tolist()
    both = model.encode(f"Then {word}")[0].tolist()
    return len(both) - len(before) if both[: len(before)] == before else 0


def _equal(model: LanguageModel, words: Sequence[str], kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    sizes = {word: _tokens(model, word) for word in words}
    single = tuple(word for word, size in sizes.items() if size == 1)
    if len(single) == len(words):
        return single, ()
    if len(single) >= LEAST_FILLERS:
        return single, (f"{len(single)} of {len(words)} {kind} are single tokens",)
    size, count = Counter(size for size in sizes.values() if size).most_common(1)[0]
    kept = tuple(word for word, own in sizes.items() if own == size)
    return kept, (f"{kind}: {count} words of {size} tokens, as only {len(single)} are single tokens",)


@dataclass(frozen=True)
class IoiPrompt:
    """One prompt: names in their places, and who is who. `aside`: a name said once more in front of it."""

    template: int
    order: str
    io: str
    s: str
    names: tuple[str, str, str]  # first, second, giver
    place: str
    object: str
    aside: str = ""

    @property
    def group(self) -> str:
        return f"{self.template + 1}/{self.order}"

    def written(self) -> tuple[str, tuple[int, int, int]]:
        """The text, and where the three names start."""
        text = ASIDE.format(name=self.aside) if self.aside else ""
        starts: list[int] = []
        rest = TEMPLATES[self.template].replace("{place}", self.place).replace("{object}", self.object)
        for slot, name in zip(("{first}", "{second}", "{subject}"), self.names, strict=True):
            before, rest = rest.split(slot)
            text += before
            starts.append(len(text))
            text += name
        return text + rest, (starts[0], starts[1], starts[2])

    def flipped(self, flip: Flip, names: Sequence[str], rng: np.random.Generator) -> IoiPrompt:
        """The same prompt with other names; IO and S stay those of the original."""
        others = [name for name in names if name not in (self.io, self.s)]
        if flip.abc:
            a, b, c = _draw(rng, others, 3)
            return replace(self, names=(a, b, c))
        io, s = _draw(rng, others, 2) if flip.random_names else (self.io, self.s)
        pair = (io, s) if self.order == "ABBA" else (s, io)
        first, second = pair[::-1] if flip.swap else pair
        return replace(self, names=(first, second, io if flip.s2_io else s))


def _draw(rng: np.random.Generator, words: Sequence[str], n: int) -> tuple[str, ...]:
    """Without replacement."""
    return tuple(words[k] for k in rng.permutation(len(words))[:n])


@dataclass(frozen=True)
class IoiSpec:
    """Size and seed; `templates` are indices."""

    templates: tuple[int, ...] = tuple(range(len(TEMPLATES)))
    per_group: int = 12
    seed: int = 0

    @property
    def n_prompts(self) -> int:
        return len(self.templates) * len(ORDERS) * self.per_group


def ioi_prompts(fillers: Fillers, spec: IoiSpec) -> list[IoiPrompt]:
    """Prompts group by group. Raises BadInput for a template that is not there."""
    if any(not 0 <= t < len(TEMPLATES) for t in spec.templates) or spec.per_group < 1 or not spec.templates:
        raise BadInput(f"{spec}: templates are 0 to {len(TEMPLATES) - 1}, and a group has at least one prompt.")
    rng = np.random.default_rng([spec.seed, 1])
    found: list[IoiPrompt] = []
    for template in spec.templates:
        for order in ORDERS:
            for _ in range(spec.per_group):
                io, s = _draw(rng, fillers.names, 2)
                pair = (io, s) if order == "ABBA" else (s, io)
                (place,), (thing,) = _draw(rng, fillers.places, 1), _draw(rng, fillers.objects, 1)
                found.append(IoiPrompt(template, order, io, s, (*pair, s), place, thing))
    return found


def toy_prompts(fillers: Fillers, seed: int = 0) -> list[IoiPrompt]:
    """Four templates, two prompts each, in which IO and S exchange parts; for demonstrations."""
    rng = np.random.default_rng([seed, 2])
    found: list[IoiPrompt] = []
    for template in (1, 2, 9, 10):
        a, b = _draw(rng, fillers.names, 2)
        (place,), (thing,) = _draw(rng, fillers.places, 1), _draw(rng, fillers.objects, 1)
        found.append(IoiPrompt(template, "ABBA", a, b, (a, b, b), place, thing))
        found.append(IoiPrompt(template, "BABA", b, a, (a, b, a), place, thing))
    return found


def with_aside(prompts: Sequence[IoiPrompt], who: str) -> list[IoiPrompt]:
    """The adversarial set (`who` is `io`) or its control (`s`): a sentence before the prompt names that person too."""
    if who not in ("io", "s"):
        raise BadInput(f"{who!r} is neither io nor s.")
    return [replace(prompt, aside=prompt.io if who == "io" else prompt.s) for prompt in prompts]


def ioi_set(
    model: LanguageModel, prompts: Sequence[IoiPrompt], fillers: Fillers, flip: str, seed: int = 0
) -> ContrastSet:
    """Clean prompts beside their flips, with answers IO and S of the clean prompt.

    Roles: IO, S1, S2, END, the tokens before and after IO, before and after S1, and `start` (the first token fed).
    Raises BadInput for an unknown flip, and where the prompts of a group do not line up in this tokenizer.
    """
    if flip not in FLIPS:
        raise BadInput(f"flip {flip!r} is unknown. Known are {', '.join(FLIPS)}.")
    rng = np.random.default_rng([seed, 3, list(FLIPS).index(flip)])
    pairs: list[ContrastPrompt] = []
    for number, prompt in enumerate(prompts):
        clean, starts = prompt.written()
        first, second, giver = ((start, start + len(name)) for start, name in zip(starts, prompt.names, strict=True))
        io, s1 = (first, second) if prompt.names[0] == prompt.io else (second, first)
        other = prompt.flipped(FLIPS[flip], fillers.names, rng).written()[0]
        answers = (f" {prompt.io}", f" {prompt.s}")
        roles = {"IO": io, "S1": s1, "S2": giver}
        pairs.append(ContrastPrompt(clean, other, answers, roles, prompt.group, f"prompt {number + 1}"))
    found = tokenise(pairs, model, f"ioi {flip}")
    return _check_groups(replace(found, roles=_more_roles(found), notes=(*fillers.notes, *found.notes)))


def _more_roles(found: ContrastSet) -> dict[str, Int[np.ndarray, " prompt"]]:
    own = dict(found.roles)
    around = {
        f"{name}{step:+d}": own[name] + step
        for name in ("IO", "S1")
        for step in (-1, 1)
        if (own[name] + step >= 0).all()
    }
    return {**own, **around, "start": np.zeros(len(found), dtype=np.int64), END: own[END]}


def _check_groups(found: ContrastSet) -> ContrastSet:
    places = np.stack([found.lengths, *found.roles.values()])
    for group in sorted(set(found.groups)):
        rows = [n for n, name in enumerate(found.groups) if name == group]
        if (places[:, rows] != places[:, rows[:1]]).any():
            raise BadInput(
                f"the prompts of group {group} do not line up in this tokenizer: lengths "
                f"{sorted(set(found.lengths[rows].tolist()))}. Use fillers of one number of tokens."
            )
    return found


@dataclass(frozen=True)
class IoiPerformance:
    """Mean logit difference of IO over S, share of prompts where it is positive, mean probability of IO."""

    logit_diff: float
    io_over_s: float
    probability: float
    n: int


def performance(model: LanguageModel, prompts: ContrastSet) -> IoiPerformance:
    """How well the model does the clean prompts."""
    found = np.zeros((2, len(prompts)))
    for rows in prompts.batches(BATCH_CELLS):
        part = prompts.take(rows)
        each, ends = torch.arange(len(part)), torch.from_numpy(part.ends)
        hidden = model.final_states(model.to_ids(part.clean))[1][each.to(model.device), ends.to(model.device)]
        values = Reader(model, part).values(hidden[None], ("logit_diff", "prob"))
        found[:, rows] = values["logit_diff"][0], values["prob"][0]
    return IoiPerformance(float(found[0].mean()), float((found[0] > 0).mean()), float(found[1].mean()), len(prompts))
