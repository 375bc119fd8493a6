"""Model and corpus of a run, checked against each other; which heads are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from autointerp.config import RunConfig
from autointerp.corpus import TokenCorpus, WindowSpec, build_corpus, open_corpus, read_texts
from autointerp.errors import BadInput
from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.examples import Windows
from autointerp.evidence.windows import ModelEncoder
from autointerp.model import InstrumentReport, LanguageModel, load_model
from autointerp.records import Head

EMBEDDED = ("demo", "planted")  # corpora that come with the package


@dataclass(frozen=True)
class Sources:
    """What `demo` and `planted` stand for; the command line resolves them."""

    model: str
    embedded_texts: Callable[[], Iterable[str]] | None = None  # for the corpus specs `demo` and `planted`
    load: Callable[[str, str], tuple[LanguageModel, InstrumentReport]] | None = None  # device, dtype; for `planted`


@dataclass(frozen=True)
class Inputs:
    """A proved model and the corpus cut for it."""

    model: LanguageModel
    instrument: InstrumentReport
    corpus: TokenCorpus
    heads: tuple[Head, ...]

    def explain_windows(self) -> ExplainWindows:
        """The explain split as the collection wants it."""
        corpus = self.corpus
        windows = Windows(corpus.ids, corpus.lengths, corpus.doc, corpus.window_in_doc, corpus.doc_ids)
        cluster = np.asarray(corpus.cluster)[np.asarray(corpus.doc)]
        return ExplainWindows(windows, corpus.explain().windows, cluster, corpus.spec.context)

    def summary(self) -> dict[str, object]:
        """Facts for `run.json`."""
        return {
            "model": {
                "revision": self.model.revision,
                "layers": self.model.n_layers,
                "heads": self.model.n_heads,
                "kv_heads": self.model.n_kv_heads,
                "vocabulary": self.model.d_vocab,
                "n_ctx": self.model.n_ctx,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "device": str(self.model.device),
                "bos": self.model.bos_rule,
            },
            "instrument": asdict(self.instrument),
            "corpus": {**asdict(self.corpus.report), "corpus_hash": self.corpus.report.corpus_hash[:16]},
        }


def load_inputs(config: RunConfig, sources: Sources, folder: Path) -> Inputs:
    """Load and prove the model, build the corpus in `folder` or reopen it. Raises BadInput or ModelError."""
    load = sources.load or partial(load_model, sources.model)
    model, instrument = load(config.device, config.dtype)
    heads = parse_heads(config.heads, model.n_layers, model.n_heads)
    if config.context > model.n_ctx:
        raise BadInput(
            f"--context {config.context} is longer than the model's context of {model.n_ctx}. "
            f"Use at most {model.n_ctx}."
        )
    return Inputs(model, instrument, load_corpus(config, sources, model, folder), heads)


def load_corpus(config: RunConfig, sources: Sources, model: LanguageModel, folder: Path) -> TokenCorpus:
    """The corpus of `config` cut into windows for `model`; reopened where it is complete in `folder`."""
    spec = WindowSpec(
        context=config.context,
        bos_id=model.bos_id,
        special_ids=model.special_ids,
        max_tokens=config.max_tokens,
        salt=f"autointerp-{config.seed}",
    )
    key = f"{model.name} {model.revision} {config.corpus} {config.text_column} {_file_facts(config.corpus)}"
    found = open_corpus(folder, spec, key)
    if found is not None:
        return found
    return build_corpus(_texts(config, sources), ModelEncoder(model), spec, folder, key)


def _texts(config: RunConfig, sources: Sources) -> Iterable[str]:
    specs = [spec for spec in config.corpus if spec not in EMBEDDED]
    embedded = [spec for spec in config.corpus if spec in EMBEDDED]
    if embedded:
        if len(config.corpus) > 1 or sources.embedded_texts is None:
            raise BadInput(f"--corpus {embedded[0]} cannot be combined with other corpora. Give one or the other.")
        return sources.embedded_texts()
    return read_texts(specs, config.text_column)


def _file_facts(specs: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Size and time of local files: a changed file is another corpus."""
    paths = [Path(spec) for spec in specs if Path(spec).is_file()]
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]


def parse_heads(text: str, n_layers: int, n_heads: int) -> tuple[Head, ...]:
    """Read `0.1,3.*,L5H0-L5H3`; empty means all heads. Raises BadInput for a head that the model has not."""
    if not text.strip():
        return tuple(Head(layer=n, index=h) for n in range(n_layers) for h in range(n_heads))
    found: set[Head] = set()
    for part in text.split(","):
        found |= set(_heads_of(part.strip(), n_layers, n_heads))
    for head in found:
        if head.layer >= n_layers or head.index >= n_heads:
            raise BadInput(
                f"--heads names {head}, but the model has layers 0 to {n_layers - 1} with heads 0 to {n_heads - 1}."
            )
    return tuple(sorted(found))


def _heads_of(part: str, n_layers: int, n_heads: int) -> list[Head]:
    star = re.fullmatch(r"(?:[Ll](\d+)[Hh]\*|(\d+)\.\*)", part)
    if star:
        layer = int(star.group(1) or star.group(2))
        return [Head(layer=layer, index=h) for h in range(n_heads)]
    ends = part.split("-") if "-" in part else [part]
    try:
        heads = [Head.parse(end) for end in ends]
    except ValueError as error:
        raise BadInput(f"--heads: {error}, 3.* or L5H0-L5H3.") from None
    if len(heads) == 1:
        return heads
    if len(heads) != 2 or heads[1] < heads[0]:
        raise BadInput(f"--heads: {part!r} is not a range from a lower to a higher head, such as L5H0-L5H3.")
    places = [h.layer * n_heads + h.index for h in heads]
    return [Head(layer=n // n_heads, index=n % n_heads) for n in range(places[0], places[1] + 1)]
