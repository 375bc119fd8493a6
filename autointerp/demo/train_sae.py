"""Trains the small autoencoder that ships with the demo model: `python -m autointerp.demo.train_sae --out DIR`.

An example of the library, not a product; about two minutes on one core.

1. Fresh text of the demo corpus (a training seed of its own) runs through the model; the residual stream after block
   `layer` is read at every position but the first.
2. Batch-topk (Bussmann et al. 2024, arXiv 2412.06410): of a batch of rows, the k largest activations a row on average
   are kept; decoder rows have norm 1. Latents that stayed silent reconstruct what the others leave (Gao et al. 2024,
   arXiv 2406.04093), which brings them back.
3. The running mean of the smallest kept activation becomes the threshold, and the file is a jumprelu autoencoder in
   SAELens's format (float16), as SAELens itself writes batch-topk ones.
4. `training.json` has what it does on held-out text: explained variance, loss recovered, active and dead latents.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autointerp.demo.corpus import DemoDocument, documents, held_out_texts
from autointerp.demo.model import weights_folder
from autointerp.model import LanguageModel, load_model
from autointerp.model.splice import spliced_losses
from autointerp.model.unit_sites import HookPlace, place_hook
from autointerp.sae import Sae, load_sae

logger = logging.getLogger(__name__)
CONTEXT, TEXT_SEED, WINDOWS_AT_ONCE = 128, 1, 16


@dataclass(frozen=True)
class SaeTraining:
    """Everything that determines the weights (beside library versions and the processor)."""

    seed: int = 0
    layer: int = 2
    d_sae: int = 512
    k: int = 12
    n_tokens: int = 1_200_000
    batch_rows: int = 1024
    buffer_rows: int = 65_536
    learning_rate: float = 2e-3
    silent_after: int = 100  # batches without activation after which a latent counts as silent
    silent_weight: float = 0.1
    silent_k: int = 48


@dataclass
class Autoencoder:
    """The weights in training; `threshold` is a running mean, `silent` counts batches since each latent was active."""

    W_enc: Float[Tensor, "width latent"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent width"]
    b_dec: Float[Tensor, " width"]
    silent: Int[Tensor, " latent"]
    threshold: float = 0.0

    @classmethod
    def of(cls, first: Float[Tensor, "row width"], config: SaeTraining) -> Autoencoder:
        """Random unit decoder rows, the encoder their transpose, the bias the rows' mean."""
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.randn(config.d_sae, first.shape[1], generator=generator)
        rows = rows / rows.norm(dim=1, keepdim=True)
        silent = torch.zeros(config.d_sae, dtype=torch.long)
        found = cls(rows.T.clone(), torch.zeros(config.d_sae), rows, first.mean(0), silent)
        for parameter in found.parameters():
            parameter.requires_grad_(True)  # noqa: FBT003
        return found

    def parameters(self) -> list[Tensor]:
        return [self.W_enc, self.b_enc, self.W_dec, self.b_dec]

    def loss(self, x: Float[Tensor, "row width"], config: SaeTraining) -> Float[Tensor, ""]:
        """Unexplained share of the batch's variance, with the share that silent latents leave of the rest."""
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        positive = pre.relu()
        kept, places = positive.flatten().topk(config.k * len(x), sorted=False)
        latents = torch.zeros_like(positive).flatten().scatter(0, places, kept).reshape(positive.shape)
        rest = x - (latents @ self.W_dec + self.b_dec)
        spread = (x - x.mean(0)).square().sum()
        loss = rest.square().sum() / spread
        with torch.no_grad():
            self.silent = torch.where((latents > 0).any(0), 0, self.silent + 1)
            smallest = float(kept[kept > 0].min()) if bool((kept > 0).any()) else 0.0
            self.threshold += 0.01 * (smallest - self.threshold)
            quiet = self.silent > config.silent_after
        if bool(quiet.any()):
            values, where = pre.masked_fill(~quiet, -torch.inf).topk(min(config.silent_k, int(quiet.sum())), dim=1)
            helping = torch.zeros_like(pre).scatter(1, where, values.relu())
            left = rest.detach() - helping @ self.W_dec
            loss = loss + config.silent_weight * left.square().sum() / rest.detach().square().sum()
        return loss

    @torch.no_grad()
    def keep_unit_rows(self) -> None:
        """Decoder rows back to norm 1."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)


def windows(model: LanguageModel, texts: Iterator[DemoDocument]) -> Iterator[Int[Tensor, "batch pos"]]:
    """Endless batches of whole windows: BOS and `CONTEXT - 1` ids of one document."""
    rows: list[list[int]] = []
    for document in texts:
        ids = model.encode(document.text)[0].tolist()
        for start in range(0, len(ids) - CONTEXT + 2, CONTEXT - 1):
            rows.append([int(model.bos_id or 0), *ids[start : start + CONTEXT - 1]])
        while len(rows) >= WINDOWS_AT_ONCE:
            yield torch.tensor(rows[:WINDOWS_AT_ONCE])
            rows = rows[WINDOWS_AT_ONCE:]


def vectors(model: LanguageModel, batch: Int[Tensor, "batch pos"], layer: int) -> Float[Tensor, "row width"]:
    """The residual stream after a block at every position but the first."""
    found: list[Tensor] = []
    hook = place_hook("resid_post", layer)
    with model.hooks([(hook, lambda tensor, hook: found.append(tensor[:, 1:].flatten(0, 1).float()))]):
        model.bridge(batch, stop_at_layer=layer + 1)
    return found[0]


def fit(model: LanguageModel, config: SaeTraining) -> Autoencoder:
    """Train on `n_tokens` rows; each buffer of rows is shuffled."""
    generator = torch.Generator().manual_seed(config.seed)
    batches = windows(model, documents(TEXT_SEED))
    state: Autoencoder | None = None
    seen = 0
    while seen < config.n_tokens:
        wanted = min(config.buffer_rows, config.n_tokens - seen)
        parts: list[Tensor] = []
        while sum(len(part) for part in parts) < wanted:
            parts.append(vectors(model, next(batches), config.layer))
        rows = torch.cat(parts)
        if state is None:
            state = Autoencoder.of(rows, config)
            optimizer = torch.optim.Adam(state.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
        for order in torch.randperm(len(rows), generator=generator).split(config.batch_rows):
            share = min(1.0, seen / config.n_tokens)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(1.0, (1 - share) * 4 + 0.02)
            loss = state.loss(rows[order], config)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state.keep_unit_rows()
            seen += len(order)
        silent = int((state.silent > config.silent_after).sum())
        logger.info("%d rows, loss %.3f, threshold %.3f, %d silent", seen, loss.item(), state.threshold, silent)
    if state is None:
        raise ValueError(f"n_tokens is {config.n_tokens}: there is nothing to train on")
    return state


def save(state: Autoencoder, config: SaeTraining, out: Path) -> None:
    """`cfg.json` and `sae_weights.safetensors` in SAELens's format, float16."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": state.W_enc, "b_enc": state.b_enc, "W_dec": state.W_dec, "b_dec": state.b_dec}
    tensors["threshold"] = torch.full((config.d_sae,), state.threshold)
    halves = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(halves, out / "sae_weights.safetensors")
    settings = {
        "architecture": "jumprelu",
        "d_in": state.W_dec.shape[1],
        "d_sae": config.d_sae,
        "dtype": "float16",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": "autointerp demo model",
            "hook_name": place_hook("resid_post", config.layer),
            "hook_head_index": None,
            "prepend_bos": True,
            "context_size": CONTEXT,
        },
    }
    (out / "cfg.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Quality:
    """What an autoencoder does on held-out text, position 0 left as it is."""

    explained_variance: float
    loss_recovered: float  # against zeros at the hook
    l0: float
    dead: int
    tokens: int


def quality(model: LanguageModel, sae: Sae, n_windows: int) -> Quality:
    """Measured on whole windows of the held-out stream."""
    layer = sae.settings.layer
    batches = list(islice(windows(model, held_out_texts()), max(1, n_windows // WINDOWS_AT_ONCE)))
    x = torch.cat([vectors(model, batch, layer) for batch in batches])
    latents = sae.encode(x)
    rest, spread = (x - sae.decode(latents)).square().sum(), (x - x.mean(0)).square().sum()

    def losses(change: str) -> float:
        def put(tensor: Tensor) -> Tensor:
            new = tensor.clone()
            if change == "zero":
                new[:, 1:] = 0.0
            elif change == "sae":
                new[:, 1:] = sae.reconstruct(tensor[:, 1:].flatten(0, 1)).reshape(new[:, 1:].shape)
            return new

        at: tuple[HookPlace, int] = ("resid_post", layer)
        found = [spliced_losses(model, b, torch.full((len(b),), b.shape[1]), at, put) for b in batches]
        return float(torch.cat(found).mean())

    clean, zero, spliced = (losses(change) for change in ("clean", "zero", "sae"))
    return Quality(
        explained_variance=1 - float(rest / spread),
        loss_recovered=(zero - spliced) / (zero - clean),
        l0=float((latents > 0).float().sum(1).mean()),
        dead=int((~(latents > 0).any(0)).sum()),
        tokens=len(x),
    )


def train(out: Path, config: SaeTraining, n_windows: int = 256) -> Quality:
    """The whole job: weights, `cfg.json` and `training.json` in `out` (created where missing)."""
    began = time.monotonic()
    model, _ = load_model(str(weights_folder()), device="cpu", dtype="float32")
    save(fit(model, config), config, out)
    found = quality(model, load_sae(str(out)), n_windows)
    facts = {
        "config": dataclasses.asdict(config),
        "held_out": {name: round(value, 4) for name, value in dataclasses.asdict(found).items()},
        "wall_seconds": round(time.monotonic() - began),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description="Train the small autoencoder of the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the autoencoder")
    parser.add_argument("--seed", type=int, default=SaeTraining.seed)
    parser.add_argument("--tokens", type=int, default=SaeTraining.n_tokens, help="training rows")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    found = train(options.out, SaeTraining(seed=options.seed, n_tokens=options.tokens))
    logger.info("%s", found)


if __name__ == "__main__":
    main()
