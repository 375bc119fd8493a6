"""The entity lens on what a head writes: the mention that it stands for, beside what other vectors give.

1. An output is read with the task vector of the head's own layer, a difference with that of the last layer: that is
   where they are added to the stream (the nearest trained layer where there is none).
2. Task vectors are trained on residual streams, and these are parts of one, for which the model writes fluent names
   whatever they mean; how likely the name is does not tell them apart. What does is whether it belongs to the vector:
   `margin` is the mean log-likelihood of the mention's ids under the vector less the largest under `REFERENCES` random
   vectors of its norm, and `NULLS` other random vectors, read likewise, say how often that comes by chance. The mean
   of the head's vectors at rows of other documents and one of those must not say the same, nor make it likelier.
3. The final stream itself is read with and without the head's difference. That changes the mention by chance as well,
   so it is held against random vectors of the difference's norm.

A reading that these do not beat abstains. What this does not do: search for a scale at which a vector can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.lens_records import (
    EntityControl,
    EntityVectorReading,
    EntityVerdict,
    MentionReading,
    StreamReading,
    What,
)
from autointerp.lenses.entity import VectorReading, read_vectors
from autointerp.lenses.entity_checkpoint import EntityVectors
from autointerp.lenses.entity_frame import Frame
from autointerp.lenses.entity_reader import EntityReader
from autointerp.lenses.entity_run import PromptRunner
from autointerp.lenses.head_vectors import HeadVectors
from autointerp.model import LanguageModel
from autointerp.records import Unit

NULLS, REFERENCES, LEVEL = 19, 4, 0.05
STEPS = 2  # of the norms of random vectors, in a doubling
MAX_TOKENS, PROMPT = 8, 3  # tokens of an answer; start token and two slots
OTHERS = ("mean", "shuffled")
Rows = Float[Tensor, "row d_model"]


@dataclass(frozen=True, eq=False)
class _Case:
    """Vectors of one row that are read together, its own first."""

    row: int
    vectors: Rows


@dataclass(frozen=True, eq=False)
class _Nulls:
    """Random vectors of one norm: references `[REFERENCES d_model]`, and the margins of `NULLS` others."""

    references: Rows
    margins: Float[Tensor, " null"]


class HeadEntities:
    """Reads vectors of heads of one model; `tokens_fed` counts what the model has read for it."""

    def __init__(self, model: LanguageModel, vectors: EntityVectors) -> None:
        self._model = model
        self._reader = EntityReader(PromptRunner(model, Frame.of(model)), vectors)
        self._known: dict[tuple[int, int], _Nulls] = {}
        self.tokens_fed = 0

    def layer(self, head: Unit, what: What) -> int:
        """The layer whose task vector reads these vectors."""
        return self._nearest(head.layer if what == "output" else self._model.n_layers - 1)

    def read(
        self, head: Unit, what: What, vectors: Rows, documents: Sequence[str], n_rows: int
    ) -> list[EntityVectorReading | None]:
        """Readings of the first `n_rows` vectors, the rest serve as controls; None for a vector of zeros."""
        layer = self.layer(head, what)
        norms = vectors[:n_rows].norm(dim=1)
        live = norms.nonzero()[:, 0].tolist()
        found: list[EntityVectorReading | None] = [None] * n_rows
        if not live:
            return found
        nulls = self._nulls(float(norms[live].median()), vectors.shape[1], layer)
        cases = []
        for row in live:
            references = nulls.references * (norms[row] / nulls.references.norm(dim=1, keepdim=True))
            cases.append(_Case(row, torch.cat([vectors[row][None], _others(row, vectors, documents), references])))
        asked = [_Case(case.row, case.vectors[: 1 - REFERENCES]) for case in cases]  # one of the references will do
        said = self._said(asked, layer)
        scores = self._log_likelihoods([case.vectors for case in cases], [one[0] for one in said], layer)
        for case, (own, *others), score in zip(cases, said, scores, strict=True):
            names = (*OTHERS[: len(others) - 1], "random_norm")
            found[case.row] = _vector_reading(layer, own, list(zip(names, others, strict=True)), score, nulls)
        return found

    def read_streams(self, vectors: HeadVectors, n_rows: int) -> list[StreamReading | None]:
        """The final streams of the first `n_rows` rows with and without the differences; None where there is none."""
        layer = self._nearest(self._model.n_layers - 1)
        live = [row for row in range(n_rows) if float(vectors.difference[row].norm()) > 0]
        both = [_Case(row, torch.stack([vectors.final[row], vectors.final[row] - vectors.difference[row]]))
                for row in live]  # fmt: skip
        said = dict(zip(live, self._said(both, layer), strict=True))
        moved = [row for row in live if _normal(said[row][0]) != _normal(said[row][1])]
        noisy = []
        for row in moved:
            noise = _random(NULLS, vectors.difference[row].norm(), vectors.final.shape[1], row)
            noisy.append(_Case(row, vectors.final[row] + noise))
        random = dict(zip(moved, self._said(noisy, layer), strict=True))
        return [_stream_reading(layer, said[row], random.get(row)) if row in said else None for row in range(n_rows)]

    def _nearest(self, wanted: int) -> int:
        return min(self._reader.vectors.layers, key=lambda layer: (abs(layer - wanted), layer))

    def _nulls(self, norm: float, size: int, layer: int) -> _Nulls:
        """Random vectors of nearly a norm and what is said for them; heads whose norms are alike share them."""
        step = round(STEPS * math.log2(norm))
        if (layer, step) not in self._known:
            self._known[layer, step] = self._read_nulls(2 ** (step / STEPS), size, layer)
        return self._known[layer, step]

    def _read_nulls(self, norm: float, size: int, layer: int) -> _Nulls:
        drawn = _random(REFERENCES + NULLS, torch.tensor(norm), size, 0)
        references = drawn[:REFERENCES]
        own = [torch.cat([one[None], references]) for one in drawn[REFERENCES:]]
        said = self._said([_Case(n, one[:1]) for n, one in enumerate(own)], layer)
        scores = self._log_likelihoods(own, [one[0] for one in said], layer)
        return _Nulls(references, torch.stack([one[0] - one[1:].max() for one in scores]))

    def _log_likelihoods(
        self, vectors: Sequence[Rows], said: Sequence[VectorReading], layer: int
    ) -> list[Float[Tensor, " vector"]]:
        """Of each saying (its stop included) under each of its vectors, nats an id: a sum would favour long ones."""
        runner, sizes = self._reader.runner, [len(one) for one in vectors]
        stacked = torch.cat(list(vectors))
        place = torch.full((len(stacked),), self._reader.vectors.place(layer))
        soft = self._reader.soft(stacked, place, place)
        prefix = runner.prefix([np.array([runner.frame.start])])
        rows = runner.rows(prefix, torch.zeros(len(stacked), dtype=torch.long), soft, np.array(runner.frame.slots))
        stop = [runner.frame.stop]
        ids = [np.array([*one.ids, *(stop if len(one.ids) < MAX_TOKENS else [])], dtype=np.int64) for one in said]
        targets = [own for own, size in zip(ids, sizes, strict=True) for _ in range(size)]
        self.tokens_fed += sum(PROMPT - 1 + len(one) for one in targets)
        with torch.no_grad():
            scored = runner.score(rows, targets)
        sums = torch.zeros(len(stacked), device=scored.log_prob.device).index_add(0, scored.row, scored.log_prob)
        lengths = torch.tensor([len(one) for one in targets])
        return list((sums.double().cpu() / lengths).split(sizes))

    def _said(self, cases: Sequence[_Case], layer: int) -> list[list[VectorReading]]:
        """What the lens says for each vector of each case, read together."""
        if not cases:
            return []
        stacked = torch.cat([case.vectors for case in cases])
        said = read_vectors(self._reader, stacked, layer, controls=(), max_tokens=MAX_TOKENS)
        self.tokens_fed += sum(PROMPT + len(one.ids) for one in said)
        ends = torch.tensor([len(case.vectors) for case in cases]).cumsum(0).tolist()
        return [said[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def tokens_bound(n_rows: int, n_kinds: int) -> int:
    """Most tokens that the model reads for the rows of one head."""
    others = 1 + len(OTHERS)
    nulls = NULLS * (2 + REFERENCES)
    return (n_kinds * (nulls + n_rows * (2 * others + REFERENCES + 1)) + n_rows * (2 + NULLS)) * (PROMPT + MAX_TOKENS)


def _random(n: int, norm: Tensor, size: int, seed: int) -> Rows:
    """Random vectors of a norm."""
    noise = torch.randn(n, size, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = noise * (norm / noise.norm(dim=1, keepdim=True))
    return scaled


def _others(row: int, vectors: Rows, documents: Sequence[str]) -> Rows:
    """The mean over rows of other documents, and one of them; none where there is no other document."""
    places = [place for place, document in enumerate(documents) if document != documents[row]]
    if not places:
        return vectors[:0]
    return torch.stack([vectors[places].mean(0), vectors[places[row % len(places)]]])


def _vector_reading(
    layer: int,
    own: VectorReading,
    others: Sequence[tuple[str, VectorReading]],
    scores: Float[Tensor, " vector"],
    nulls: _Nulls,
) -> EntityVectorReading:
    margin = float(scores[0] - scores[-REFERENCES:].max())
    null_p = _share(int((nulls.margins >= margin).sum()))
    said = {_normal(one) for _, one in others}
    beats = bool((scores[1:] < scores[0]).all())
    return EntityVectorReading(
        **_mention(own).model_dump(), layer=layer, margin=_six(margin), null_p=null_p,
        verdict=_verdict(null_p, bool(_normal(own)) and _normal(own) not in said and beats),
        controls=tuple(EntityControl(name=name, **_mention(one).model_dump()) for name, one in others),
    )  # fmt: skip


def _stream_reading(layer: int, said: list[VectorReading], random: list[VectorReading] | None) -> StreamReading:
    own, without = said
    null_p = 1.0 if random is None else _share(sum(_normal(one) != _normal(own) for one in random))
    verdict = _verdict(null_p, random is not None)
    return StreamReading(layer=layer, stream=_mention(own), without=_mention(without), null_p=null_p, verdict=verdict)


def _verdict(null_p: float, holds: bool) -> EntityVerdict:  # noqa: FBT001
    return "specific" if holds and null_p <= LEVEL else "abstain"


def _share(count: int) -> float:
    return (1 + count) / (1 + NULLS)


def _mention(said: VectorReading) -> MentionReading:
    return MentionReading(mention=said.mention, likelihood=_six(1 / said.ppl))


def _normal(said: VectorReading) -> str:
    return " ".join(said.mention.casefold().split())


def _six(value: float) -> float:
    return float(f"{value:.6g}")
