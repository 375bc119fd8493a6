"""A contrast set as a model is fed it: ids of equal length in each pair, answers of one token, roles as positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from autointerp.circuits.contrast import END, ContrastPrompt
from autointerp.errors import BadInput
from autointerp.model import LanguageModel


@dataclass(frozen=True, eq=False)
class ContrastSet:
    """Right-padded prompts, BOS included where the model is fed one; row i of clean and corrupted is one pair.

    `answer`, `wrong`: ids, -1 where there is no wrong one. `roles`: one position a prompt, END among them. `notes`:
    what a reader of the numbers should know.
    """

    name: str
    clean: Int[np.ndarray, "prompt pos"]
    corrupted: Int[np.ndarray, "prompt pos"]
    lengths: Int[np.ndarray, " prompt"]
    answer: Int[np.ndarray, " prompt"]
    wrong: Int[np.ndarray, " prompt"]
    roles: Mapping[str, Int[np.ndarray, " prompt"]]
    groups: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupted.shape or len(self.clean) != len(self.lengths) or not len(self.lengths):
            raise BadInput(
                f"clean is {self.clean.shape}, corrupted {self.corrupted.shape}, with {len(self.lengths)} lengths: a "
                "contrast set has pairs of equal length, and at least one."
            )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ends(self) -> Int[np.ndarray, " prompt"]:
        return self.roles[END]

    @property
    def has_wrong(self) -> bool:
        return bool((self.wrong >= 0).all())

    def role(self, name: str) -> Int[np.ndarray, " prompt"]:
        """The position of a role in each prompt. Raises BadInput where some prompt does not have it."""
        if name not in self.roles:
            raise BadInput(f"role {name!r} is not in every prompt of {self.name}. Known are {', '.join(self.roles)}.")
        return self.roles[name]

    def swapped(self) -> ContrastSet:
        """Clean and corrupted exchanged; answers and roles stay."""
        return replace(self, clean=self.corrupted, corrupted=self.clean)

    def take(self, rows: Int[np.ndarray, " part"]) -> ContrastSet:
        """Some of the prompts, cut to the longest of them."""
        width = int(self.lengths[rows].max())
        roles = {name: places[rows] for name, places in self.roles.items()}
        return replace(
            self, clean=self.clean[rows, :width], corrupted=self.corrupted[rows, :width], lengths=self.lengths[rows],
            answer=self.answer[rows], wrong=self.wrong[rows], roles=roles, groups=tuple(self.groups[r] for r in rows),
        )  # fmt: skip

    def batches(self, cells: int) -> list[Int[np.ndarray, " part"]]:
        """Rows of like length together, at most `cells` tokens (or one prompt) in each part."""
        order = np.argsort(self.lengths, kind="stable")
        parts: list[list[int]] = []
        for row in order.tolist():
            if parts and (len(parts[-1]) + 1) * int(self.lengths[row]) <= cells:
                parts[-1].append(row)
            else:
                parts.append([row])
        return [np.array(part) for part in parts]


def tokenise(prompts: Sequence[ContrastPrompt], model: LanguageModel, name: str = "set") -> ContrastSet:
    """Feed form of the prompts. Raises BadInput for pairs of unequal length, answers or roles of several tokens,
    prompts over the model's context, and ids outside its vocabulary."""
    if not prompts:
        raise BadInput(f"{name} holds no prompt. Give at least one.")
    fed = [_Fed.of(prompt, model) for prompt in prompts]
    width = max(len(one.clean) for one in fed)
    shared = [role for role in fed[0].roles if all(role in one.roles for one in fed)]
    missing = sorted({role for one in fed for role in one.roles} - set(shared))
    notes = [f"role {role} is not in every prompt and cannot be used" for role in missing]
    same = sum(one.clean == one.corrupted for one in fed)
    if same:
        notes.append(f"{same} of {len(fed)} pairs have identical prompts: every effect on them is 0")
    if model.bos_id is None:
        notes.append(f"{model.bos_rule}; compare numbers only with runs without BOS")
    if 0 < sum(one.wrong < 0 for one in fed) < len(fed):
        notes.append("some prompts have no wrong answer: logit differences are not available")
    roles = {role: np.array([one.roles[role] for one in fed]) for role in shared}
    return ContrastSet(
        name, _padded([one.clean for one in fed], width), _padded([one.corrupted for one in fed], width),
        np.array([len(one.clean) for one in fed]), np.array([one.answer for one in fed]),
        np.array([one.wrong for one in fed]), roles, tuple(prompt.group for prompt in prompts), tuple(notes),
    )  # fmt: skip


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int[np.ndarray, "prompt pos"]:
    found = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return found


@dataclass(frozen=True)
class _Fed:
    """One pair as ids."""

    clean: list[int]
    corrupted: list[int]
    answer: int
    wrong: int
    roles: dict[str, int]

    @classmethod
    def of(cls, prompt: ContrastPrompt, model: LanguageModel) -> _Fed:
        first = [] if model.bos_id is None else [model.bos_id]
        if isinstance(prompt.clean, str):
            ids, offsets = model.encode(prompt.clean)
            ranges = [tuple(pair) for pair in offsets.tolist()]
            clean = [*first, *ids.tolist()]
        else:
            clean, ranges = [*first, *prompt.clean], [(n, n + 1) for n in range(len(prompt.clean))]
        other = model.encode(prompt.corrupted)[0].tolist() if isinstance(prompt.corrupted, str) else prompt.corrupted
        corrupted = [*first, *other]
        _check_ids(prompt, model, clean, corrupted)
        answers = [_answer(prompt, answer, clean[len(first) :], model) for answer in prompt.answers]
        roles = {name: _position(prompt, name, span, ranges) + len(first) for name, span in prompt.roles.items()}
        roles[END] = len(clean) - 1
        return cls(clean, corrupted, answers[0], answers[1] if len(answers) > 1 else -1, roles)


def _check_ids(prompt: ContrastPrompt, model: LanguageModel, clean: list[int], corrupted: list[int]) -> None:
    if len(clean) != len(corrupted):
        raise BadInput(
            f"{prompt.place}: clean has {len(clean)} tokens and corrupted {len(corrupted)}; patching needs the same "
            f"positions in both. Change the words until they are equal: {prompt.clean!r} / {prompt.corrupted!r}."
        )
    if len(clean) < 2 or len(clean) > model.n_ctx:
        raise BadInput(f"{prompt.place} has {len(clean)} tokens; {model.name} takes 2 to {model.n_ctx}.")
    highest = max(*clean, *corrupted)
    if highest >= model.d_vocab:
        raise BadInput(f"{prompt.place} has id {highest}; the ids of {model.name} end at {model.d_vocab - 1}.")


def _answer(prompt: ContrastPrompt, answer: str | int, clean: list[int], model: LanguageModel) -> int:
    """The id of the answer as it continues the clean prompt."""
    if isinstance(answer, int):
        if not 0 <= answer < model.d_vocab:
            raise BadInput(f"{prompt.place}: answer {answer} is no id of {model.name} (0 to {model.d_vocab - 1}).")
        return answer
    whole = model.encode(str(prompt.clean) + answer)[0].tolist()
    alone = model.encode(answer)[0].tolist()
    if whole[: len(clean)] == clean and len(whole) == len(clean) + 1:
        return int(whole[-1])
    if len(alone) == 1 and whole[: len(clean)] != clean:
        return int(alone[0])
    tokens = [model.strings[i] for i in (whole[len(clean) :] if whole[: len(clean)] == clean else alone)]
    hint = "" if answer.startswith(" ") else " A word that follows a word starts with a space."
    raise BadInput(
        f"{prompt.place}: the answer {answer!r} is {len(tokens)} tokens of {model.name} ({tokens}). Use an answer that "
        f"is one token.{hint}"
    )


def _position(prompt: ContrastPrompt, name: str, span: tuple[int, int], ranges: Sequence[tuple[int, ...]]) -> int:
    """The one token that overlaps the span."""
    hits = [n for n, (start, stop) in enumerate(ranges) if start < span[1] and stop > span[0]]
    text = prompt.clean[span[0] : span[1]]
    if len(hits) != 1:
        raise BadInput(
            f"{prompt.place}: role {name} ({text!r}) covers {len(hits)} tokens; a role is one token. Name a part "
            "that is one token, or another word."
        )
    return hits[0]
