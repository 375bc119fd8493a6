"""Tiny random models with a tokenizer of a handful of words, built in a moment and without any file.

`tiny_model("gpt2")` and `tiny_model("llama")` (grouped-query, rotary) give proved `LanguageModel`s;
`planted(plant)` gives a model whose heads show the attention that `plant` makes of the ids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from autointerp.model import LanguageModel, Layer
from autointerp.notebook import open_model

N_CTX = 64
WORDS = (
    "the a cat dog sat ran on mat it was red blue . , ; said that and then When John Mary went to park gave "
    "ball of news one two three four five in house old new"
).split()
HOSTILE = (",", "\n", "{{x}}", "</td>", "|", '"', "NA", "=1+1", "\r")


def tiny_tokenizer() -> Any:
    """Words with and without a leading space, characters, hostile tokens; <bos> and <eos> are special."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(c) for c in range(32, 127)]
    vocabulary = dict.fromkeys(["<unk>", "<bos>", "<eos>", *HOSTILE, *characters])
    vocabulary.update(dict.fromkeys([*WORDS, *(f" {word}" for word in WORDS)]))
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token="<unk>"))
    words = "|".join(word for word in WORDS if word.isalpha())
    parts = [r"\{\{x\}\}", "</td>", "NA", r"=1\+1", f" ?(?:{words})\\b", r"[\s\S]"]
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(parts)), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    wrapped.init_kwargs.update(name_or_path="tiny", add_bos_token=True)  # else it is loaded by name
    return wrapped


@functools.cache
def tiny_model(kind: str = "gpt2", seed: int = 0) -> LanguageModel:
    """A random model, two layers of four heads, `gpt2` or `llama` (two kv heads), that attends unevenly."""
    from transformer_lens.model_bridge import TransformerBridge

    torch.set_num_threads(1)  # tests run side by side, and more threads only wait for each other here
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(kind, len(tokenizer))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    network.eval()
    bridge = TransformerBridge.boot_transformers(f"tiny/{kind}", hf_model=network, tokenizer=tokenizer)
    return open_model(bridge).model


def _network(kind: str, size: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=size, n_positions=N_CTX))
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=size,
        max_position_embeddings=N_CTX,
    )
    return LlamaForCausalLM(config)


def tiny_texts(n: int, seed: int = 0, length: int = 40) -> list[str]:
    """Random texts of the tiny tokenizer's words."""
    draw = torch.Generator().manual_seed(seed)
    words = [w for w in WORDS if w.isalpha()]
    picks = torch.randint(len(words), (n, length), generator=draw)
    return [" ".join(words[i] for i in row) for row in picks.tolist()]


Plant = Callable[[Tensor], Tensor]  # ids [pos] -> attention [head dst src]


@dataclass(frozen=True, eq=False)
class PlantedModel(LanguageModel):
    """The tiny gpt2 with attention put in its place, the same in every layer; every source writes norm 1."""

    plant: Plant = lambda ids: torch.zeros(4, len(ids), len(ids))

    def read_attention(self, ids: Tensor, layers: list[int], read: Callable[[Layer], None]) -> None:
        pattern = torch.stack([self.plant(row) for row in ids])
        for layer in layers:
            gram = self.W_O(layer) @ self.W_O(layer).transpose(1, 2)
            unit = torch.linalg.eigh(gram)[1][:, :, -1]
            norm = torch.einsum("hd,hde,he->h", unit, gram, unit).sqrt()
            v = unit / norm[:, None] + self.v_constant(layer)
            values = v.expand(*ids.shape, *v.shape)
            read(Layer(layer, pattern, values, torch.einsum("bhds,bshk->bdhk", pattern, values)))


def planted(plant: Plant) -> PlantedModel:
    """A model whose four heads attend as `plant` says."""
    model = tiny_model("gpt2")
    return PlantedModel(**{f.name: getattr(model, f.name) for f in fields(LanguageModel)}, plant=plant)


def uniform(size: int) -> Tensor:
    """Attention spread evenly over all positions up to the destination, `[dst src]`."""
    return torch.tril(torch.ones(size, size)) / torch.arange(1, size + 1)[:, None]


ROTARY = ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3", "Phi3", "Olmo2", "GptOss", "Granite")
ARCHITECTURES = (*ROTARY, "GPT2", "GPTNeoX", "OPT", "Bloom", "GPTNeo")
_ROTARY_EXTRA: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 0.4},
    "Gemma3": {"head_dim": 8},
    "Phi3": {"pad_token_id": 0},
    "Olmo2": {"num_key_value_heads": 4},
    "GptOss": {"head_dim": 8, "intermediate_size": 32, "num_local_experts": 4},
    "Granite": {"logits_scaling": 4.0},
}


def random_network(architecture: str, size: int, seed: int = 0) -> Any:
    """A tiny random HuggingFace model: two layers, four heads, d_model 32, `size` embeddings, uneven attention."""
    import transformers

    model_class = getattr(transformers, f"{architecture}ForCausalLM", None) or transformers.GPT2LMHeadModel
    config = getattr(transformers, f"{architecture}TextConfig", None) or getattr(transformers, f"{architecture}Config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model_class(config(vocab_size=size, **_shape_of(architecture)))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    network.config.architectures = [model_class.__name__]
    return network.eval()


def _shape_of(architecture: str) -> dict[str, Any]:
    if architecture == "GPT2":
        return {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": N_CTX}
    if architecture == "Bloom":
        return {"n_layer": 2, "hidden_size": 32, "n_head": 4}
    if architecture == "GPTNeo":
        kinds = {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": N_CTX}
        return {"num_layers": 2, "hidden_size": 32, "num_heads": 4, **kinds}
    common = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": N_CTX}
    if architecture == "OPT":
        return common | {"ffn_dim": 64, "word_embed_proj_dim": 32}
    if architecture == "GPTNeoX":
        return common | {"intermediate_size": 64}
    grouped = {"intermediate_size": 64, "num_key_value_heads": 2}
    return common | grouped | _ROTARY_EXTRA.get(architecture, {})


def boot(network: Any, tokenizer: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    """A bridge of a HuggingFace model in memory."""
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = tiny_tokenizer() if tokenizer is None else tokenizer
    return TransformerBridge.boot_transformers("tiny/any", hf_model=network.to(dtype), tokenizer=tokenizer, dtype=dtype)
