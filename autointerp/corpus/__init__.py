"""Texts to token rows of fixed context: reading, windows, three-way split, near-duplicate check."""

from __future__ import annotations

from autointerp.corpus.build import build_corpus
from autointerp.corpus.reading import read_texts
from autointerp.corpus.tokens import (
    CorpusReport,
    ExplainSet,
    HeldOutSet,
    SplitCount,
    TokenBatch,
    TokenCorpus,
    WindowText,
    open_corpus,
)
from autointerp.corpus.windows import Encoded, Encoder, WindowSpec, normalise

__all__ = [
    "CorpusReport",
    "Encoded",
    "Encoder",
    "ExplainSet",
    "HeldOutSet",
    "SplitCount",
    "TokenBatch",
    "TokenCorpus",
    "WindowSpec",
    "WindowText",
    "build_corpus",
    "normalise",
    "open_corpus",
    "read_texts",
]
