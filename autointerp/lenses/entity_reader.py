"""Reads vectors with trained task vectors: the soft prompt of a vector, its controls, and what the model then says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import BadInput
from autointerp.lenses.entity_checkpoint import EntityVectors
from autointerp.lenses.entity_frame import stripped
from autointerp.lenses.entity_run import Generated, Prefix, PromptRunner

Control = Literal["no_insertion", "zero", "random_norm", "mean", "shuffled"]
CONTROLS: tuple[Control, ...] = get_args(Control)
Vectors = Float[Tensor, "row d_model"]
Places = Int[Tensor, " row"]


def check_controls(names: Sequence[str]) -> tuple[Control, ...]:
    """The controls by name. Raises BadInput for an unknown one."""
    found = {name: name for name in CONTROLS}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise BadInput(f"control {unknown[0]!r} is unknown; known are {', '.join(CONTROLS)}.")
    return tuple(found[name] for name in names if name in found)


@dataclass(frozen=True, eq=False)
class EntityReader:
    """A runner with vectors. `use_filter` None: as the vectors' own dev match says."""

    runner: PromptRunner
    vectors: EntityVectors
    use_filter: bool | None = None

    @property
    def filtered(self) -> bool:
        """Whether the linear filter is applied. Raises BadInput where it is asked for and none was trained."""
        wanted = bool(self.vectors.facts.get("use_filter")) if self.use_filter is None else self.use_filter
        if wanted and self.vectors.filters is None:
            raise BadInput("no linear filter was trained with these vectors. Train with --filter, or read without it.")
        return wanted

    def read(
        self, h: Vectors, source: Places, theta: Places, contexts: tuple[Prefix, Places], max_tokens: int
    ) -> list[Generated]:
        """What the model says for each vector; `source` is the place of the layer that `h` comes from (its filter),
        `theta` that of the task vector, and a row continues its own one of the contexts."""
        return self._said(self.soft(h, source, theta), contexts, max_tokens)

    def soft(self, h: Vectors, source: Places, theta: Places) -> Float[Tensor, "row 2 d_model"]:
        """The vectors of the two slots."""
        filters = self.vectors.filters
        with torch.no_grad():
            h = filters(h, source) if self.filtered and filters is not None else h
        return torch.stack([h, self.vectors.theta[theta]], 1)

    def control(self, name: Control, h: Vectors, source: Places, others: Vectors | None = None) -> Vectors:
        """Vectors that take the place of `h`: `others` are those of other items (default: kept from training)."""
        if name == "zero":
            return torch.zeros_like(h)
        if name == "mean":
            return self.vectors.mean[source]
        if name == "random_norm":
            noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(0))
            scaled: Tensor = noise / noise.norm(dim=-1, keepdim=True) * h.norm(dim=-1, keepdim=True)
            return scaled
        if name == "shuffled":
            if others is not None:
                return others
            kept = self.vectors.others
            return kept[torch.arange(len(h)) % len(kept), source]
        raise BadInput(f"{name} puts no vector in; it is run as a control of the prompt.")

    def read_control(
        self, name: Control, h: Vectors, source: Places, theta: Places, contexts: tuple[Prefix, Places],
        max_tokens: int, others: Vectors | None = None,
    ) -> list[Generated]:  # fmt: skip
        """What the model says when the vector is replaced, or nothing is put in at all."""
        if name == "no_insertion":
            return self._said(torch.zeros(len(h), 0, h.shape[1]), contexts, max_tokens)
        return self.read(self.control(name, h, source, others), source, theta, contexts, max_tokens)

    def _said(
        self, soft: Float[Tensor, "row slot d_model"], contexts: tuple[Prefix, Places], max_tokens: int
    ) -> list[Generated]:
        prefix, of = contexts
        return self.runner.generate(self.runner.rows(prefix, of, soft, np.array(self.runner.frame.slots)), max_tokens)

    def text(self, said: Generated) -> str:
        """The output as a string."""
        return stripped(self.runner.model, list(said.ids))


def logit_lens(runner: PromptRunner, h: Vectors, k: int) -> list[tuple[tuple[str, float], ...]]:
    """The `k` most probable tokens of each vector through the final norm, the unembedding and the soft cap."""
    model = runner.model
    with torch.no_grad():
        normed = model.bridge.ln_final(h.to(device=model.device, dtype=model.dtype)[None])[0]
        top = torch.softmax(model.unembed(normed), -1).topk(k)
    return [
        tuple((model.strings[i], p) for i, p in zip(ids, values, strict=True))
        for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
