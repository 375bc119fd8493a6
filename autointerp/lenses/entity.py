"""The entity lens: layers by tokens of a text, each cell the mention that the vector there stands for.

1. One forward of the text gives the vectors of all layers.
2. All cells, and their controls, are decoded in one batch after contexts whose keys and values are computed once.
3. A cell whose control says the same is marked: it shows the context or the task vector, not this vector.

(arXiv 2510.09421; specification: entity lens, section 9.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lenses.entity_checkpoint import EntityVectors
from autointerp.lenses.entity_frame import Frame, Ids
from autointerp.lenses.entity_reader import Control, EntityReader, check_controls, logit_lens
from autointerp.lenses.entity_result import EntityReading, LensCell
from autointerp.lenses.entity_run import Generated, Prefix, PromptRunner
from autointerp.lenses.entity_vectors import EMBEDDING, check_layers, read_streams
from autointerp.model import LanguageModel


@dataclass(frozen=True)
class LensOptions:
    """`layers` None: every fifth (all, up to eight), the embedding and the last, of those trained. `theta_layer`
    None: each layer's own vector."""

    layers: tuple[int, ...] | None = None
    theta_layer: int | None = None
    use_filter: bool | None = None
    logit_lens_k: int = 0
    controls: tuple[str, ...] = ("mean",)
    max_tokens: int = 8


@dataclass(frozen=True, eq=False)
class VectorReading:
    """What one vector stands for: the output, its perplexity, and what each control says in its place."""

    mention: str
    ids: tuple[int, ...]
    ppl: float
    controls: dict[str, str]

    @property
    def equals_control(self) -> bool:
        return self.mention in self.controls.values()


def entity_lens(
    model: LanguageModel,
    vectors: EntityVectors,
    text: str,
    options: LensOptions | None = None,
    runner: PromptRunner | None = None,
) -> EntityReading:
    """Read every token of `text` at the layers. Raises BadInput for a text that is empty or too long, for a layer
    that the model does not have or that has no trained vector, for an unknown control."""
    options = options or LensOptions()
    runner = runner or PromptRunner(model, Frame.of(model))
    reader = EntityReader(runner, vectors, options.use_filter)
    ids = _text_ids(runner, vectors, text, options.max_tokens)
    layers = default_layers(model, vectors) if options.layers is None else check_layers(model, options.layers)
    source = [vectors.place(layer) for layer in layers]
    theta = source if options.theta_layer is None else [vectors.place(options.theta_layer)] * len(source)
    h = read_streams(model, ids, layers)[1:].transpose(0, 1).flatten(0, 1)
    n_tokens = len(ids) - 1
    readings = _read(
        reader, h, _Where(_spread(source, n_tokens), _spread(theta, n_tokens), _contexts(runner, vectors, ids, layers)),
        options,
    )  # fmt: skip
    tops = logit_lens(runner, h, options.logit_lens_k) if options.logit_lens_k else [()] * len(h)
    cells = []
    for row, reading in enumerate(readings):
        layer, pos = layers[row // n_tokens], row % n_tokens + 1
        cells.append(
            LensCell(layer, layer if options.theta_layer is None else options.theta_layer, pos,
                     model.strings[int(ids[pos])], reading.mention, reading.ids, reading.ppl, tops[row],
                     reading.controls)
        )  # fmt: skip
    return EntityReading(text, model.name, vectors.context, reader.filtered, tuple(cells))


def read_vectors(
    reader: EntityReader,
    h: Float[Tensor, "row d_model"],
    layer: int,
    controls: Sequence[str] = ("mean", "random_norm"),
    max_tokens: int = 8,
) -> list[VectorReading]:
    """What any vectors stand for (head results, differences, decoder rows), without context, read with the task
    vector of `layer`. Vectors that are no residual stream are out of the task vector's distribution: compare with
    their controls. Raises BadInput where the task vectors were trained with a context."""
    if reader.vectors.context != "none":
        raise BadInput("vectors without a text are read without context; give vectors trained with --context none.")
    place = reader.vectors.place(layer)
    here = torch.full((len(h),), place)
    prefix = reader.runner.prefix([_start(reader.runner)])
    where = _Where(here, here, (prefix, torch.zeros(len(h), dtype=torch.long)))
    return _read(reader, h.float().cpu(), where, LensOptions(controls=tuple(controls), max_tokens=max_tokens))


@dataclass(frozen=True, eq=False)
class _Where:
    source: Tensor
    theta: Tensor
    contexts: tuple[Prefix, Tensor]


def _read(reader: EntityReader, h: Tensor, where: _Where, options: LensOptions) -> list[VectorReading]:
    """The cells and their controls, as one batch where the controls are vectors."""
    names = check_controls(options.controls)
    together: list[Control] = [name for name in names if name != "no_insertion"]
    stacked = torch.cat([h, *(reader.control(name, h, where.source) for name in together)])
    n = 1 + len(together)
    prefix, of = where.contexts
    said = reader.read(stacked, where.source.repeat(n), where.theta.repeat(n), (prefix, of.repeat(n)),
                       options.max_tokens)  # fmt: skip
    parts: dict[Control, list[Generated]] = {
        name: said[(i + 1) * len(h) : (i + 2) * len(h)] for i, name in enumerate(together)
    }
    if "no_insertion" in names:
        parts["no_insertion"] = reader.read_control(
            "no_insertion", h, where.source, where.theta, where.contexts, options.max_tokens
        )
    return [
        _reading(reader, one, {name: reader.text(parts[name][row]) for name in names})
        for row, one in enumerate(said[: len(h)])
    ]


def _reading(reader: EntityReader, said: Generated, controls: dict[str, str]) -> VectorReading:
    return VectorReading(reader.text(said), said.ids, math.exp(min(said.nll, 700.0)), controls)


def default_layers(model: LanguageModel, vectors: EntityVectors) -> tuple[int, ...]:
    """The embedding, every fifth layer (every one of up to eight) and the last, as far as they are trained."""
    step = 1 if model.n_layers <= 8 else 5
    wanted = {EMBEDDING, model.n_layers - 1, *range(0, model.n_layers, step)}
    found = tuple(layer for layer in vectors.layers if layer in wanted)
    return found or vectors.layers


def _start(runner: PromptRunner) -> Ids:
    return np.array([runner.frame.start])


def _text_ids(runner: PromptRunner, vectors: EntityVectors, text: str, max_tokens: int) -> Ids:
    model = runner.model
    ids = runner.frame.text(model, text)
    if len(ids) < 2:
        raise BadInput("the text is empty. Give some words.")
    room = model.n_ctx - (2 + max_tokens if vectors.context != "none" else 0)
    if len(ids) > room:
        raise BadInput(
            f"the text has {len(ids)} tokens, the start token counted; {model.name} has room for {room}"
            f"{'' if vectors.context == 'none' else f' beside the two slots and {max_tokens} tokens of answer'}. "
            "Give a shorter text."
        )
    if not 0 < max_tokens <= model.n_ctx - 3:
        raise BadInput(f"{max_tokens} tokens of answer do not fit the context of {model.n_ctx}. Give another number.")
    return ids


def _spread(places: Sequence[int], n_tokens: int) -> Tensor:
    return torch.tensor(list(places)).repeat_interleave(n_tokens)


def _contexts(runner: PromptRunner, vectors: EntityVectors, ids: Ids, layers: Sequence[int]) -> tuple[Prefix, Tensor]:
    """The contexts, and each row's one."""
    n_tokens = len(ids) - 1
    if vectors.context == "prefix":
        return runner.beginnings(ids, range(2, len(ids) + 1)), torch.arange(n_tokens).repeat(len(layers))
    context = ids if vectors.context == "sentence" else _start(runner)
    return runner.prefix([context]), torch.zeros(n_tokens * len(layers), dtype=torch.long)
