"""What stands in for a head's z when it is taken out, and where.

`zero`; `mean`: over all prompts and positions of a reference set; `template_mean`: over the reference prompts of the
same group, at the same position; `resample`: z of another reference prompt of the same length, drawn with a seed, and
averaged over 5 draws. A group for template means has prompts of one length with the roles at one place: fewer than 5
are refused (their mean is nearly the prompt itself), fewer than 20 noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autointerp.circuits.cells import Cell
from autointerp.circuits.patching import cell_mask
from autointerp.circuits.prompts import ContrastSet
from autointerp.errors import BadInput
from autointerp.model import LanguageModel
from autointerp.model.nodes import read_nodes, require_eval
from autointerp.model.patched_runs import Edit
from autointerp.records import Head

ABLATIONS = ("zero", "mean", "template_mean", "resample")
DRAWS = 5
LEAST_GROUP, GOOD_GROUP = 5, 20
BATCH_CELLS = 4096


@dataclass(frozen=True, order=True)
class CircuitNode:
    """z of a head, at a role or (empty) at all positions."""

    head: Head
    position: str = ""

    def __str__(self) -> str:
        return f"{self.head} {self.position}".strip()


@dataclass(frozen=True)
class Selection:
    """Which nodes are ablated: the named ones, or (`kept`) all but the named ones."""

    nodes: frozenset[CircuitNode]
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Ablation:
    """How z is replaced. `reference`: the set of which `side` supplies the values."""

    kind: str
    reference: ContrastSet
    side: str = "corrupted"
    seed: int = 0

    def check(self, prompts: ContrastSet) -> tuple[str, ...]:
        """Notes on the groups. Raises BadInput where the reference cannot stand in for these prompts."""
        if self.kind not in ABLATIONS:
            raise BadInput(f"ablation {self.kind!r} is unknown. Known are {', '.join(ABLATIONS)}.")
        if self.kind == "resample":
            sizes = Counter(self.reference.lengths.tolist())
            alone = sorted({n for n in prompts.lengths.tolist() if sizes[n] < 2})
            if alone:
                raise BadInput(
                    f"prompts of {alone[0]} tokens have fewer than 2 reference prompts of that length, so none can be "
                    "drawn. Add prompts, or use another ablation."
                )
        return self._check_groups(prompts) if self.kind == "template_mean" else ()

    def _check_groups(self, prompts: ContrastSet) -> tuple[str, ...]:
        sizes = Counter(self.reference.groups)
        small = min(sorted(set(prompts.groups)), key=lambda group: sizes[group])
        if sizes[small] < LEAST_GROUP:
            raise BadInput(
                f"group {small!r} has {sizes[small]} reference prompts; a template mean of fewer than {LEAST_GROUP} is "
                "nearly the prompt itself. Add prompts to the group, or use mean or resample."
            )
        for group in set(prompts.groups):
            for one in (self.reference, prompts):
                rows = [n for n, name in enumerate(one.groups) if name == group]
                places = np.stack([one.lengths, *one.roles.values()])[:, rows]
                if (places != places[:, :1]).any():
                    raise BadInput(
                        f"the prompts of group {group!r} differ in length or in the place of a role, so a mean at one "
                        "position mixes different words. Make one group a template."
                    )
        few = sum(count < GOOD_GROUP for group, count in sizes.items() if group in set(prompts.groups))
        why = f"{few} groups have fewer than {GOOD_GROUP} reference prompts: their template means are noisy"
        return (why,) if few else ()


class Replacements:
    """z that stands in for the heads' own, of all layers, ready for any prompts of a set."""

    def __init__(self, model: LanguageModel, prompts: ContrastSet, ablation: Ablation) -> None:
        require_eval(model)
        self.notes = ablation.check(prompts)
        self._model, self._prompts, self._ablation = model, prompts, ablation
        self._rng = np.random.default_rng(ablation.seed)

    @property
    def draws(self) -> int:
        return DRAWS if self._ablation.kind == "resample" else 1

    @cached_property
    def partners(self) -> Int[np.ndarray, "draw prompt"]:
        """The reference prompt that each prompt is given in each draw: never the one at its own place."""
        lengths = self._ablation.reference.lengths
        found = np.zeros((DRAWS, len(self._prompts)), dtype=np.int64)
        for prompt, length in enumerate(self._prompts.lengths.tolist()):
            others = [n for n in np.flatnonzero(lengths == length).tolist() if n != prompt]
            found[:, prompt] = self._rng.choice(others, DRAWS)
        return found

    def source(
        self, layer: int, rows: Int[np.ndarray, " part"], size: int, draw: int = 0
    ) -> Float[Tensor, "part pos head d_head"]:
        """Replacements at the first `size` positions of some prompts (1 for an axis along which they are equal)."""
        kind, table = self._ablation.kind, self._table
        if kind == "zero":
            return torch.zeros(1, 1, *self._shape, device=self._model.device)
        if kind == "mean":
            return table[layer][None, None]
        if kind == "template_mean":
            groups = [self._groups.index(self._prompts.groups[row]) for row in rows]
            return table[layer][groups, :size]
        return table[layer][self.partners[draw, rows], :size]

    @property
    def _shape(self) -> tuple[int, int]:
        return self._model.n_heads, int(self._model.W_O(0).shape[1])

    @cached_property
    def _groups(self) -> list[str]:
        return sorted(set(self._ablation.reference.groups))

    @cached_property
    def _table(self) -> list[Tensor]:
        """By layer: `[head d]` (mean), `[group pos head d]` (template), `[prompt pos head d]` (resample)."""
        kind, reference = self._ablation.kind, self._ablation.reference
        if kind == "zero":
            return []
        ids = reference.clean if self._ablation.side == "clean" else reference.corrupted
        outer = {"mean": 1, "template_mean": len(self._groups), "resample": len(ids)}[kind]
        places = 1 if kind == "mean" else ids.shape[1]
        device = self._model.device
        sums = [torch.zeros(outer, places, *self._shape, device=device) for _ in range(self._model.n_layers)]
        counts = torch.zeros(outer, places, device=device)
        for rows in reference.batches(BATCH_CELLS):
            lengths = torch.from_numpy(reference.lengths[rows]).to(device)
            size = int(lengths.max())
            grids = read_nodes(
                self._model, self._model.to_ids(ids[rows, :size]), [("z", n) for n in range(self._model.n_layers)]
            )
            real = (torch.arange(size, device=device) < lengths[:, None]).float()
            into = [0] * len(rows) if kind == "mean" else rows.tolist()
            if kind == "template_mean":
                into = [self._groups.index(reference.groups[row]) for row in rows]
            for place, row in enumerate(into):
                where = slice(0, size) if places > 1 else slice(0, 1)
                weight = real[place] if places > 1 else real[place].sum()[None]
                counts[row, where] += weight
                for layer in range(self._model.n_layers):
                    z = grids["z", layer][place].float() * real[place][:, None, None]
                    sums[layer][row, where] += z if places > 1 else z.sum(0, keepdim=True)
        means = [total / counts.clamp_min(1)[..., None, None] for total in sums]
        return [mean[0, 0] for mean in means] if kind == "mean" else means


def ablation_masks(
    model: LanguageModel, prompts: ContrastSet, selection: Selection, size: int
) -> Bool[Tensor, "layer prompt pos head"]:
    """What a selection ablates in each prompt. One kept position a row and node, however the roles differ."""
    named = torch.zeros(model.n_layers, len(prompts), size, model.n_heads, dtype=torch.bool)
    for node in selection.nodes:
        cell = Cell(node.head.layer, node.head.index, node.position)
        named[node.head.layer] |= cell_mask(cell, prompts, model.n_heads, size)
    return ~named if selection.kept else named


def ablation_edits(
    model: LanguageModel,
    prompts: ContrastSet,
    selections: Sequence[Selection],
    replacements: tuple[Replacements, Int[np.ndarray, " part"], int],
) -> list[Edit]:
    """Edits of z, one variant a selection. `prompts`: the part whose numbers in the set are in `replacements`, with
    the draw."""
    found, rows, draw = replacements
    size = int(prompts.lengths.max())
    masks = torch.stack([ablation_masks(model, prompts, one, size) for one in selections], 1).to(model.device)
    return [
        Edit("z", layer, masks[layer], found.source(layer, rows, size, draw)[None])
        for layer in range(model.n_layers)
        if bool(masks[layer].any())
    ]
