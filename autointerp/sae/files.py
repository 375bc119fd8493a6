"""Where the weights and the JSON of a sparse autoencoder lie: a folder, a file, or a hub repository."""

from __future__ import annotations

from pathlib import Path

from autointerp.errors import BadInput
from autointerp.sae.autoencoder import Sae
from autointerp.sae.hub import download
from autointerp.sae.settings import read_settings
from autointerp.sae.weights import read_sae

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npz", ".npy", ".joblib")
_NOT_WEIGHTS = ("sparsity.safetensors", "runner_cfg.safetensors", "activation_scaler.safetensors")


def load_sae(spec: str) -> Sae:
    """The autoencoder that `spec` names: a folder with `cfg.json` and `sae_weights.safetensors` (SAELens), a
    safetensors file with a JSON of the same stem or a `cfg.json` beside it, or `hf:REPO[:SUBFOLDER]`.

    Raises BadInput for anything missing, unreadable, misshapen or not supported.
    """
    if spec.startswith("hf:"):
        config, weights = download(spec)
    else:
        config, weights = _locate(spec)
    return read_sae(weights, read_settings(config))


def _locate(spec: str) -> tuple[Path, Path]:
    """(JSON, weights) of a local SAE."""
    path = Path(spec).expanduser()
    if not spec.strip() or not path.exists():
        raise BadInput(f"the SAE {spec!r} is not there: no such folder or file. Check the path, or write hf:REPO.")
    if path.is_dir():
        return _in_folder(path)
    _refuse_pickle(path)
    if path.suffix != ".safetensors":
        raise BadInput(f"{path} is no safetensors file. Give the folder of an SAE, or its .safetensors file.")
    beside = _json_beside(path)
    if beside is not None:
        return beside, path
    raise BadInput(f"{path} has no JSON beside it ({path.stem}.json or {CONFIG}) that names its hook point and "
                   "activation. Write one.")  # fmt: skip


def _in_folder(path: Path) -> tuple[Path, Path]:
    weights = [path / WEIGHTS] if (path / WEIGHTS).is_file() else _weights_in(path)
    if not weights:
        for file in sorted(path.iterdir()):
            _refuse_pickle(file)
        raise BadInput(f"{path} has no {WEIGHTS}. Give the folder that SAELens wrote, or a safetensors file.")
    if len(weights) > 1:
        names = ", ".join(file.name for file in weights[:5])
        raise BadInput(f"{path} has several safetensors files ({names}) and none is {WEIGHTS}. Name one of them.")
    config = _json_beside(weights[0])
    if config is not None:
        return config, weights[0]
    raise BadInput(f"{path} has no {CONFIG} beside {weights[0].name}. Copy it there, or write one.")


def _json_beside(weights: Path) -> Path | None:
    """The JSON of the same stem, `cfg.json`, or the only one in the folder."""
    for file in (weights.with_suffix(".json"), weights.parent / CONFIG):
        if file.is_file():
            return file
    others = sorted(weights.parent.glob("*.json"))
    return others[0] if len(others) == 1 else None


def _weights_in(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.safetensors") if file.name not in _NOT_WEIGHTS)


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise BadInput(f"{path} is a {path.suffix} file, which can run code when it is opened; it was not opened. "
                       "Convert it to safetensors where you trust it.")  # fmt: skip
