"""Interpretation prompts as id lists whose placeholder positions are known by construction.

1. A template (`prompts/selfie_NAME.jinja`, or a text with `{P}`) is written with one marker for the placeholders. A
   tokenizer with a chat template gets it as a user message with the answer's opening words; any other the few-shot
   form.
2. The whole text is tokenised once and cut at the marker's tokens, so that nothing is encoded at a boundary that the
   model will not see. Where a token holds the marker and other text, the two sides are encoded apart.
3. The ids are `BOS + prefix + P x placeholder + suffix`. Nothing is searched for afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from autointerp.errors import BadInput, ModelError, PromptError
from autointerp.model import LanguageModel
from autointerp.prompting import Templates

Form = Literal["instruct", "base"]
BASE_PROMPTS = ("gist", "restate", "thing", "describe", "next")
NAMES = (*BASE_PROMPTS, "identity")
SINGLE = frozenset({"identity"})  # prompts that take one placeholder (arXiv 2401.06102)
_MARKER = "\ue000\ue001"  # private-use characters: no tokenizer has them inside a word
_CANDIDATES = (" _", "_", " x", "x", " *", "*", " .", ".")


@dataclass(frozen=True)
class PlaceholderPrompt:
    """`ids[p] == placeholder_id` exactly at `positions`; `template` is the text with `{P}` for the placeholders."""

    name: str
    template: str
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    placeholder_id: int
    n_placeholders: int

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.prefix, *[self.placeholder_id] * self.n_placeholders, *self.suffix)

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(range(len(self.prefix), len(self.prefix) + self.n_placeholders))

    def around(self, text_ids: tuple[int, ...]) -> tuple[int, ...]:
        """The prompt with a text where the placeholders stand: the control `text_only`."""
        return (*self.prefix, *text_ids, *self.suffix)


def prompt_form(model: LanguageModel) -> Form:
    """`instruct` where the tokenizer has a chat template, else `base`."""
    return "instruct" if getattr(model.tokenizer, "chat_template", None) else "base"


def placeholder_id(model: LanguageModel) -> int:
    """One fixed ordinary token of the vocabulary: ` _`, `_` or the next that is a token of its own."""
    for text in _CANDIDATES:
        ids = model.encode(text)[0]
        if len(ids) and model.strings[int(ids[-1])] == text and int(ids[-1]) not in model.special_ids:
            return int(ids[-1])
    for token, text in enumerate(model.strings):
        if text.strip() and token not in model.special_ids:
            return token
    raise ModelError(f"the vocabulary of {model.name} has no ordinary token for a placeholder.")


def build_prompt(
    model: LanguageModel, prompt: str, n_placeholders: int = 5, templates: Templates | None = None
) -> PlaceholderPrompt:
    """The prompt `NAME`, or a text with `{P}`, for this model's tokenizer.

    Raises BadInput for a prompt without a placeholder or with several, PromptError for one that is not known.
    """
    if n_placeholders < 1:
        raise BadInput(f"{n_placeholders} placeholders are asked for; a prompt needs at least 1.")
    user, opening, base = _wording(prompt, templates or Templates())
    form = prompt_form(model)
    text = _chat_text(model, user, opening) if form == "instruct" else base
    if not text.strip():
        other = "a chat model" if form == "instruct" else "a model without a chat template"
        raise BadInput(f"prompt {prompt!r} has no wording for {other}. Choose another of {', '.join(NAMES)}.")
    if text.count(_MARKER) != 1:
        raise BadInput(f"prompt {prompt[:60]!r} has {text.count(_MARKER)} places for placeholders; it needs exactly "
                       "one {P} (a template: one {{ placeholders }}).")  # fmt: skip
    token = placeholder_id(model)
    shown = text.replace(_MARKER, "{P}")
    if model.strings[token].startswith(" "):
        text = text.replace(" " + _MARKER, _MARKER)  # the placeholder brings the space
    prefix, suffix = _cut(model, text, as_text=form == "base")
    if model.bos_id is not None and prefix[:1] != (model.bos_id,):
        prefix = (model.bos_id, *prefix)
    if not prefix:
        raise BadInput(f"prompt {prompt[:60]!r} begins with its placeholders and {model.name} has no BOS; "
                       "position 0, which all tokens see, would be replaced. Put text in front.")  # fmt: skip
    n = 1 if prompt in SINGLE else n_placeholders
    return PlaceholderPrompt(prompt if prompt in NAMES else prompt[:40], shown, prefix, suffix, token, n)


def _wording(prompt: str, templates: Templates) -> tuple[str, str, str]:
    """User text, opening of the answer and base form, with the marker."""
    if "{P}" in prompt:
        marked = prompt.replace("{P}", _MARKER)
        return marked, "", marked
    if not prompt.isidentifier():
        raise BadInput(f"prompt {prompt[:60]!r} has no placeholder. Write {{P}} where the vectors go, or name one of "
                       f"{', '.join(NAMES)}.")  # fmt: skip
    read = [
        templates.render(f"selfie_{prompt}", {"form": form, "placeholders": _MARKER}).messages[-1]["content"]
        for form in ("user", "opening", "base")
    ]
    return read[0], read[1], read[2]


def _chat_text(model: LanguageModel, user: str, opening: str) -> str:
    return chat_text(model, user) + opening if user.strip() else ""


def chat_text(model: LanguageModel, user: str) -> str:
    """`user` as a message in the tokenizer's chat template, ready for an answer. Raises PromptError."""
    from jinja2 import TemplateError

    try:
        message = [{"role": "user", "content": user}]
        text: Any = model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError) as error:
        raise PromptError(f"the chat template of {model.name} cannot be used ({str(error)[:200]}). Use a tokenizer "
                          "with a working one, or remove it.") from None  # fmt: skip
    return str(text)


def _cut(model: LanguageModel, text: str, *, as_text: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids before and after the marker; in a chat text control tokens are read as such."""
    start = text.index(_MARKER)
    end = start + len(_MARKER)
    found = _encode(model, text, as_text=as_text)
    if found is not None:
        ids, offsets = found
        inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < end]
        exact = inside and offsets[inside[0]][0] == start and offsets[inside[-1]][1] == end
        if exact and inside == list(range(inside[0], inside[-1] + 1)):
            return tuple(ids[: inside[0]]), tuple(ids[inside[-1] + 1 :])
    sides = (text[:start], text[end:])
    apart = [_encode(model, side, as_text=as_text) or _plain(model, side, as_text=as_text) for side in sides]
    return tuple(apart[0][0]), tuple(apart[1][0])


Encoded = tuple[list[int], list[tuple[int, int]]]


def _encode(model: LanguageModel, text: str, *, as_text: bool) -> Encoded | None:
    """Ids and character ranges; None where the tokenizer gives no ranges."""
    if as_text:
        ids, offsets = model.encode(text)
        return [int(i) for i in ids], [(int(a), int(b)) for a, b in offsets]
    if not getattr(model.tokenizer, "is_fast", False):
        return None
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [int(i) for i in found["input_ids"]], [(int(a), int(b)) for a, b in found["offset_mapping"]]


def _plain(model: LanguageModel, text: str, *, as_text: bool) -> Encoded:
    ids = model.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=as_text)
    return [int(i) for i in ids], []


def encode_chat(model: LanguageModel, text: str) -> tuple[int, ...]:
    """Ids of a text that a chat template wrote, its control tokens read as such."""
    return tuple((_encode(model, text, as_text=False) or _plain(model, text, as_text=False))[0])
