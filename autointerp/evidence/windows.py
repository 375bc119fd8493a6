"""Windows of text as the attention queries read them: one by one, from a corpus split or from texts.

A `Window` holds the ids really fed (no padding), where it comes from, and its text on demand. Queries run
every window alone, so that no number depends on what it was batched with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from autointerp.corpus import Encoded, ExplainSet, HeldOutSet, WindowSpec
from autointerp.corpus.windows import Document, cut_windows, documents_of
from autointerp.errors import BadInput
from autointerp.model import LanguageModel

DEFAULT_CONTEXT = 128


@dataclass(frozen=True, eq=False)
class Window:
    """One fed row: `window` counts within the document; `prefix_text(dst)` is its real text up to `dst`."""

    doc_id: str
    window: int
    ids: Int[np.ndarray, " pos"]
    prefix_text: Callable[[int], str] = field(repr=False)


class SplitWindows:
    """The windows of a corpus split, read from it as they are needed; iterates any number of times."""

    def __init__(self, split: ExplainSet | HeldOutSet) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split.windows)

    def __iter__(self) -> Iterator[Window]:
        for number in self._split.windows.tolist():
            batch, source = self._split.batch([number]), self._split.source(number)
            ids = batch.ids[0, : int(batch.lengths[0])].copy()
            yield Window(source.doc_id, source.window_in_doc, ids, self._later(number))

    def _later(self, number: int) -> Callable[[int], str]:
        """The text is read again when it is shown: a candidate must not hold a whole document."""

        def prefix(dst: int) -> str:
            source = self._split.source(number)
            return _prefix(source.text, source.offsets)(dst)

        return prefix


def _prefix(text: str, offsets: Int[np.ndarray, "pos 2"]) -> Callable[[int], str]:
    def prefix(dst: int) -> str:
        return text[int(offsets[: dst + 1, 0].min()) : int(offsets[: dst + 1, 1].max())]

    return prefix


@dataclass(frozen=True)
class TextWindows:
    """Windows of texts held in memory; `dropped` counts texts that were too short or were there already."""

    windows: tuple[Window, ...]
    dropped: int

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Window]:
        return iter(self.windows)


@dataclass(frozen=True)
class ModelEncoder:
    """A model's tokenizer as the corpus wants it."""

    model: LanguageModel

    def encode(self, text: str) -> Encoded:
        return Encoded(*self.model.encode(text))


def text_windows(model: LanguageModel, texts: Sequence[str], context: int | None = None) -> TextWindows:
    """Windows of at most `context` ids (BOS included; 128 or n_ctx) of each text, under the model's BOS rule.

    A text needs two tokens; the same text counts once. Raises BadInput where no text is left, or where the
    context does not fit the model.
    """
    if isinstance(texts, str):
        raise BadInput(f"the texts are one string ({texts[:40]!r}); give a list of texts.")
    context = min(DEFAULT_CONTEXT, model.n_ctx) if context is None else context
    if context > model.n_ctx:
        raise BadInput(f"a context of {context} exceeds n_ctx {model.n_ctx} of {model.name}; shorten it.")
    spec = WindowSpec(context, model.bos_id, model.special_ids, min_content=1)
    encoder = ModelEncoder(model)
    found: dict[str, list[Window]] = {}
    dropped = 0
    for text in texts:
        pieces = [(d, _document_id(d)) for d in documents_of(text, encoder, spec)]
        kept = {key: _windows_of(d, key, spec) for d, key in pieces if key not in found}
        dropped += not any(kept.values())
        found.update((key, windows) for key, windows in kept.items() if windows)
    if not found:
        raise BadInput(f"none of the {len(texts)} texts has two tokens to attend between; give longer texts.")
    return TextWindows(tuple(window for windows in found.values() for window in windows), dropped)


def _document_id(document: Document) -> str:
    import hashlib

    return hashlib.sha256(document.normal.encode("utf-8", "surrogatepass")).hexdigest()


def _windows_of(document: Document, key: str, spec: WindowSpec) -> list[Window]:
    bos = [] if spec.bos_id is None else [spec.bos_id]
    windows = []
    for number, (first, last) in enumerate(cut_windows(document, spec)):
        ids = np.array([*bos, *document.encoded.ids[first:last]], dtype=np.int32)
        covered = document.encoded.offsets[first:last]
        offsets = np.concatenate([np.full((len(bos), 2), covered[0, 0]), covered])
        if last - first >= 2:
            windows.append(Window(key, number, ids, _prefix(document.text, offsets)))
    return windows
