"""Experiments on texts that the agent composes: rows, edits, ablation, patching, lens, and tokens by weights alone."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.agent.arguments import LAST, Edit, Lens, Ov, Patch, Place, Places
from autointerp.agent.edits import both_texts
from autointerp.agent.head_tools import SELFIE_TOKENS
from autointerp.agent.next_tokens import moved
from autointerp.agent.plain import Plain, number, token, values
from autointerp.agent.reading import ReadRow, feed, padded, read_rows
from autointerp.agent.subject import Subject
from autointerp.errors import BadInput
from autointerp.evidence.detector_output import token_writes
from autointerp.evidence.effects import kl_divergence
from autointerp.evidence.examples import extreme_tokens
from autointerp.lenses.head_readings import cost_bound
from autointerp.lenses.head_vectors import HeadRow, head_vectors
from autointerp.model import clean_run, with_changed_z
from autointerp.model.one_position import RowChanges, run_whole

ALL = "all"
N_OV, N_REFERENCE = 3, 8
CLEAR = 1e-3  # a difference of logits below this is none


def attend(subject: Subject, asked: Places) -> Plain:
    """The head's row at each marked destination."""
    rows = read_rows(subject, [feed(subject.model, place) for place in asked.texts])
    return {"rows": [row.view() for row in rows]}


def edit(subject: Subject, asked: Edit) -> Plain:
    """The rows before and after, and where the strongest source went."""
    first, second = read_rows(subject, both_texts(subject.model, asked))
    return {"before": first.view(), "after": second.view(), "changed": _difference(first, second)}


def _difference(first: ReadRow, second: ReadRow) -> Plain:
    def named(row: ReadRow) -> list[object]:
        return [] if row.top < 0 or row.rests else [token(row.fed.tokens[row.top]), row.fed.dst - row.top]

    return {
        "strongest_before": named(first),
        "strongest_after": named(second),
        "same_distance_and_token": named(first) == named(second),
        "first_position": number(float(second.pairs.sink_mass[0] - first.pairs.sink_mass[0])),
        "activity_ratio": number(float(second.pairs.activity[0] / first.pairs.activity[0].clamp_min(1e-12))),
    }


def ablate(subject: Subject, asked: Places) -> Plain:
    """Next tokens that lose and gain most, in probability, where z becomes its mean."""
    rows = [feed(subject.model, place) for place in asked.texts]
    found: dict[int, Plain] = {}

    def read(
        numbers: Int[np.ndarray, " part"], before: Float[Tensor, "part d_vocab"], after: Float[Tensor, "part d_vocab"]
    ) -> None:
        kl = kl_divergence(before, after)
        for i, n in enumerate(numbers.tolist()):
            found[n] = {"at": token(rows[n].tokens[rows[n].dst]), "kl": number(float(kl[i]))} | moved(
                subject.model.strings, before[i].exp(), after[i].exp()
            )

    ids, _ = padded(rows)
    n, head = len(rows), subject.head
    dst = np.array([row.dst for row in rows])
    changes = RowChanges(
        np.arange(n), dst, np.full(n, head.layer), np.full(n, head.index), np.tile(subject.z_mean, (n, 1))
    )
    run_whole(subject.model, ids, changes, subject.data.batch_size, read)
    return {"unit": "[token, probability with the head, without]", "rows": [found[i] for i in range(n)]}


def patch(subject: Subject, asked: Patch) -> Plain:
    """Logit differences answer minus wrong at the end of both texts, and with the other text's z."""
    model, head = subject.model, subject.head
    mark = LAST if asked.mark == ALL else asked.mark
    clean = feed(model, Place(text=asked.clean, mark=mark, occurrence=asked.occurrence))
    corrupted = feed(model, Place(text=asked.corrupted))
    if len(clean.ids) != len(corrupted.ids):
        cut = " and ".join(" | ".join(one.tokens[-12:])[-90:] for one in (clean, corrupted))
        raise BadInput(f"the clean text has {len(clean.ids)} tokens and the corrupted one {len(corrupted.ids)} (they "
                       f"end in {cut}); write texts of equal length")  # fmt: skip
    answer, wrong = subject.token_id(asked.answer), subject.token_id(asked.wrong)
    if answer == wrong:
        raise BadInput("answer and wrong are the same token; name two")
    run = clean_run(model, model.to_ids(np.stack([clean.ids, corrupted.ids])))
    places = slice(None) if asked.mark == ALL else slice(clean.dst, clean.dst + 1)

    def exchange(z: Tensor) -> Tensor:
        z[:, places, head.index] = z[[1, 0], places, head.index]
        return z

    def difference(hidden: Tensor) -> list[float]:
        logits = model.unembed(hidden[:, -1])
        return [float(x) for x in logits[:, answer] - logits[:, wrong]]

    own, other = difference(run.hidden), difference(with_changed_z(model, run, head.layer, exchange))
    found = _carried(own, other)
    named = {"answer": token(model.strings[answer]), "wrong": token(model.strings[wrong])}
    return named | {"at": ALL if asked.mark == ALL else token(clean.tokens[clean.dst])} | found


def _carried(own: list[float], other: list[float]) -> Plain:
    """`other`: clean with the corrupted z, corrupted with the clean z."""
    total = own[0] - own[1]
    found: Plain = {
        "clean": number(own[0]), "corrupted": number(own[1]), "clean_with_corrupted_output": number(other[0]),
        "corrupted_with_clean_output": number(other[1]),
    }  # fmt: skip
    if abs(total) < CLEAR:
        return found | {"note": "the two texts do not differ in this logit difference: nothing to carry"}
    lost, restored = (own[0] - other[0]) / total, (other[1] - own[1]) / total
    return found | {"lost": number(lost), "restored": number(restored)}


def lens(subject: Subject, asked: Lens) -> Plain:
    """The head's output at a position in the vocabulary, and the difference that it makes to the final stream."""
    fed = feed(subject.model, asked)
    if subject.data.output is None:
        raise BadInput("outputs of this model cannot be read in the vocabulary; use ablate")
    row = HeadRow(tuple(fed.ids.tolist()), fed.dst, "composed")
    vectors = head_vectors(subject.model, subject.head, [row], subject.z_mean, subject.data.batch_size)
    output = subject.data.output.readout
    scale = output.scale(vectors.final.to(output.to_logits.device))
    found: Plain = {"at": token(fed.tokens[fed.dst]), "unit": "[token, centred logits]"}
    for what in ("output", "difference"):
        vector = (vectors.output if what == "output" else vectors.difference).to(output.to_logits.device)
        up, down = extreme_tokens(output.logits(vector, scale)[0], subject.model.strings, 5)
        share = float(vector.norm() / vectors.final.norm())
        found[what] = {"of_stream": number(share), "raises": values(up, 5), "lowers": values(down, 5)}
    return found | ({"selfie": _selfie(subject, row)} if asked.selfie else {})


def _selfie(subject: Subject, row: HeadRow) -> Plain:
    reader = subject.data.reader
    if reader is None or reader.interpreter is None:
        return {"error": "there is no SelfIE in this run"}
    windows = subject.data.explain
    lengths = windows.lengths[:N_REFERENCE].tolist()
    reference = [
        HeadRow(tuple(int(i) for i in ids[:size]), size - 1, f"explain {n}")
        for n, (ids, size) in enumerate(zip(windows.ids[:N_REFERENCE], lengths, strict=True))
    ]
    longest = max(len(row.ids), *lengths)
    needed = cost_bound(subject.model, reader.options, 1 + len(reference), longest)
    if needed > SELFIE_TOKENS:
        return {"error": f"a SelfIE reading may take {needed} tokens, more than {SELFIE_TOKENS}"}
    said = reader.read(subject.head, [row], reference, subject.z_mean)
    count = sum(len(vector.selfie) for vector in said.rows[0].vectors)
    specific = [[s.prompt, s.text[:60]] for s in said.specific()]
    return {"specific": specific, "not_specific": count - len(specific), "notes": list(said.notes)[:2]}


def ov(subject: Subject, asked: Ov) -> Plain:
    """Each token's own write, with attention 1 on it, after the first position alone."""
    model, output = subject.model, subject.data.output
    if output is None:
        raise BadInput("outputs of this model cannot be read in the vocabulary; use ablate")
    ids = np.array([subject.token_id(text) for text in asked.tokens])
    first = model.bos_id if model.bos_id is not None else int(subject.data.explain.ids[0, 0])
    writes = token_writes(model, ids, first)[subject.head.layer][:, subject.head.index]
    scale = torch.full((len(ids),), output.scale, device=writes.device)
    logits = output.readout.logits(writes, scale)
    found: list[Plain] = []
    for row, own in zip(logits, ids.tolist(), strict=True):
        up, down = extreme_tokens(row, model.strings, N_OV)
        below = float((row < row[own]).double().mean())
        found.append({
            "token": token(model.strings[own]), "own": number(float(row[own])), "own_percentile": number(100 * below),
            "raises": values(up, N_OV), "lowers": values(down, N_OV),
        })  # fmt: skip
    note = "own: logits on the token itself, percentile 100 the most raised; the token follows the first position alone"
    return {"note": note, "tokens": found}
