"""The notebook door: open a model once, then ask it questions that answer with tables.

    from autointerp.notebook import open_model
    m = open_model("demo")
    m.multiples("L1H0", ["A text of some length.", "Another text."], n=10)

Tables show themselves in a notebook and have `to_dataframe`, `to_html`, `to_markdown` and `to_csv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast

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
from autointerp.features.ranked import ActivationTable, Ranked, ranked_activations
from autointerp.features.ranked import Order as ActivationOrder
from autointerp.features.text_windows import gathered
from autointerp.features.units import load_units
from autointerp.finder import TokenFinder
from autointerp.lenses.entity import LensOptions, entity_lens
from autointerp.lenses.entity_checkpoint import find_vectors
from autointerp.lenses.entity_frame import Context
from autointerp.lenses.entity_result import EntityReading
from autointerp.lenses.head_vectors import text_head_sources
from autointerp.lenses.logit import LogitLens, logit_lens
from autointerp.lenses.selfie import Interpreter, SelfieOptions, interpret_sources, interpret_text
from autointerp.lenses.selfie_records import SelfieTable
from autointerp.lenses.surgery import Mode
from autointerp.model import LanguageModel, load_model, wrap_bridge
from autointerp.records import Feature, Head

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


class ActivationOptions(TypedDict, total=False):
    """Options of `NotebookModel.activations`: the fields of `features.ranked.Ranked`."""

    n: int
    order: ActivationOrder
    seed: int
    token: str | None


class EntityOptions(TypedDict, total=False):
    """Options of `NotebookModel.entity_lens`: fields of `lenses.entity.LensOptions`."""

    layers: tuple[int, ...] | None
    theta_layer: int | None
    use_filter: bool | None
    logit_lens_k: int
    controls: tuple[str, ...]
    max_tokens: int


class SelfieArguments(TypedDict, total=False):
    """Options of `NotebookModel.selfie`: fields of `lenses.selfie.SelfieOptions`."""

    prompts: tuple[str, ...]
    placeholders: int
    block: int | None
    mode: Mode | None
    strength: float | Literal["search"]
    max_new_tokens: int
    seed: int
    nulls: int


@dataclass(frozen=True, eq=False)
class NotebookModel:
    """A proved model and the questions that can be asked of its attention and of its vectors."""

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

    def activations(
        self, unit: str | Feature, texts: Texts, units: str = "", **options: Unpack[ActivationOptions]
    ) -> ActivationTable:
        """The `n` (10) highest, lowest or random (`order`) activations of a neuron (`L2N17`), or of a latent (`L2F17`)
        of the autoencoder that `units` names (`sae:FOLDER`)."""
        wanted = _unit(unit)
        if not units and wanted.kind == "latent":
            raise BadInput(f'{wanted} is a latent: say of which autoencoder, with units="sae:FOLDER".')
        found = load_units(units or f"neurons:{wanted}", self.model)
        found.place(wanted)
        return ranked_activations(self.model, gathered(self.windows(texts)), found, wanted, Ranked(**options))

    def looks_at(self, prompts: Sequence[LooksAtPrompt], filters: LooksAtFilter | None = None) -> LooksAtTable:
        """The heads that attend from the prompts' destination to their sources; see `looks_at_prompts`."""
        return looks_at(self.model, prompts, filters)

    def logit_lens(self, text: str, layers: Sequence[int] | None = None) -> LogitLens:
        """What the model would predict at each token if it stopped before each block."""
        return logit_lens(self.model, text, layers)

    def entity_lens(self, text: str, context: Context = "none", **options: Unpack[EntityOptions]) -> EntityReading:
        """Layers by tokens of a text: the mention that each vector stands for, beside its controls.

        Raises BadInput where there are no vectors for the model: train them with `autointerp entity-lens train`.
        """
        vectors = find_vectors(self.model, context)
        if vectors is None:
            raise BadInput(
                f"there are no entity-lens vectors for {self.model.name}, context {context}. Train them: `autointerp "
                "entity-lens train` with this model and context."
            )
        chosen = LensOptions(**options)
        if "controls" not in options and context != "none":
            chosen = replace(chosen, controls=("mean", "shuffled"))
        return entity_lens(self.model, vectors, text, chosen)

    def selfie(
        self, text: str, layers: Sequence[int] | None = None, positions: Sequence[int] | None = None,
        head: str | Head | None = None, **options: Unpack[SelfieArguments],
    ) -> SelfieTable:  # fmt: skip
        """The model's own words about a text's residual stream, or about a head's output there, with controls."""
        chosen = SelfieOptions(**options)
        if head is None:
            return interpret_text(self.model, text, chosen, layers, positions)
        if layers is not None:
            raise BadInput("a head has its own layer; give a head or layers, not both.")
        sources = text_head_sources(self.model, _head(head), text, positions)
        return interpret_sources(Interpreter(self.model, chosen), sources)

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


def _unit(unit: str | Feature) -> Feature:
    if isinstance(unit, Feature):
        return unit
    try:
        return Feature.parse(unit)
    except ValueError as error:
        raise BadInput(str(error) + ".") from None


def _head(head: str | Head) -> Head:
    if isinstance(head, Head):
        return head
    try:
        return Head.parse(head)
    except ValueError as error:
        raise BadInput(str(error) + ".") from None
