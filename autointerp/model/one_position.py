"""Change one thing at one destination and read that destination, at the price of one position a row.

What is changed is a list of rows of any kind (`row_changes`): a head's z replaced, a vector added at a hook.

1. One run of the windows keeps every layer's keys and values in the model's own cache.
2. A row (window, dst) is the token at `dst` put after the first `dst` cached positions. Earlier positions cannot see
   a change at dst, so their keys and values are the clean ones and the result is that of a whole forward.
3. Rows of equal dst run together, unpadded; changes of different units and layers share a batch, and the unchanged
   row is run once beside all changes of it.

transformer_lens's native model, which has no cache, is stepped by `model.native_step`. Where there is neither, or the
first windows show that the step is not exact, or that a change made in it is not, each row runs as a batch entry of
its own, cut at its destination (`model.resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.model.language_model import HookFunction, LanguageModel
from autointerp.model.native_step import is_native, native_hidden, native_keys_values
from autointerp.model.readout import log_probs
from autointerp.model.resume import clean_run, run_hooked
from autointerp.model.row_changes import Changes, HookEdit, RowAdditions, RowChanges

__all__ = ["Read", "RowAdditions", "RowChanges", "run_additions", "run_changes", "run_whole", "steps_exactly"]

CACHED_CELLS = 40_000_000  # numbers of keys and values kept at once
_KeyValues = list[tuple[Tensor, Tensor]]  # by layer, each [window kv_head pos d_head]
Read = Callable[[Int[np.ndarray, " part"], Float[Tensor, "part d_vocab"], Float[Tensor, "part d_vocab"]], None]


def run_changes(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], changes: Changes, batch_size: int, read: Read
) -> None:
    """Hand log-probabilities at the destinations to `read`: (numbers of the rows, before, after), every row once.

    `ids` may be padded on the right; `batch_size` rows run together.
    """
    if not len(changes):
        return
    if not (steps_exactly(model, ids[: min(2, len(ids))]) and _changes_exactly(model, ids, changes)):
        run_whole(model, ids, changes, batch_size, read)
        return
    _run_steps(model, ids, changes, batch_size, read)


def run_additions(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], changes: RowAdditions, batch_size: int, read: Read
) -> None:
    """`run_changes` where vectors are added at hooks."""
    run_changes(model, ids, changes, batch_size, read)


def _run_steps(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], changes: Changes, batch_size: int, read: Read
) -> None:
    for part, windows in _chunks(model, ids, changes):
        cache = _cached(model, ids[windows])
        assert cache is not None
        where = {int(w): i for i, w in enumerate(windows)}
        for dst in np.unique(changes.dst[part]):
            rows = part[changes.dst[part] == dst]
            rows = rows[np.argsort(changes.window[rows], kind="stable")]  # changes of a place share its clean row
            for start in range(0, len(rows), batch_size):
                some = rows[start : start + batch_size]
                _step(model, ids, cache, where, changes.take(some), some, read)


def steps_exactly(model: LanguageModel, ids: Int[np.ndarray, "window pos"]) -> bool:
    """Whether a cached step gives what a whole forward gives, on these windows."""
    cache = _cached(model, ids)
    if cache is None or ids.shape[1] < 3:
        return False
    whole = model.final_states(model.to_ids(ids))[1].float()
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    for dst in (ids.shape[1] // 2, ids.shape[1] - 1):
        stepped = _hidden(model, ids[:, dst], cache, np.arange(len(ids)), dst, []).float()
        if not float((stepped - whole[:, dst]).abs().max()) <= tolerance * float(whole[:, dst].abs().max()):
            return False
    return True


def _changes_exactly(model: LanguageModel, ids: Int[np.ndarray, "window pos"], changes: Changes) -> bool:
    """Whether a change made in a step gives what it gives in a whole forward: one row of each hook, three at most."""
    edits = changes.edits(model)
    tried = changes.take(np.array([int(e.rows[0]) for e in edits[:: max(1, (len(edits) + 2) // 3)]]))
    found = [np.zeros((len(tried), model.d_vocab), np.float32) for _ in range(2)]
    for run, out in ((_run_steps, found[0]), (run_whole, found[1])):

        def read(rows: Int[np.ndarray, " part"], before: Tensor, after: Tensor, out: np.ndarray = out) -> None:
            out[rows] = (after - before).float().cpu().numpy()

        run(model, ids, tried, len(tried), read)
    size = np.abs(found[1]).max()
    relative, rounding = (1e-2, 1e-3) if model.dtype == torch.float32 else (1e-1, 1e-1)
    return bool(np.abs(found[0] - found[1]).max() <= relative * size + rounding)


def _chunks(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], changes: Changes
) -> Iterator[tuple[Int[np.ndarray, " part"], Int[np.ndarray, " window"]]]:
    """Rows by group of windows; a group's keys and values fit CACHED_CELLS."""
    a_window = 2 * model.n_layers * ids.shape[1] * model.W_V(0)[:, 0].numel()
    step = max(1, CACHED_CELLS // a_window)
    used = np.unique(changes.window)
    for start in range(0, len(used), step):
        windows = used[start : start + step]
        yield np.flatnonzero(np.isin(changes.window, windows)), windows


def _cached(model: LanguageModel, ids: Int[np.ndarray, "window pos"]) -> _KeyValues | None:
    from transformers import DynamicCache

    original = model.bridge.original_model
    if is_native(model):
        return native_keys_values(model, ids)
    if not hasattr(original, "base_model"):
        return None
    with torch.no_grad():
        cache = getattr(original.base_model(model.to_ids(ids), use_cache=True), "past_key_values", None)
    if not isinstance(cache, DynamicCache) or len(cache.layers) != model.n_layers:
        return None
    found = [(layer.keys, layer.values) for layer in cache.layers]
    whole = all(k is not None and v is not None and k.shape[2] == v.shape[2] == ids.shape[1] for k, v in found)
    return found if whole else None


def _step(
    model: LanguageModel,
    ids: Int[np.ndarray, "window pos"],
    cache: _KeyValues,
    where: dict[int, int],
    changes: Changes,
    numbers: Int[np.ndarray, " part"],
    read: Read,
) -> None:
    """All rows have one dst; the clean rows come first in the batch."""
    clean, row_of = np.unique(changes.window, return_inverse=True)
    windows = np.concatenate([clean, changes.window])
    dst = int(changes.dst[0])
    hooks = _hooks(model, changes, len(clean), np.zeros(len(changes), np.int64))
    hidden = _hidden(model, ids[windows, dst], cache, np.array([where[int(w)] for w in windows]), dst, hooks)
    log_p = log_probs(model, hidden)
    read(numbers, log_p[torch.from_numpy(row_of).to(log_p.device)], log_p[len(clean) :])


def _hooks(
    model: LanguageModel, changes: Changes, offset: int, position: Int[np.ndarray, " row"]
) -> list[tuple[str, HookFunction]]:
    """Row i is entry `offset + i` of the batch, at `position[i]` of what is fed."""

    def hook_of(made: HookEdit) -> HookFunction:
        entry, place = (torch.from_numpy(a).to(model.device) for a in (made.rows + offset, position[made.rows]))

        def hook(tensor: Tensor, hook: Any) -> Tensor:
            changed = tensor.clone()
            changed[entry, place] = made.edit(tensor[entry, place])
            return changed

        return hook

    return [(made.name, hook_of(made)) for made in changes.edits(model)]


def _hidden(
    model: LanguageModel,
    tokens: Int[np.ndarray, " row"],
    cache: _KeyValues,
    windows: Int[np.ndarray, " row"],
    dst: int,
    hooks: list[tuple[str, HookFunction]],
) -> Float[Tensor, "row d_model"]:
    """Output of the final norm for one new token a row after `dst` cached ones."""
    from transformers import DynamicCache

    picked = torch.from_numpy(windows).to(model.device)
    if is_native(model):
        earlier = [(keys[picked, :, :dst], values[picked, :, :dst]) for keys, values in cache]
        return native_hidden(model, tokens, earlier, dict(hooks))
    past = DynamicCache()
    for layer, (keys, values) in enumerate(cache):
        past.update(keys[picked, :, :dst], values[picked, :, :dst], layer)
    kept: list[Tensor] = []
    handle = model.bridge.ln_final.register_forward_hook(lambda _module, _args, output: kept.append(output))
    try:
        with model.hooks(hooks):
            model.bridge.original_model.base_model(model.to_ids(tokens[:, None]), past_key_values=past, use_cache=True)
    finally:
        handle.remove()
    return kept[0][:, 0]


def run_whole(
    model: LanguageModel, ids: Int[np.ndarray, "window pos"], changes: Changes, batch_size: int, read: Read
) -> None:
    """`run_changes` with every row as a batch entry of its own, cut at its destination; like lengths together."""
    order = np.lexsort((changes.dst, changes.layer))
    bounds = np.flatnonzero(np.diff(changes.layer[order])) + 1
    for same_layer in np.split(order, bounds):
        for start in range(0, len(same_layer), batch_size):
            rows = same_layer[start : start + batch_size]
            part = changes.take(rows)
            read(rows, *_whole(model, ids[part.window, : int(part.dst.max()) + 1], part))


def _whole(
    model: LanguageModel, ids: Int[np.ndarray, "row pos"], part: Changes
) -> tuple[Float[Tensor, "row d_vocab"], Float[Tensor, "row d_vocab"]]:
    run = clean_run(model, model.to_ids(ids))
    rows, dst = torch.arange(len(part), device=run.ids.device), part.dst.astype(np.int64)
    hidden = run_hooked(model, run, int(part.layer[0]), _hooks(model, part, 0, dst))
    at = rows, torch.from_numpy(dst).to(run.ids.device)
    return log_probs(model, run.hidden[at]), log_probs(model, hidden[at])
