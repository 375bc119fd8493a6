"""Direct logit attribution: the logit difference at END as a sum over everything that is written into the stream.

1. The final norm is linear once its divisor is known; the divisor is that of the run, of each prompt (frozen).
2. A component's share is `<gain * (c - mean?) / scale, W_U[:, right] - W_U[:, wrong]>`. Components: the embedding, the
   positions, every head (`z W_O`), what an attention layer writes beside its heads (`b_O`, which belongs to no head),
   every MLP (its output bias included), the norm's shift and the unembedding's bias.
3. They add up to the logit difference to 1e-4, which is checked; where they do not (a norm between a part and the
   stream, a soft cap, scaled residuals) the claim is refused.

It says what a component writes, not what the answer needs: other heads may make up for it (`backup`).
`transformer_lens.tools.analysis.direct_logit_attribution` asks for folded weights and leaves the unembedding's bias
out; here the weights stay as they are.

Two curves over depth differ and are named: the logit lens takes the norm's divisor of each partial stream, the
cumulative attribution that of the last stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from autointerp.circuits.cells import Cell, CellTable, cell_table
from autointerp.circuits.measures import Effects
from autointerp.circuits.prompts import ContrastSet
from autointerp.errors import BadInput, ModelError
from autointerp.model import LanguageModel
from autointerp.model.frozen_norm import FrozenNorm
from autointerp.model.language_model import HookFunction
from autointerp.model.nodes import NodeKind, node_hook, require_eval, to_grid
from autointerp.model.patched_runs import BaseRun, Edit
from autointerp.records import Head

TOLERANCE = 1e-4
_READ: tuple[NodeKind, ...] = ("z", "attn_out", "mlp_out", "resid_pre")
BATCH = 4096


EditsOf = Callable[[Int[np.ndarray, " part"]], Sequence[Edit]]
"""The edits of a batch, by the numbers of its prompts in the set."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Logit difference of each component and prompt. `heads [layer head prompt]` stand among the components too.

    `logit_diff`: of the whole model; `scale`: the final norm's divisor at END. `error`: largest gap of the sum.
    `lens`, `cumulative`: the two curves `[depth prompt]` over the stream before each block and after the last.
    """

    names: tuple[str, ...]
    values: Float64[np.ndarray, "component prompt"]
    heads: Float64[np.ndarray, "layer head prompt"]
    logit_diff: Float64[np.ndarray, " prompt"]
    scale: Float64[np.ndarray, " prompt"]
    error: float
    lens: Float64[np.ndarray, "depth prompt"]
    cumulative: Float64[np.ndarray, "depth prompt"]

    def layers(self) -> tuple[Float64[np.ndarray, "layer prompt"], Float64[np.ndarray, "layer prompt"]]:
        """Attention (heads and what belongs to no head) and MLP of each layer."""
        place = {name: n for n, name in enumerate(self.names)}
        n = len(self.heads)
        rest = np.stack([self.values[place[f"attention {layer} bias"]] for layer in range(n)])
        return self.heads.sum(1) + rest, np.stack([self.values[place[f"mlp {layer}"]] for layer in range(n)])

    def head_table(self, seed: int = 0, **settings: str | int | float) -> CellTable:
        """Mean attribution of each head, with intervals."""
        cells = [Cell(layer, head) for layer in range(self.heads.shape[0]) for head in range(self.heads.shape[1])]
        flat = self.heads.reshape(len(cells), -1)
        return cell_table(cells, Effects("logit_diff", flat), {"method": "direct logit attribution", **settings}, seed)


def attribute(
    model: LanguageModel, prompts: ContrastSet, side: str = "clean", edits: EditsOf | None = None
) -> Attribution:
    """Attribution of the clean (or corrupted) prompts' logit difference, with `edits(rows)` made where it is given.

    Raises BadInput without wrong answers, ModelError where the parts do not add up.
    """
    if not prompts.has_wrong:
        raise BadInput(f"attribution needs a wrong answer in every prompt of {prompts.name}. Add one to answers.")
    require_eval(model)
    if not model.direct_writes:
        raise ModelError(f"{model.name} has a norm between its attention and the stream: no head's write reaches it.")
    if model.soft_cap:
        raise ModelError(f"{model.name} caps its logits softly, so they are no sum over components.")
    parts = prompts.batches(BATCH)
    found = [_attribute(model, prompts.take(rows), side, edits(rows) if edits else ()) for rows in parts]
    order = np.argsort(np.concatenate(parts), kind="stable")

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in found], -1)[..., order]

    error = max(one.error for one in found)
    return Attribution(
        found[0].names, joined("values"), joined("heads"), joined("logit_diff"), joined("scale"), error,
        joined("lens"), joined("cumulative"),
    )  # fmt: skip


def _attribute(model: LanguageModel, prompts: ContrastSet, side: str, edits: Sequence[Edit]) -> Attribution:
    ids = model.to_ids(prompts.clean if side == "clean" else prompts.corrupted)
    read = _Ends.of(model, ids, torch.from_numpy(prompts.ends).to(model.device), edits)
    norm = FrozenNorm.of(model.bridge.ln_final, read.final)
    scale = norm.scale(read.final)
    right, wrong = (torch.from_numpy(a).to(model.device) for a in (prompts.answer, prompts.wrong))
    direction = (model.W_U[:, right] - model.W_U[:, wrong]).T * model.logit_scale
    bias = model.unembed(torch.zeros_like(read.final[:1]))[0]

    def share(writes: Float[Tensor, "*part prompt d_model"]) -> Float64[np.ndarray, "*part prompt"]:
        found: Tensor = (norm.moved(writes).double() / scale.double()[:, None] * direction.double()).sum(-1)
        return found.cpu().numpy()

    heads = np.stack([share(writes.transpose(0, 1)) for writes in read.heads])
    names, values = list(read.parts), [share(writes) for writes in read.parts.values()]
    for layer, index in np.ndindex(heads.shape[:2]):
        names.append(str(Head(layer=layer, index=index)))
        values.append(heads[layer, index])
    shift = (norm.shift.double() * direction.double()).sum(-1).cpu().numpy()
    names += ["final norm bias", "unembedding bias"]
    values += [shift, (bias[right] - bias[wrong]).double().cpu().numpy()]
    whole = _difference(model.unembed(read.hidden), right, wrong)
    depth = torch.stack(read.depth)
    with torch.no_grad():
        normed = model.bridge.ln_final(depth.to(model.dtype))
    lens = np.stack([_difference(model.unembed(one), right, wrong) for one in normed])
    table = np.stack(values)
    error = float(np.abs(table.sum(0) - whole).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(whole).max())) * (1 if model.dtype == torch.float32 else 500):
        raise ModelError(
            f"{model.name}: the components' attributions differ from the logit difference by {error:.3g}, so they are "
            "not a decomposition of it on this architecture. Use patching."
        )
    cumulative = share(depth) + shift + values[-1]
    scales = scale.double().cpu().numpy()
    return Attribution(tuple(names), table, heads, whole, scales, error, lens, cumulative)


def _difference(logits: Tensor, right: Int[Tensor, " p"], wrong: Int[Tensor, " p"]) -> Float64[np.ndarray, " p"]:
    each = torch.arange(len(right), device=logits.device)
    return (logits[each, right] - logits[each, wrong]).double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Ends:
    """What is written into the stream at the ends. `heads`: one `[prompt head d_model]` a layer; `parts`: the rest."""

    final: Float[Tensor, "prompt d_model"]
    hidden: Float[Tensor, "prompt d_model"]
    heads: list[Float[Tensor, "prompt head d_model"]]
    parts: dict[str, Float[Tensor, "prompt d_model"]]
    depth: list[Float[Tensor, "prompt d_model"]]

    @classmethod
    def of(
        cls, model: LanguageModel, ids: Int[Tensor, "prompt pos"], ends: Int[Tensor, " prompt"], edits: Sequence[Edit]
    ) -> _Ends:
        each = torch.arange(len(ids), device=ids.device)
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> HookFunction:
            def hook_function(tensor: Tensor, hook: object) -> None:
                kept[name] = tensor.detach()[each, ends]

            return hook_function

        base = BaseRun(model, ids, ends)
        names = [node_hook(kind, n) for n in range(model.n_layers) for kind in _READ]
        with model.hooks(base.hooks(edits, 1)), model.hooks([(name, keep(name)) for name in names]):
            final, hidden = (states[each, ends] for states in model.final_states(ids))
        heads: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for n in range(model.n_layers):
            z = to_grid("z", kept[node_hook("z", n)][:, None], model.n_heads)[:, 0].float()
            heads.append(torch.einsum("phk,hkm->phm", z, model.W_O(n)))
            parts[f"attention {n} bias"] = _bias(model, n, kept[node_hook("attn_out", n)].float(), heads[-1].sum(1))
            parts[f"mlp {n}"] = kept[node_hook("mlp_out", n)].float()
        depth = [kept[node_hook("resid_pre", n)].float() for n in range(model.n_layers)] + [final.float()]
        positions = _positions(model, ids, ends)
        if positions is not None:
            parts["positions"] = positions
        parts["embedding"] = depth[0] - (0.0 if positions is None else positions)
        return cls(final.float(), hidden, heads, parts, depth)


def _bias(
    model: LanguageModel, layer: int, out: Float[Tensor, "prompt d_model"], heads: Float[Tensor, "prompt d_model"]
) -> Float[Tensor, "prompt d_model"]:
    """What an attention layer writes beside its heads: the same in every prompt, or something else is in between."""
    rest = out - heads
    if not float((rest - rest[:1]).abs().max()) <= 1e-2 * float(out.abs().max()):
        raise ModelError(
            f"{model.name}: what the attention of layer {layer} writes is not its heads and a bias, so heads "
            "have no attribution on this architecture. Use patching."
        )
    return rest


def _positions(
    model: LanguageModel, ids: Int[Tensor, "prompt pos"], ends: Int[Tensor, " prompt"]
) -> Float[Tensor, "prompt d_model"] | None:
    """What learnt position embeddings write; None where the model has none."""
    seen: list[Tensor] = []
    try:
        with model.hooks([("hook_pos_embed", lambda tensor, hook: seen.append(tensor.detach()))]):
            model.forward_base(ids)
    except KeyError:
        return None
    if not seen:
        return None
    table = seen[0].expand(len(ids), *seen[0].shape[1:])
    return table[torch.arange(len(ids), device=ids.device), ends].float()
