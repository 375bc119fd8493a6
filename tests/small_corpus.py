"""A corpus of ten short documents in memory, its first pass, and the same rows read one window at a time."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import torch
from tiny_models import tiny_model, tiny_texts

from autointerp.evidence.collect import ExplainWindows
from autointerp.evidence.examples import Windows
from autointerp.evidence.first_pass import FirstPass, PassSpec, run_first_pass
from autointerp.evidence.hashing import document_keys
from autointerp.evidence.pairs import RowPairs, row_pairs
from autointerp.evidence.rows import OutputGeometry, write_norms
from autointerp.model import Layer

CONTEXT, HEADS = 20, 8
WINDOWS_OF = (1, 3, 2, 1, 1, 4, 2, 1, 1, 2)  # windows of each document


@functools.cache
def corpus() -> ExplainWindows:
    model = tiny_model("gpt2")
    rows: list[list[int]] = []
    doc: list[int] = []
    for number, (n, text) in enumerate(zip(WINDOWS_OF, tiny_texts(len(WINDOWS_OF), seed=1, length=90), strict=True)):
        ids = model.encode(text)[0].tolist()
        for k in range(n):
            size = CONTEXT - 1 - (7 if k == n - 1 and number % 2 else 0)  # some last windows are short
            rows.append([1, *ids[k * (CONTEXT - 1) : k * (CONTEXT - 1) + size]])
            doc.append(number)
    rows[4][9] = 2  # an end-of-text token: one more sink
    lengths = np.array([len(row) for row in rows])
    padded = np.array([row + [0] * (CONTEXT - len(row)) for row in rows], dtype=np.int32)
    in_doc = np.array([doc[:i].count(d) for i, d in enumerate(doc)])
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(WINDOWS_OF))]
    windows = Windows(padded, lengths, np.array(doc), in_doc, names)
    return ExplainWindows(windows, np.arange(len(rows)), np.array(doc), CONTEXT)


def spec_of(explain: ExplainWindows, batch_size: int = 4) -> PassSpec:
    keys = document_keys(explain.windows.doc_ids)
    in_doc = np.asarray(explain.windows.window_in_doc)
    return PassSpec(explain.batches(batch_size), keys, in_doc, explain.token_ids(), explain.context, 7)


@functools.cache
def whole(batch_size: int = 4) -> FirstPass:
    return run_first_pass(tiny_model("gpt2"), spec_of(corpus(), batch_size))


@functools.cache
def by_hand() -> tuple[dict[tuple[int, int], RowPairs], np.ndarray]:
    """Pairs of every (window, head), one window at a time, and the sum of z over rows."""
    model, windows = tiny_model("gpt2"), corpus().windows
    found: dict[tuple[int, int], RowPairs] = {}
    z_sum = np.zeros((HEADS, 8))
    for w, (ids, length) in enumerate(zip(windows.ids, windows.lengths, strict=True)):
        real = model.to_ids(ids[None, :length])
        layers: list[Layer] = []
        model.read_attention(real, [0, 1], layers.append)
        sources = torch.tensor([0 < s and int(i) not in model.special_ids for s, i in enumerate(real[0])])
        for layer in layers:
            norms = write_norms(model, layer, OutputGeometry.of(model, layer.index))
            z_sum[layer.index * 4 : layer.index * 4 + 4] += layer.z[0, 1:].double().sum(0).numpy()
            for h in range(4):
                dst = torch.arange(1, int(length))
                found[w, layer.index * 4 + h] = row_pairs(layer.pattern[0, h, 1:], norms[0, h], sources, dst)
    return found, z_sum


def windows_of(document: int) -> list[int]:
    return np.flatnonzero(np.asarray(corpus().windows.doc) == document).tolist()
