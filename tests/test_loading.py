"""Models by name, folder and callable: what loads, what is refused and how; token strings, offsets and encoding."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import HOSTILE, boot, random_network, tiny_model, tiny_tokenizer

from autointerp.errors import BadInput, ModelError
from autointerp.model import load_model
from autointerp.model.pieces import offsets_by_accumulation, token_strings
from autointerp.notebook import open_model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs.pop("name_or_path", None)
    random_network("GPT2", len(tokenizer) + 2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_loads_proved_with_a_revision_and_a_bos_rule(good: Path, tmp_path: Path) -> None:
    model, report = load_model(str(good))
    assert (model.n_layers, model.n_heads, model.n_ctx, model.device.type) == (2, 4, 64, "cpu")
    assert model.dtype == torch.float32
    assert report.exact_resume
    assert [s for s in model.strings if s.startswith("<id ")] == [f"<id {len(model.strings) - k}>" for k in (2, 1)]
    assert model.bos_rule == "BOS '<bos>' (id 1) is fed at position 0"
    assert not any(p.requires_grad for p in model.bridge.original_model.parameters())
    assert not model.bridge.original_model.training
    other = shutil.copytree(good, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"note": "changed"}))
    assert load_model(str(other))[0].revision != model.revision
    assert load_model(str(good))[0].revision == model.revision


def test_a_folder_named_like_a_hub_model_is_read_from_disk(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(good, good.parent / "gpt2-small", dirs_exist_ok=True)
    monkeypatch.chdir(good.parent)
    assert load_model("gpt2-small")[0].n_layers == 2


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _lacking(part: str) -> Callable[[Path], object]:
    """Weights without the tensors whose name holds `part`."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if part not in name}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (_lacking("h.1."), ModelError, r"lack 12 tensors that its config.json asks for \("),
        (_lacking("wpe"), ModelError, r"lack 1 tensors that its config.json asks for \(.*wpe.weight\)"),
        (_without("config.json"), BadInput, "has no config.json"),
        (_without("tokenizer.json"), BadInput, "has no tokenizer files"),
        (_without("model.safetensors"), BadInput, "has no weights"),
        (_cut("model.safetensors", 5000), ModelError, "could not be loaded"),
        (_cut("model.safetensors", 0), ModelError, "could not be loaded"),
        (_cut("config.json", 40), ModelError, "not a valid JSON"),
        (_cut("tokenizer.json", 40), ModelError, "could not be loaded"),
    ],
)
def test_a_spoilt_folder_is_one_clear_error(
    good: Path, tmp_path: Path, spoil: Callable[[Path], object], kind: type[Exception], message: str
) -> None:
    folder = shutil.copytree(good, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(kind, match=message) as caught:
        load_model(str(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("spec", ["", "./nothing-here", "/nothing/here", "~/nothing-here-at-all"])
def test_a_path_that_is_no_folder_does_not_go_to_the_network(spec: str) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        load_model(spec)


def test_unknown_devices_and_dtypes_are_refused(good: Path) -> None:
    with pytest.raises(BadInput, match=r"--dtype int3 is unknown\. Use one of float32"):
        load_model(str(good), dtype="int3")
    with pytest.raises(BadInput, match="--device quantum cannot be used"):
        load_model(str(good), device="quantum")


def test_a_model_in_half_precision_is_proved_with_its_own_tolerance(good: Path) -> None:
    model, report = load_model(str(good), dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert 1e-5 < max(abs(report.row_sum_low - 1), abs(report.row_sum_high - 1)) < 1e-2


# -- callables

NATIVE = """
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

def build(tokenizer=True):
    from transformers import AutoTokenizer
    config = TransformerBridgeConfig(n_layers=2, d_model=32, n_heads=4, d_head=8, n_ctx=64, d_vocab=400,
                                     act_fn="gelu", d_mlp=64, normalization_type="LN", default_prepend_bos=True)
    bridge = TransformerBridge.boot_native(config)
    if tokenizer:
        bridge.tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    return bridge

def bare():
    return build(tokenizer=False)

def wrong():
    return "a string"

number = 3
"""


@pytest.fixture
def script(good: Path, tmp_path: Path) -> Path:
    path = tmp_path / "native.py"
    path.write_text(f"FOLDER = {str(good)!r}\n{NATIVE}")
    return path


def test_a_callable_that_boots_a_bridge_of_its_own(script: Path) -> None:
    model, report = load_model(f"{script}:build")
    assert report.exact_resume
    assert (model.n_layers, model.n_heads, model.bos_id, model.d_vocab) == (2, 4, 1, 400)
    assert model.encode("the cat")[0].tolist() == [model.strings.index("the"), model.strings.index(" cat")]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("missing", BadInput, "has no callable 'missing'"),
        ("number", BadInput, "has no callable 'number'"),
        ("wrong", BadInput, "returned a str, not a TransformerBridge"),
        ("bare", ModelError, "has no tokenizer"),
    ],
)
def test_a_callable_that_gives_no_model(script: Path, name: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_model(f"{script}:{name}")


@pytest.mark.parametrize("place", ["", ".", ".sub", "no_such_module", "no.such.module", "/no/such/file.py"])
def test_a_callable_that_cannot_be_imported(place: str) -> None:
    with pytest.raises(BadInput, match="cannot be imported"):
        load_model(f"{place}:build")


def test_a_script_with_a_syntax_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def build(:\n")
    with pytest.raises(BadInput, match="cannot be imported"):
        load_model(f"{tmp_path / 'broken.py'}:build")


# -- tokens


@functools.cache
def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ã", "©"), ("ð", "Ł")]
    pieces = ["<end>", *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>")


@functools.cache
def sentencepiece_like() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "s", "▁a", "<", ">", "/"]
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def strings_of(tokenizer: Any, text: str) -> list[str]:
    strings = token_strings(tokenizer, len(tokenizer) + 1)
    assert strings[-1] == f"<id {len(tokenizer)}>"
    return [strings[i] for i in tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]]


def test_token_strings_of_a_byte_level_tokenizer() -> None:
    assert strings_of(byte_level(), "b a é\n") == ["b", " a", " ", "é", "\n"]
    assert strings_of(byte_level(), "😀") == ["\\xf0\\x9f", "\\x98", "\\x80"]
    assert token_strings(byte_level(), 3)[0] == "<end>"


def test_token_strings_of_a_sentencepiece_tokenizer_with_byte_fallback() -> None:
    assert strings_of(sentencepiece_like(), "b a\nab") == ["b", " a", "\n", "a", "b"]
    assert strings_of(sentencepiece_like(), "aé") == ["a", "\\xc3", "\\xa9"]
    assert token_strings(sentencepiece_like(), 3) == ["<unk>", "<s>", "</s>"]


@pytest.mark.parametrize("text", ["a <s> b</s>", "<s>", "ab </s></s> a"])
def test_control_tokens_spelled_in_a_text_stay_text(text: str) -> None:
    tokenizer = sentencepiece_like()
    spelled = strings_of(tokenizer, text)
    assert "".join(spelled) == text
    assert not {"<s>", "</s>"} & set(spelled)


def test_encode_gives_offsets_and_never_control_ids() -> None:
    model = tiny_model("gpt2")
    text = f"the cat<bos> sat{''.join(HOSTILE)}<eos>"
    ids, offsets = model.encode(text)
    assert "".join(model.strings[i] for i in ids) == text
    assert [text[a:b] for a, b in offsets] == [model.strings[i] for i in ids]
    assert not set(ids.tolist()) & set(model.special_ids)
    empty, nowhere = model.encode("")
    assert empty.shape == (0,)
    assert nowhere.shape == (0, 2)


def test_a_tokenizer_without_offsets_or_a_fast_backend() -> None:
    from transformers import PreTrainedTokenizer

    class Slow(PreTrainedTokenizer):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            self.pieces = ["<unk>", "<bos>", *(chr(c) for c in range(32, 127))]
            super().__init__(unk_token="<unk>", bos_token="<bos>", **options)

        vocab_size = property(lambda self: len(self.pieces))

        def get_vocab(self) -> dict[str, int]:
            return {piece: i for i, piece in enumerate(self.pieces)}

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return self.get_vocab().get(token, 0)

        def _convert_id_to_token(self, index: int) -> str:
            return self.pieces[index]

    tokenizer = Slow()
    tokenizer.init_kwargs.update(name_or_path="slow", add_bos_token=True)
    model = open_model(boot(random_network("GPT2", len(tokenizer)), tokenizer)).model
    text = "a <bos> b"
    ids, offsets = model.encode(text)
    assert not getattr(model.tokenizer, "is_fast", False)
    assert not set(ids.tolist()) & set(model.special_ids)
    assert [text[a:b] for a, b in offsets] == [model.strings[i] for i in ids] == list(text)


@pytest.mark.parametrize(
    ("pieces", "text", "wanted"),
    [
        ([" The", " cat", "s"], "The cats", ["The", " cat", "s"]),  # a leading space that the tokenizer made up
        ([" a", " b", " a"], "a b a", ["a", " b", " a"]),
        (["b", "\\xf0\\x9f", "\\x98\\x80", " ok"], "b😀 ok", ["b", "", "", " ok"]),
        (["a", "\n", "\n", " ", "b"], "a\n\n b", ["a", "\n", "\n", " ", "b"]),
    ],
)
def test_offsets_from_pieces(pieces: list[str], text: str, wanted: list[str]) -> None:
    found = offsets_by_accumulation(pieces, text)
    assert [text[a:b] for a, b in found] == wanted
    assert found == sorted(found)
