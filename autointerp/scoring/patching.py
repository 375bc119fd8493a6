"""The patching check on minimal edits: does the head's output carry what changes when the description stops holding?

1. Rows of held-out text in which the description predicts a source (those where that source has at least .3 of the
   contribution, while there are enough). One token, the source's or the destination's, is replaced by an ordinary
   token of the text so that the predicate no longer predicts that source (tier T3 of rule 5).
2. The head is measured again on the edited text: how often the pair's share fell to .02 or less, and how often it
   stayed at .3 or more although the description says that it should not.
3. L is the centred logit, at the destination, of the clean source's token where the description claims a sign on it,
   else of the true next token. The head's z at the destination is patched both ways:
   c_1 = L(clean) - L(clean with z of edited), c_2 = L(edited with z of clean) - L(edited), T = L(clean) - L(edited).
4. Share = sum g (c_1 + c_2) / 2 over sum |T|, where g is the claimed sign, or that of T where none is claimed; sign =
   cases in which (c_1 + c_2) / 2 has the sign g. Intervals over documents.
5. Nulls: another head of the layer patched on the same edits, and the edits of a shuffled description.

Patching replaces, ablation removes. Positional descriptions have no such edit and are unscored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from autointerp.model.one_position import RowChanges, run_changes
from autointerp.records import Control, Head, Score, Unscored
from autointerp.scoring.controls import compared
from autointerp.scoring.head_values import GROUP_CELLS, HeadValues, layer_values
from autointerp.scoring.held_out import HeldOutRows
from autointerp.scoring.patch_edits import Edits, PatchSpec, find_edits
from autointerp.scoring.tallies import THETA_HIGH, THETA_LOW
from autointerp.stats.bootstrap import Resamples, interval

SCORER = "patching"
MIN_CASES = 8
BATCH = 64


@dataclass(frozen=True)
class PatchClaim:
    """What is checked of a head: its predicate, a shuffled description's (None: no such control), the claimed sign of
    its effect on the attended token (0: none)."""

    predicate: str
    shuffled: str | None = None
    sign: int = 0


@dataclass(frozen=True, eq=False)
class Patched:
    """L of each case, clean and edited, and with the other side's z of one head."""

    clean: Float64[np.ndarray, " case"]
    edited: Float64[np.ndarray, " case"]
    clean_with_edited: Float64[np.ndarray, " case"]
    edited_with_clean: Float64[np.ndarray, " case"]

    @property
    def total(self) -> Float64[np.ndarray, " case"]:
        return np.asarray(self.clean - self.edited)

    @property
    def moved(self) -> Float64[np.ndarray, " case"]:
        """Mean change by the patch over both ways."""
        return np.asarray((self.clean - self.clean_with_edited + self.edited_with_clean - self.edited) / 2)


def score_patching(spec: PatchSpec, claims: Mapping[Head, PatchClaim]) -> dict[Head, Score | Unscored]:
    """Patching check of the claims of several heads."""
    found: dict[Head, Score | Unscored] = {}
    resamples = Resamples.of(spec.held_out.n_documents, spec.seed)
    layers = sorted({head.layer for head in claims})
    for values in layer_values(spec.model, spec.held_out, spec.means, layers, spec.batch_size):
        tasks = [task for v in values if v.head in claims for task in _tasks(spec, values, v.head, claims[v.head])]
        checks = dict(zip(((t.head, t.kind) for t in tasks), _measure(spec, values, tasks), strict=True))
        for task in tasks:
            if task.kind == "own":
                shuffled = checks.get((task.head, "shuffled"))
                found[task.head] = _score(spec, checks[task.head, "own"], shuffled, resamples)
    return {head: found[head] for head in claims}


@dataclass(frozen=True, eq=False)
class Task:
    """Edits of one description on one head, and the other head of the layer that is patched beside it."""

    head: Head
    kind: str  # own or shuffled
    edits: Edits
    sign: int
    other: int | None = None

    def followed(self, held_out: HeldOutRows) -> Int[np.ndarray, " case"]:
        """The token whose logit is L."""
        place = self.edits.src if self.sign else self.edits.dst + 1
        return np.asarray(held_out.ids[self.edits.window, place], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Check:
    """A task with what was measured: the pair's share in the edited text, L with this head patched and the other."""

    task: Task
    documents: Int[np.ndarray, " case"]
    share: Float32[np.ndarray, " case"]
    patched: Patched
    control: Patched | None


def _tasks(spec: PatchSpec, values: list[HeadValues], head: Head, claim: PatchClaim) -> list[Task]:
    rng = np.random.default_rng([spec.seed, head.layer, head.index, 3])
    others = [v.head.index for v in values if v.head != head]
    other = int(rng.choice(others)) if others else None
    found: list[Task] = []
    for kind, predicate in (("own", claim.predicate), ("shuffled", claim.shuffled)):
        if predicate is not None:
            edits = find_edits(spec, values[head.index], predicate, rng, following=claim.sign == 0)
            found.append(Task(head, kind, edits, claim.sign, other if kind == "own" else None))
    return found


def _measure(spec: PatchSpec, values: list[HeadValues], tasks: list[Task]) -> list[Check]:
    """Checks in the order of the tasks; edited windows of several tasks run together."""
    size = spec.held_out.ids.shape[1]
    limit = max(1, GROUP_CELLS // (len(values) * size * size))
    found: list[Check] = []
    start = 0
    while start < len(tasks):
        stop = start + 1
        while stop < len(tasks) and sum(len(t.edits) for t in tasks[start : stop + 1]) <= limit:
            stop += 1
        found += _measure_some(spec, values, tasks[start:stop])
        start = stop
    return found


def _measure_some(spec: PatchSpec, values: list[HeadValues], tasks: list[Task]) -> list[Check]:
    edits = Edits.joined([task.edits for task in tasks])
    if not len(edits):
        nothing = Patched(*(np.zeros(0) for _ in range(4)))
        return [Check(task, np.zeros(0, np.int64), np.zeros(0, np.float32), nothing, None) for task in tasks]
    rows = edits.rows(spec.held_out)
    layer = values[0].head.layer
    edited = next(iter(layer_values(spec.model, rows, spec.means, [layer], spec.batch_size)))
    bounds = np.cumsum([0, *(len(task.edits) for task in tasks)])
    jobs: list[Job] = []
    for task, first, last in zip(tasks, bounds, bounds[1:], strict=False):
        for index in (task.head.index, task.other):
            if index is not None:
                jobs.append(Job(np.arange(first, last), values[index], edited[index], task.followed(spec.held_out)))
    patched = iter(patch(spec, edits, rows, jobs))
    found: list[Check] = []
    for task, first, last in zip(tasks, bounds, bounds[1:], strict=False):
        case = np.arange(first, last)
        share = edited[task.head.index].shares()[case, task.edits.dst, task.edits.src]
        documents = spec.held_out.documents[task.edits.window]
        own = next(patched)
        found.append(Check(task, documents, share, own, None if task.other is None else next(patched)))
    return found


@dataclass(frozen=True, eq=False)
class Job:
    """One head to be patched at some of the edits: its values on the clean and on the edited windows, and the token
    that is followed in each case."""

    cases: Int[np.ndarray, " case"]
    clean: HeadValues
    edited: HeadValues
    followed: Int[np.ndarray, " case"]


def patch(spec: PatchSpec, edits: Edits, rows: HeldOutRows, jobs: list[Job]) -> list[Patched]:
    """Run clean and edited windows as one batch of windows, each with the head's z of the other at the destination."""
    n = len(edits)
    ids = np.concatenate([spec.held_out.ids[edits.window], rows.ids])[:, : int(edits.dst.max()) + 1]
    windows = np.concatenate([np.r_[job.cases, job.cases + n] for job in jobs])
    heads = np.repeat([job.clean.head.index for job in jobs], [2 * len(job.cases) for job in jobs])
    z = [(j.edited.z[j.cases, edits.dst[j.cases]], j.clean.z[edits.window[j.cases], edits.dst[j.cases]]) for j in jobs]
    layer = np.full(len(windows), jobs[0].clean.head.layer)
    changes = RowChanges(windows, edits.dst[windows % n], layer, heads, np.concatenate([a for pair in z for a in pair]))
    tokens = np.concatenate([np.tile(job.followed, 2) for job in jobs])
    found = np.full((2, len(windows)), np.nan)

    def read(numbers: Int[np.ndarray, " part"], before: Tensor, after: Tensor) -> None:
        followed = torch.from_numpy(tokens[numbers]).to(before.device)[:, None]
        for side, log_p in enumerate((before.double(), after.double())):
            found[side, numbers] = (log_p.gather(1, followed)[:, 0] - log_p.mean(1)).cpu().numpy()

    run_changes(spec.model, ids, changes, BATCH, read)
    parts = np.split(found, np.cumsum([2 * len(job.cases) for job in jobs])[:-1], axis=1)
    return [Patched(*(half for side in part for half in np.split(side, 2))) for part in parts]


def _score(spec: PatchSpec, own: Check, shuffled: Check | None, resamples: Resamples) -> Score | Unscored:
    n = len(own.task.edits)
    if n < MIN_CASES:
        why = f"only {n} rows have a one-token edit after which the description no longer holds"
        return Unscored(scorer=SCORER, reason=why)
    details = _details(own, resamples)
    drawn = _shares(own.patched, own, resamples)
    controls: list[Control] = []
    if own.control is not None:
        controls.append(_control(f"random head {own.task.other}", drawn, _shares(own.control, own, resamples)))
        details["random_head"] = own.task.other
    if shuffled is not None:
        details["shuffled_edits"] = len(shuffled.task.edits)
        if len(shuffled.task.edits) >= MIN_CASES:
            controls.append(_control("shuffled explanation", drawn, _shares(shuffled.patched, shuffled, resamples)))
            details |= {f"shuffled_{name}": value for name, value in _details(shuffled, resamples).items()}
    n_docs = len(np.unique(own.documents))
    low, high = interval(drawn[1:])
    return Score(
        scorer=SCORER, metric="patching_share", domain=spec.held_out.domain, value=float(drawn[0]), low=low, high=high,
        n_items=n, n_docs=n_docs, prevalence=float("nan"), chance=0.0, controls=tuple(controls),
        state="underpowered" if n_docs < MIN_CASES else "", details=details,
    )  # fmt: skip


def _details(check: Check, resamples: Resamples) -> dict[str, float | int | str | None]:
    patched, edits = check.patched, check.task.edits
    direction = _direction(patched, check.task.sign)
    sign = _ratio((np.sign(patched.moved) == direction) * 1.0, np.ones(len(edits)), check.documents, resamples)
    low, high = interval(sign[1:])
    ways = {
        "share_edited_into_clean": patched.clean - patched.clean_with_edited,
        "share_clean_into_edited": patched.edited_with_clean - patched.edited,
    }
    size = max(float(np.abs(patched.total).sum()), 1e-12)
    remeasured = check.share[edits.share >= THETA_HIGH]
    return {
        "sign": float(sign[0]), "sign_low": low, "sign_high": high, "sign_claimed": check.task.sign,
        **{name: float((direction * way).sum() / size) for name, way in ways.items()},
        "logit_change": float(np.abs(patched.total).mean()), "logit_moved": float((direction * patched.moved).mean()),
        "edits_of_source": int((edits.place == edits.src).sum()), "T3_positives": len(remeasured),
        "T3_fell": float((remeasured <= THETA_LOW).mean()) if len(remeasured) else float("nan"),
        "T3_stayed": float((remeasured >= THETA_HIGH).mean()) if len(remeasured) else float("nan"),
    }  # fmt: skip


def _shares(patched: Patched, check: Check, resamples: Resamples) -> Float64[np.ndarray, " n"]:
    """The share on all cases, then on each resample."""
    above = _direction(patched, check.task.sign) * patched.moved
    return _ratio(above, np.abs(patched.total), check.documents, resamples)


def _direction(patched: Patched, claimed: int) -> Float64[np.ndarray, " case"]:
    return np.full(len(patched.clean), float(claimed)) if claimed else np.sign(patched.total)


def _ratio(
    above: Float64[np.ndarray, " case"],
    below: Float64[np.ndarray, " case"],
    documents: Int[np.ndarray, " case"],
    resamples: Resamples,
) -> Float64[np.ndarray, " n"]:
    n_docs = resamples.counts.shape[1]
    sums = [np.bincount(documents, part, n_docs) for part in (above, below)]
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (resamples.counts @ sums[0]) / (resamples.counts @ sums[1])
        return np.asarray(np.r_[sums[0].sum() / sums[1].sum(), drawn])


def _control(name: str, own: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"]) -> Control:
    return compared(name, float(own[0]), float(other[0]), own[1:] - other[1:])
