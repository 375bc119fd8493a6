"""Interpretation prompts: the placeholders stand exactly where they are said to, whatever the tokenizer does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.demo.model import weights_folder
from autointerp.errors import BadInput, PromptError
from autointerp.lenses.selfie_prompts import BASE_PROMPTS, NAMES, PlaceholderPrompt, build_prompt, placeholder_id
from autointerp.model import LanguageModel
from autointerp.model.pieces import token_strings
from autointerp.prompting import Templates
from tests.tiny_models import tiny_model

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_tokenizer(tokenizer: Any, bos: int | None) -> LanguageModel:
    return replace(
        tiny_model("gpt2"), tokenizer=tokenizer, strings=token_strings(tokenizer, len(tokenizer)), bos_id=bos
    )


def byte_level() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(weights_folder())


def sentencepiece_style() -> Any:
    """Metaspace pieces with byte fallback: a space before the first word, and a space token of its own."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    pieces += [c for c in map(chr, range(33, 127))]
    merges = [("▁", c) for c in "acdtsolr"] + [("▁t", "h"), ("▁th", "e"), ("▁", "_")]
    pieces += [a + b for a, b in merges]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def checked(prompt: PlaceholderPrompt, n: int) -> None:
    assert len(prompt.positions) == n
    for place, token in enumerate(prompt.ids):
        assert (token == prompt.placeholder_id) == (place in prompt.positions)


@pytest.mark.parametrize("make", [byte_level, sentencepiece_style])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_placeholders_stand_where_they_are_said_to(make: Any, bos: bool, name: str) -> None:
    tokenizer = make()
    model = with_tokenizer(tokenizer, tokenizer.bos_token_id if bos else None)
    prompt = build_prompt(model, name, 5)
    checked(prompt, 1 if name == "identity" else 5)
    assert (prompt.ids[0] == tokenizer.bos_token_id) == bos
    assert "{P}" in prompt.template
    read = "".join(model.strings[i] for i in prompt.ids[int(bos) :])
    token = model.strings[prompt.placeholder_id]
    text = prompt.template.replace(" {P}", "{P}") if token.startswith(" ") else prompt.template
    assert read.lstrip() == text.replace("{P}", token * len(prompt.positions)).lstrip()


def test_the_suffix_has_no_space_that_the_text_has_not() -> None:
    model = with_tokenizer(sentencepiece_style(), 1)
    prompt = build_prompt(model, "the {P}: a", 2)
    assert model.strings[prompt.suffix[0]] == ":"
    assert [model.strings[i] for i in prompt.prefix[1:]] == [" the"]
    assert model.strings[placeholder_id(model)] == " _"


def test_byte_level_placeholder_follows_the_space_of_the_text() -> None:
    model = with_tokenizer(byte_level(), 0)
    assert model.strings[placeholder_id(model)] == "_"
    prompt = build_prompt(model, "After {P} comes", 2)
    assert model.strings[prompt.prefix[-1]] == " "


@pytest.mark.parametrize("make", [byte_level, sentencepiece_style])
def test_chat_templates(make: Any) -> None:
    tokenizer = make()
    tokenizer.chat_template = CHAT
    model = with_tokenizer(tokenizer, tokenizer.bos_token_id)
    for name in BASE_PROMPTS:
        prompt = build_prompt(model, name, 4)
        checked(prompt, 4)
        bos = [place for place, token in enumerate(prompt.ids) if token == tokenizer.bos_token_id]
        if tokenizer.bos_token_id != tokenizer.eos_token_id:
            assert bos == [0]
        assert tokenizer.eos_token_id in prompt.suffix
        assert prompt.template.endswith(("about", "words:", "for", "Entry:", "comes"))
    with pytest.raises(BadInput, match="no wording for a chat model"):
        build_prompt(model, "identity")
    tokenizer.chat_template = "{{ raise_exception('no user') }}"
    with pytest.raises(PromptError, match="chat template"):
        build_prompt(model, "gist")


words = st.text(st.sampled_from("abc _:\n.\"'é中<>[]"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(words, words, st.integers(1, 6))
def test_any_text_around_the_placeholders(before: str, after: str, n: int) -> None:
    model = MODELS[n % 2]
    prompt = build_prompt(model, f"{before}{{P}}{after}", n)
    assert prompt.positions == tuple(range(len(prompt.prefix), len(prompt.prefix) + n))
    assert prompt.ids[len(prompt.prefix) : len(prompt.prefix) + n] == (prompt.placeholder_id,) * n
    own = "".join(model.strings[i] for i in prompt.suffix)
    if all(ord(c) < 128 for c in after):
        assert own.strip() == after.strip()


MODELS = (with_tokenizer(byte_level(), 0), with_tokenizer(sentencepiece_style(), 1))


def test_bad_prompts() -> None:
    model = MODELS[0]
    for text, match in (
        ("Tell me about it", "no placeholder"),
        ("{P} and {P}", "2 places"),
    ):
        with pytest.raises(BadInput, match=match):
            build_prompt(model, text)
    with pytest.raises(PromptError, match="selfie_nosuch"):
        build_prompt(model, "nosuch")
    with pytest.raises(BadInput, match="at least 1"):
        build_prompt(model, "gist", 0)
    with pytest.raises(BadInput, match="no BOS"):
        build_prompt(replace(model, bos_id=None), "{P} means")


def test_a_users_template_wins_and_must_have_its_place(tmp_path: Path) -> None:
    (tmp_path / "selfie_gist.jinja").write_text("Hear {{ placeholders }}: it is", encoding="utf-8")
    (tmp_path / "selfie_mine.jinja").write_text("no place at all", encoding="utf-8")
    templates = Templates(tmp_path)
    assert build_prompt(MODELS[0], "gist", 2, templates).template == "Hear {P}: it is"
    assert build_prompt(MODELS[0], "thing", 2, templates).template.startswith("lamp")
    with pytest.raises(BadInput, match="0 places"):
        build_prompt(MODELS[0], "mine", 2, templates)


@pytest.mark.skipif("AUTOINTERP_SHARED" not in os.environ, reason="no shared models here")
def test_a_real_byte_level_vocabulary() -> None:
    from transformers import AutoTokenizer

    folder = Path(os.environ["AUTOINTERP_SHARED"]) / "models" / "gpt2-tokenizer"
    if not folder.is_dir():
        pytest.skip("no tokenizer there")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = with_tokenizer(tokenizer, tokenizer.bos_token_id)
    assert model.strings[placeholder_id(model)] == " _"
    for name in NAMES:
        checked(build_prompt(model, name, 5), 1 if name == "identity" else 5)
