"""From a model specification to a proved `LanguageModel`: hub name, local folder, or a Python callable."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from autointerp.errors import BadInput, ModelError
from autointerp.model.instrument import InstrumentReport, prove
from autointerp.model.language_model import LanguageModel
from autointerp.model.pieces import token_strings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tekken.json")


def load_model(spec: str, device: str = "auto", dtype: str = "auto") -> tuple[LanguageModel, InstrumentReport]:
    """Boot `spec` and prove the instrument.

    `spec`: a hub name, a local HuggingFace folder, or `file.py:callable` / `package.module:callable` returning a
    `TransformerBridge`. `device` auto: cuda if present, else cpu. `dtype` auto: bfloat16 on a GPU, float32 on a CPU.
    Raises BadInput for a specification that names nothing, ModelError for a model that cannot be trusted.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    with quiet():
        bridge, revision = _boot(spec, place, kind)
    for parameter in bridge.original_model.parameters():
        parameter.requires_grad_(False)  # noqa: FBT003
    return wrap_bridge(bridge, spec, revision)


def wrap_bridge(bridge: Any, name: str, revision: str = "") -> tuple[LanguageModel, InstrumentReport]:
    """A `TransformerBridge` as a proved `LanguageModel`, with its BOS rule. Raises ModelError."""
    bridge.original_model.eval()
    tokenizer = bridge.tokenizer
    if tokenizer is None:
        raise ModelError(f"{name} has no tokenizer. Give the bridge one, or add tokenizer files to the folder.")
    size = int(bridge.W_E.shape[0])
    return prove(LanguageModel(bridge, tokenizer, name, revision, token_strings(tokenizer, size), _bos(bridge, size)))


def random_twin(model: LanguageModel, seed: int) -> LanguageModel:
    """The same architecture with freshly initialised weights: the null of every detector.

    The initialisation is the architecture's own (its class called on its config), drawn under `seed` without
    touching the global generator.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel

    original = model.bridge.original_model
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(original, PreTrainedModel):
            fresh = type(original)(original.config)
            fresh.eval().to(device=model.device, dtype=model.dtype)
            bridge = TransformerBridge.boot_transformers(
                "random/twin", hf_model=fresh, tokenizer=model.tokenizer, device=str(model.device), dtype=model.dtype
            )
        else:
            bridge = _redrawn(model.bridge)
    bridge.original_model.eval()
    twin = LanguageModel(bridge, model.tokenizer, f"random weights like {model.name}", "", model.strings, model.bos_id)
    return prove(twin)[0]


def _redrawn(bridge: Any) -> Any:
    """A copy of a bridge without a HuggingFace config (`boot_native`): matrices normal with standard deviation
    0.02, vectors as they are."""
    twin = copy.deepcopy(bridge)
    with torch.no_grad():
        for parameter in twin.original_model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.02)
    return twin


def choose_device(device: str) -> str:
    """The device that `--device` means. Raises BadInput for one that cannot be used."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {device} cannot be used here ({str(error).splitlines()[0]}). Use cpu.") from None
    return device


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype that `--dtype` means on a device. Raises BadInput for an unknown one."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise BadInput(f"--dtype {dtype} is unknown. Use one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _boot(spec: str, device: str, dtype: torch.dtype) -> tuple[Any, str]:
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return _boot_folder(path.resolve(), device, dtype)
    if ":" in spec:
        return _boot_callable(spec), "callable"
    if path.exists() or spec.startswith((".", "/", "~")) or not spec:
        raise BadInput(f"--model {spec!r} is not a folder with a HuggingFace model. Check the path.")
    return _boot_hub(spec, device, dtype)


def _boot_folder(path: Path, device: str, dtype: torch.dtype) -> tuple[Any, str]:
    if not (path / "config.json").is_file():
        raise BadInput(f"--model {path} has no config.json, so it is no HuggingFace model folder. Check the path.")
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise BadInput(f"--model {path} has no tokenizer files ({', '.join(TOKENIZER_FILES)}). Copy them there.")
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise BadInput(f"--model {path} has no weights (*.safetensors or *.bin). Copy them there.")
    return _bridge(str(path), device, dtype), _folder_revision(path)


def _folder_revision(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.bin")]):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return "sha256:" + digest.hexdigest()[:16]


def _boot_hub(name: str, device: str, dtype: torch.dtype) -> tuple[Any, str]:
    bridge = _bridge(name, device, dtype)
    return bridge, str(getattr(bridge.original_model.config, "_commit_hash", None) or "unknown")


def _bridge(name: str, device: str, dtype: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with _missing_weights() as missing:
            bridge = TransformerBridge.boot_transformers(name, device=device, dtype=dtype)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {name!r} could not be loaded: {first[:300]} Check the name and the network, or give a local folder."
        ) from error
    if missing:
        raise ModelError(
            f"the weights of {name!r} lack {len(missing)} tensors that its config.json asks for "
            f"({', '.join(sorted(missing)[:3])}); they would be random numbers. Get the complete weights."
        )
    return bridge


@contextlib.contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """Names of tensors that a checkpoint loaded inside the block lacks. transformers fills them with random numbers
    and only logs it, and its caller here does not hand on `output_loading_info`: so its report is read on the way."""
    from transformers import modeling_utils

    missing: list[str] = []
    report = modeling_utils.log_state_dict_report

    def reading(*args: Any, loading_info: Any, **kwargs: Any) -> None:
        missing.extend(loading_info.missing_keys)
        report(*args, loading_info=loading_info, **kwargs)

    modeling_utils.log_state_dict_report = reading
    try:
        yield missing
    finally:
        modeling_utils.log_state_dict_report = report


def _boot_callable(spec: str) -> Any:
    place, _, name = spec.rpartition(":")
    try:
        module = _import(place)
    except (ImportError, FileNotFoundError, SyntaxError, ValueError, TypeError) as error:
        raise BadInput(f"--model {spec}: {place!r} cannot be imported ({error}). Check the path.") from error
    build = getattr(module, name, None)
    if not callable(build):
        raise BadInput(f"--model {spec}: {place} has no callable {name!r}. Name a function that returns a bridge.")
    bridge = build()
    if not hasattr(bridge, "blocks") or not hasattr(bridge, "original_model"):
        raise BadInput(
            f"--model {spec} returned a {type(bridge).__name__}, not a TransformerBridge. "
            "Return TransformerBridge.boot_transformers(...) or boot_native(...)."
        )
    return bridge


def _import(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).expanduser().resolve()
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None or not path.is_file():
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _bos(bridge: Any, size: int) -> int | None:
    """BOS is fed where the architecture's default says so and the tokenizer has one inside the embedding."""
    wanted = bool(getattr(bridge.cfg, "default_prepend_bos", True))
    bos = bridge.tokenizer.bos_token_id
    return int(bos) if wanted and bos is not None and 0 <= int(bos) < size else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Progress bars and advice of the libraries would drown our own lines."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("transformer_lens").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
