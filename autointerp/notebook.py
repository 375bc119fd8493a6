"""The notebook door: open a model once, then ask it questions that answer with tables.

    from autointerp.notebook import open_model
    m = open_model("demo")
    m.multiples("L1H0", ["A text of some length.", "Another text."], n=10)

Tables show themselves in a notebook and have `to_dataframe`, `to_html`, `to_markdown` and `to_csv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from autointerp.corpus import ExplainSet, HeldOutSet, TokenCorpus
from autointerp.demo.model import weights_folder
from autointerp.errors import BadInput
from autointerp.evidence.looks_at import looks_at
from autointerp.evidence.looks_at_table import LooksAtFilter, LooksAtTable
from autointerp.evidence.multiples import (
    By,
    Order,
    Population,
    RandomQuery,
    RankedQuery,
    random_multiples,
    ranked_multiples,
)
from autointerp.evidence.prompt_spans import LooksAtPrompt, looks_at_prompts, prompt_finder
from autointerp.evidence.table import PairTable
from autointerp.evidence.windows import SplitWindows, Window, text_windows
from autointerp.finder import TokenFinder
from autointerp.model import LanguageModel, load_model, wrap_bridge
from autointerp.records import Head

__all__ = ["LooksAtFilter", "LooksAtPrompt", "NotebookModel", "looks_at_prompts", "open_model"]

Texts = Sequence[str] | TokenCorpus | ExplainSet | HeldOutSet | Iterable[Window]
"""Texts in memory, a corpus (its explain split), a split of one, or what `NotebookModel.windows` gave."""


class RankedOptions(TypedDict, total=False):
    """Options of `NotebookModel.multiples`: the fields of `evidence.multiples.RankedQuery`."""

    n: int
    order: Order
    by: By
    src_token: str | None
    dst_token: str | None
    dedupe: bool
    exclude_self: bool


class RandomOptions(TypedDict, total=False):
    """Options of `NotebookModel.random_multiples`: the fields of `evidence.multiples.RandomQuery`."""

    n: int
    population: Population
    seed: int
    src_token: str | None
    dst_token: str | None
    exclude_self: bool


@dataclass(frozen=True, eq=False)
class NotebookModel:
    """A proved model and the questions that can be asked of its attention."""

    model: LanguageModel

    def windows(self, texts: Texts, context: int | None = None) -> Iterable[Window]:
        """The windows that `texts` are read as; texts in memory are cut to `context` ids (128, or n_ctx)."""
        if isinstance(texts, TokenCorpus):
            return SplitWindows(texts.explain())
        if isinstance(texts, ExplainSet | HeldOutSet):
            return SplitWindows(texts)
        if isinstance(texts, str):
            raise BadInput(f"the texts are one string ({texts[:40]!r}); give a list of texts.")
        if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
            return text_windows(self.model, cast(Sequence[str], texts), context)
        return cast(Iterable[Window], texts)

    def multiples(self, head: str | Head, texts: Texts, **options: Unpack[RankedOptions]) -> PairTable:
        """The `n` (10) highest or lowest (`order`) attention pairs of a head by `by` (`multiple`)."""
        return ranked_multiples(self.model, self.windows(texts), _head(head), RankedQuery(**options))

    def random_multiples(self, head: str | Head, texts: Texts, **options: Unpack[RandomOptions]) -> PairTable:
        """A seeded uniform draw of attention pairs of a head."""
        return random_multiples(self.model, self.windows(texts), _head(head), RandomQuery(**options))

    def looks_at(self, prompts: Sequence[LooksAtPrompt], filters: LooksAtFilter | None = None) -> LooksAtTable:
        """The heads that attend from the prompts' destination to their sources; see `looks_at_prompts`."""
        return looks_at(self.model, prompts, filters)

    def finder(self, text: str) -> TokenFinder:
        """Finds words and phrases among the tokens of a text, positions as fed to this model."""
        return prompt_finder(self.model, text)


def open_model(spec: Any = "demo", device: str = "auto", dtype: str = "auto") -> NotebookModel:
    """Open `demo`, a folder, a hub name, `file.py:callable`, a `TransformerBridge` or a `LanguageModel`.

    The instrument is proved before anything is read. Raises BadInput or ModelError like `--model`.
    """
    if isinstance(spec, LanguageModel):
        return NotebookModel(spec)
    if isinstance(spec, Path):
        spec = str(spec)
    if isinstance(spec, str):
        place = str(weights_folder()) if spec == "demo" else spec
        return NotebookModel(load_model(place, device, dtype)[0])
    if hasattr(spec, "blocks") and hasattr(spec, "original_model"):
        return NotebookModel(wrap_bridge(spec, str(getattr(spec.cfg, "model_name", "") or "bridge"))[0])
    raise BadInput(f"a {type(spec).__name__} is no model; give a name, a folder or a TransformerBridge.")


def _head(head: str | Head) -> Head:
    if isinstance(head, Head):
        return head
    try:
        return Head.parse(head)
    except ValueError as error:
        raise BadInput(str(error) + ".") from None
