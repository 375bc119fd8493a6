"""A loaded model behind plain tensors: patterns, values, z, residual stream, effects of changing one head.

Axes: `batch head dst src pos d_model d_head d_vocab`; `dst` is the query position and comes first. All reads go
through hooks that live only inside a `with` block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.errors import ModelError
from autointerp.model.pieces import offsets_by_accumulation

HookFunction = Callable[[Tensor, Any], Tensor | None]


@dataclass(frozen=True)
class Layer:
    """What one attention layer did to a batch, as the model computed it.

    `pattern [batch head dst src]` after softmax, `v [batch pos kv_head d_head]`, `z [batch pos head d_head]`
    before W_O.
    """

    index: int
    pattern: Float[Tensor, "batch head dst src"]
    v: Float[Tensor, "batch pos kv_head d_head"]
    z: Float[Tensor, "batch pos head d_head"]


@dataclass(frozen=True)
class Shortcuts:
    """Ways to run on from a changed head that the proof on load found exact (`shortcuts.find_shortcuts`).

    `rest_of_block`: the changed layer's attention does not run again, its kept output moves by the change times W_O;
    `mlp_apart`: nor does its MLP, which does not read the attention; `rows`: after its attention, the last block and
    the final norm run at the wanted rows only; `tiled`: changes of several heads run as one batch.
    """

    rest_of_block: bool = False
    mlp_apart: bool = False
    rows: bool = False
    tiled: bool = False


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A `TransformerBridge` in raw mode (HuggingFace numerics) with its tokenizer and a fixed BOS rule."""

    bridge: Any
    tokenizer: Any
    name: str
    revision: str
    strings: list[str] = field(repr=False)  # one per vocabulary id
    bos_id: int | None
    sink_logits: bool = False
    exact_resume: bool = True
    logit_scale: float = 1.0  # logits over unembedding output, before the soft cap
    norm_before: bool = True  # `ln1`, where there is one, runs before the attention
    direct_writes: bool = True  # the heads' outputs are added to the stream as they are, with no norm in between
    shortcuts: Shortcuts = Shortcuts()

    @property
    def n_layers(self) -> int:
        return int(self.bridge.cfg.n_layers)

    @property
    def n_heads(self) -> int:
        return int(self.bridge.cfg.n_heads)

    @property
    def n_kv_heads(self) -> int:
        return int(self.W_V(0).shape[0])

    @property
    def d_vocab(self) -> int:
        return len(self.strings)

    @property
    def n_ctx(self) -> int:
        return int(self.bridge.cfg.n_ctx)

    @property
    def device(self) -> torch.device:
        found: torch.device = next(iter(self.bridge.original_model.parameters())).device
        return found

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = next(iter(self.bridge.original_model.parameters())).dtype
        return found

    @property
    def soft_cap(self) -> float:
        """Soft cap of the output logits, 0 where there is none."""
        cap = getattr(self.bridge.cfg, "output_logits_soft_cap", None)
        return float(cap) if cap is not None and cap > 0 else 0.0

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of control tokens (BOS, EOS, padding, ...), ascending."""
        return tuple(sorted({int(i) for i in self.tokenizer.all_special_ids if i is not None}))

    @property
    def bos_rule(self) -> str:
        if self.bos_id is None:
            return "no BOS is fed; position 0 is the first token of the text"
        return f"BOS {self.strings[self.bos_id]!r} (id {self.bos_id}) is fed at position 0"

    def encode(self, text: str) -> tuple[Int[np.ndarray, " pos"], Int[np.ndarray, "pos 2"]]:
        """Ids of `text` with no special token added, and the character range of each; control tokens spelled
        out in the text stay text."""
        if getattr(self.tokenizer, "is_fast", False):
            found = self.tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                split_special_tokens=True,
                verbose=False,
            )
            ids, offsets = found["input_ids"], found["offset_mapping"]
        else:
            ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            offsets = offsets_by_accumulation([self.strings[i] for i in ids], text)
        array = np.asarray(ids, dtype=np.int32).reshape(-1)
        if array.size and int(array.max()) >= self.d_vocab:
            raise ModelError(
                f"the tokenizer of {self.name} gives id {int(array.max())}, but the model has {self.d_vocab} "
                "embeddings. Use the tokenizer that the model was trained with."
            )
        return array, np.asarray(offsets, dtype=np.int32).reshape(-1, 2)

    # -- weights ---------------------------------------------------------------------------------------------

    def W_V(self, layer: int) -> Float[Tensor, "kv_head d_model d_head"]:
        return self._weights(layer, "W_V")

    def W_O(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        return self._weights(layer, "W_O")

    def _weights(self, layer: int, name: str) -> Tensor:
        weight: Tensor = getattr(self.bridge.blocks[layer].attn, name)
        return weight.detach().float()

    def v_constant(self, layer: int) -> Float[Tensor, "kv_head d_head"]:
        """The part of v that is the same for every source: `b_V` and the pre-attention norm's bias times W_V."""
        block = self.bridge.blocks[layer]
        weight = self.W_V(layer)
        constant = torch.zeros(weight.shape[0], weight.shape[2], device=weight.device)
        bias = getattr(block.attn, "b_V", None)
        if bias is not None:
            constant = constant + bias.detach().float().reshape(constant.shape)
        norm_bias = getattr(getattr(block, "ln1", None), "bias", None)
        if self.norm_before and isinstance(norm_bias, Tensor):
            constant = constant + torch.einsum("m,kmd->kd", norm_bias.detach().float(), weight)
        return constant

    def expand_kv(self, values: Tensor) -> Tensor:
        """Repeat a `[... kv_head d]` tensor to one entry a query head (grouped-query models)."""
        return values.repeat_interleave(self.n_heads // values.shape[-2], dim=-2)

    @cached_property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, without its bias."""
        weight: Tensor = self.bridge.W_U
        return weight.detach().float()

    # -- running ---------------------------------------------------------------------------------------------

    @contextmanager
    def hooks(self, hooks: Sequence[tuple[str, HookFunction]]) -> Iterator[None]:
        """Hooks by name, removed on the way out, after exceptions too."""
        with torch.no_grad(), self.bridge.hooks(fwd_hooks=list(hooks)):
            yield

    def forward_base(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos width"]:
        """The base model without the unembedding (a bridge-native model has none and runs whole); its output."""
        original = self.bridge.original_model
        with torch.no_grad():
            if not hasattr(original, "base_model"):
                found: Tensor = self.bridge(ids)
                return found
            out = original.base_model(ids, use_cache=False)
        hidden: Tensor = out[0] if isinstance(out, tuple) else out.last_hidden_state
        return hidden

    def logits(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the whole model, float32."""
        original = self.bridge.original_model
        with torch.no_grad():
            plain = self.bridge(ids) if not hasattr(original, "base_model") else original(ids, use_cache=False).logits
        found: Tensor = plain.float()
        return found

    def final_states(
        self, ids: Int[Tensor, "batch pos"]
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]]:
        """Input and output of the final norm (no unembedding)."""
        kept: list[tuple[Tensor, Tensor]] = []

        def keep(_module: object, args: tuple[Any, ...], output: Tensor) -> None:
            kept.append((args[0], output))

        handle = self.bridge.ln_final.register_forward_hook(keep)
        try:
            self.forward_base(ids)
        finally:
            handle.remove()
        if len(kept) != 1:
            raise ModelError(f"{self.name}: the final norm ran {len(kept)} times in one forward. It is not supported.")
        return kept[0]

    def unembed(self, hidden: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_vocab"]:
        """Logits from the final norm's output, float32, soft cap and logit scale applied."""
        with torch.no_grad():
            shape = hidden.shape
            raw: Tensor = self.bridge.unembed(hidden.reshape(1, -1, shape[-1])).float()
        logits = raw.reshape(*shape[:-1], -1)
        if self.logit_scale != 1.0:  # a product would copy the largest tensor there is
            logits = logits * self.logit_scale
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap else logits

    def read_attention(self, ids: Int[Tensor, "batch pos"], layers: list[int], read: Callable[[Layer], None]) -> None:
        """One base-model forward; `read` gets each named layer as soon as it has run."""
        with self.observing(layers, read):
            self.forward_base(ids)

    @contextmanager
    def observing(self, layers: list[int], read: Callable[[Layer], None]) -> Iterator[None]:
        """Hand each named layer of every forward inside the block to `read`. Raises ModelError if one of the layers
        never reported, so that a hook that fires nowhere is not read as silence."""
        collector = _Collector(layers, read)
        with self.hooks(collector.hooks()):
            yield
        collector.check()

    def to_ids(self, ids: Int[np.ndarray, "batch pos"]) -> Int[Tensor, "batch pos"]:
        return torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64)).to(self.device)


class _Collector:
    """Holds a layer's pattern, v and z until all have arrived, then hands them on."""

    def __init__(self, layers: list[int], read: Callable[[Layer], None]) -> None:
        self._layers = layers
        self._read = read
        self._parts: dict[tuple[int, str], Tensor] = {}
        self._seen: set[int] = set()

    def hooks(self) -> list[tuple[str, HookFunction]]:
        return [(f"blocks.{n}.attn.hook_{p}", self._hook(n, p)) for n in self._layers for p in ("v", "pattern", "z")]

    def _hook(self, layer: int, part: str) -> HookFunction:
        def keep(tensor: Tensor, hook: Any) -> None:
            self._parts[layer, part] = tensor.detach()
            if all((layer, name) in self._parts for name in ("pattern", "v", "z")):  # the order varies by model
                pattern, v = self._parts.pop((layer, "pattern")), self._parts.pop((layer, "v"))
                z = self._parts.pop((layer, "z"))
                self._seen.add(layer)
                self._read(_shaped(layer, pattern, v, z))

        return keep

    def check(self) -> None:
        missing = sorted(set(self._layers) - self._seen)
        if missing:
            raise ModelError(
                f"no attention arrived from layers {missing}: this architecture does not expose its patterns "
                "through transformer_lens. Use another model, or report it with its config.json."
            )


def _shaped(layer: int, pattern: Tensor, v: Tensor, z: Tensor) -> Layer:
    batch, heads, size = pattern.shape[0], pattern.shape[1], pattern.shape[2]
    z = z.reshape(batch, size, heads, -1)
    return Layer(layer, pattern, v.reshape(batch, size, -1, z.shape[-1]), z)
