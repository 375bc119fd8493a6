"""SelfIE (arXiv 2403.10949): the model puts its own vectors into words, beside what it says under controls.

1. Each vector is inserted at the placeholders of each prompt at block k, and the answer y decoded greedily.
2. The same prompt is answered under every control: no insertion, zero, a random vector of the same norm, the site's
   mean, a vector of another token of another text, and the source text itself in place of the placeholders.
3. Teacher-forced passes give the probability of y under the vector and under each control.
4. `nulls` random vectors with norms of the site go through the same steps; a vector counts only beyond them.
5. `selfie_numbers` makes totals, margins and verdicts; where no condition is met the verdict is `abstain`.

All rows of a batch share a prompt, so nothing is padded. It never samples: readings are evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lenses.selfie_prompts import PlaceholderPrompt
from autointerp.lenses.sources import Pool, Source
from autointerp.lenses.surgery import Insert, Insertion, Mode, inserting
from autointerp.model import LanguageModel
from autointerp.model.decoding import Decoding, Generated, answer_log_probs, generate

Vectors = Float[Tensor, "insert d_model"]
Progress = Callable[[str, int, int], None]
Answer = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """Where and how vectors are inserted, and how much is computed."""

    block: int = 1
    mode: Mode = "normalized"
    strength: float = 1.0
    max_new_tokens: int = 30
    seed: int = 0
    nulls: int = 24
    batch_size: int = 32


@dataclass(frozen=True, eq=False)
class Case:
    """A vector (one, or one for each placeholder) with its control vectors, by name."""

    vectors: Vectors
    controls: dict[str, Vectors]

    def scaled(self, factor: float) -> Case:
        """The vectors scaled, and the controls that are not zero to the same norms."""
        own = self.vectors * factor
        size = own.norm(dim=-1, keepdim=True)
        controls = {n: c if n == "zero" else c * (size / c.norm(dim=-1, keepdim=True).clamp_min(1e-12))
                    for n, c in self.controls.items()}  # fmt: skip
        return Case(own, controls)


@dataclass(frozen=True, eq=False)
class Reading:
    """What one prompt gave for one case: the answer, its log-probabilities under the vector and under controls, and
    the residual's mean norm where the vector was put."""

    answer: Answer
    p: Float[Tensor, " token"]
    q: dict[str, Float[Tensor, " token"]]
    x_norm: float


def draw(seed: int, *keys: str) -> torch.Generator:
    """A generator of its own for every use, so that no result depends on what else is asked for."""
    digest = hashlib.sha256("\0".join((str(seed), *keys)).encode("utf-8", "surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def random_like(vectors: Vectors, generator: torch.Generator) -> Vectors:
    """Random directions with the norms of `vectors`."""
    noise = torch.randn(vectors.shape, generator=generator)
    found: Tensor = noise * (vectors.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    return found


def source_case(source: Source, pool: Pool, seed: int) -> Case:
    """The case of a source: its controls are drawn for it alone."""
    own = source.vector.detach().float().reshape(-1, source.vector.shape[-1])
    return _case(own, pool, seed, source.key, (source.source_document, source.token))


def null_case(number: int, pool: Pool, seed: int) -> Case:
    """A random vector with the norm of one of the pool's, to be read like any other."""
    generator = draw(seed, "null", str(number))
    like = int(torch.randint(len(pool.vectors), (1,), generator=generator))
    own = random_like(pool.vectors[like : like + 1].float(), generator)
    return _case(own, pool, seed, f"null {number}", (pool.texts[like], pool.tokens[like]))


def _case(own: Vectors, pool: Pool, seed: int, key: str, apart: tuple[str, str]) -> Case:
    generator = draw(seed, "shuffled", key)
    picked = [pool.other(*apart, generator) for _ in range(len(own))]
    return Case(
        own,
        {
            "zero": torch.zeros_like(own),
            "random": random_like(own, draw(seed, "random", key)),
            "mean": pool.mean.float().expand(len(own), -1),
            "shuffled": pool.vectors[picked].float(),
        },
    )


@dataclass(eq=False)
class Runner:
    """Decodes and scores in batches with one model and one set of settings; counts the tokens that were fed."""

    model: LanguageModel
    settings: Settings
    tokens_fed: int = 0
    _said: dict[tuple[str, Answer], Answer] = field(default_factory=dict)

    def answers(self, prompt: PlaceholderPrompt, vectors: Sequence[Vectors], *, zero: bool = False) -> list[Answer]:
        """Greedy answers with each of the vectors inserted (`zero`: they are zero, which has no direction)."""
        found: list[Answer] = []
        for part in _parts(vectors, self.settings.batch_size):
            ids = self._prompt_batch(prompt, len(part))
            with inserting(self.model, self._insertion(prompt, part, zero=zero), ids.shape[1]):
                found += self._generate(ids).ids
        return found

    def plain_answer(self, ids: Answer) -> Answer:
        """The greedy answer to ids as they are, remembered."""
        key = ("plain", ids)
        if key not in self._said:
            self._said[key] = self._generate(self.model.to_ids(np.array([ids]))).ids[0]
        return self._said[key]

    def _generate(self, ids: Tensor) -> Generated:
        made = generate(self.model, ids, Decoding(self.settings.max_new_tokens))
        self.tokens_fed += ids.numel() + sum(len(row) for row in made.ids)
        return made

    def scores(
        self,
        prompt: PlaceholderPrompt,
        answers: Sequence[Answer],
        vectors: Sequence[Vectors] | None,
        *,
        zero: bool = False,
    ) -> tuple[list[Float[Tensor, " token"]], list[float]]:
        """Log-probabilities of the answers with the vectors inserted (None: placeholders as they are), and the mean
        norm of the residual where each was put."""
        found: list[Tensor] = []
        norms: list[float] = []
        size, block = self.settings.batch_size, self.settings.block
        for start in range(0, len(answers), size):
            part = answers[start : start + size]
            ids = self._prompt_batch(prompt, len(part))
            self.tokens_fed += ids.numel() + sum(len(answer) for answer in part)
            if vectors is None:
                found += answer_log_probs(self.model, ids, part)
                continue
            insertion = self._insertion(prompt, vectors[start : start + size], zero=zero)
            with inserting(self.model, insertion, ids.shape[1]) as fired:
                found += answer_log_probs(self.model, ids, part)
            norms += [fired.stream_norm[row, block] for row in range(len(part))]
        return found, norms

    def scores_after(self, prompts: Sequence[Answer], answers: Sequence[Answer]) -> list[Float[Tensor, " token"]]:
        """Log-probabilities of each answer after its own plain prompt; prompts of like length run together."""
        found: list[Tensor | None] = [None] * len(prompts)
        by_length: dict[int, list[int]] = {}
        for place, ids in enumerate(prompts):
            by_length.setdefault(len(ids), []).append(place)
        for places in by_length.values():
            for part in _parts(places, self.settings.batch_size):
                ids_batch = self.model.to_ids(np.array([prompts[p] for p in part]))
                wanted = [answers[p] for p in part]
                self.tokens_fed += ids_batch.numel() + sum(len(answer) for answer in wanted)
                for place, scored in zip(part, answer_log_probs(self.model, ids_batch, wanted), strict=True):
                    found[place] = scored
        return [scored for scored in found if scored is not None]

    def _prompt_batch(self, prompt: PlaceholderPrompt, n: int) -> Tensor:
        return self.model.to_ids(np.tile(np.array(prompt.ids), (n, 1)))

    def _insertion(self, prompt: PlaceholderPrompt, vectors: Sequence[Vectors], *, zero: bool) -> Insertion:
        for one in vectors:
            if len(one) > prompt.n_placeholders:
                raise BadInput(f"{len(one)} vectors for the {prompt.n_placeholders} placeholders of prompt "
                               f"{prompt.name!r}. Give more placeholders, or fewer vectors.")  # fmt: skip
            if len(one) not in (1, prompt.n_placeholders):
                raise BadInput(f"{len(one)} vectors for the {prompt.n_placeholders} placeholders of prompt "
                               f"{prompt.name!r}. Give one for all, or one for each.")  # fmt: skip
        mode: Mode = "normalized" if zero and self.settings.mode == "norm_matched" else self.settings.mode
        rows = tuple({self.settings.block: Insert(prompt.positions, one)} for one in vectors)
        return Insertion(rows, mode, self.settings.strength)


def read_cases(runner: Runner, prompt: PlaceholderPrompt, cases: Sequence[Case]) -> list[Reading]:
    """Answers of the cases to one prompt, scored under the vectors and under all vector controls."""
    answers = runner.answers(prompt, [case.vectors for case in cases])
    p, norms = runner.scores(prompt, answers, [case.vectors for case in cases])
    q: dict[str, list[Tensor]] = {"none": runner.scores(prompt, answers, None)[0]}
    for name in cases[0].controls if cases else ():
        inserted = [case.controls[name] for case in cases]
        q[name] = runner.scores(prompt, answers, inserted, zero=name == "zero")[0]
    return [
        Reading(answers[i], p[i], {name: listed[i] for name, listed in q.items()}, norms[i]) for i in range(len(cases))
    ]


def control_answers(runner: Runner, prompt: PlaceholderPrompt, cases: Sequence[Case]) -> list[dict[str, Answer]]:
    """What the model says to the prompt under each case's controls."""
    none = runner.plain_answer(prompt.ids)
    found: list[dict[str, Answer]] = [{"none": none} for _ in cases]
    for name in cases[0].controls if cases else ():
        inserted = [case.controls[name] for case in cases]
        unique = {one.numpy().tobytes(): one for one in inserted}  # zero and mean are the same for all
        said = dict(zip(unique, runner.answers(prompt, list(unique.values()), zero=name == "zero"), strict=True))
        for place, one in enumerate(inserted):
            found[place][name] = said[one.numpy().tobytes()]
    return found


def text_prompt(model: LanguageModel, prompt: PlaceholderPrompt, source: Source, new: int) -> tuple[Answer, bool]:
    """The prompt with the source's text in place of the placeholders, and whether its start had to be cut."""
    room = model.n_ctx - new - len(prompt.prefix) - len(prompt.suffix)
    if room < 1:
        raise BadInput(f"prompt {prompt.name!r} leaves no room for a text in the context of {model.name} "
                       f"({model.n_ctx}). Generate less.")  # fmt: skip
    return prompt.around(source.text_ids[-room:]), len(source.text_ids) > room


def text_readings(
    runner: Runner, prompt: PlaceholderPrompt, sources: Sequence[Source], readings: Sequence[Reading]
) -> list[tuple[Answer, Float[Tensor, " token"], bool] | None]:
    """For each source the answer to its text, the log-probabilities of its reading there, and whether the text was
    cut; None for a source without text. The control is named `text_only`."""
    new = max([runner.settings.max_new_tokens, *(len(r.answer) for r in readings)])
    with_text = [n for n, source in enumerate(sources) if source.text_ids]
    prompts = {n: text_prompt(runner.model, prompt, sources[n], new) for n in with_text}
    scored = runner.scores_after([prompts[n][0] for n in with_text], [readings[n].answer for n in with_text])
    found: list[tuple[Answer, Tensor, bool] | None] = [None] * len(sources)
    for n, scores in zip(with_text, scored, strict=True):
        found[n] = (runner.plain_answer(prompts[n][0]), scores, prompts[n][1])
    return found


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
