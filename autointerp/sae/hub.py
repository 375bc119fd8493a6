"""A sparse autoencoder from the hub: `hf:REPO` or `hf:REPO:SUBFOLDER`. Only its JSON and safetensors are fetched.

Without a network the library tries for half a minute; files that its cache has need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from autointerp.errors import BadInput

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


def download(spec: str) -> tuple[Path, Path]:
    """(JSON, weights) in the hub's local cache. Raises BadInput where the repository, the files or the network are
    not there."""
    repo, _, folder = spec.removeprefix("hf:").partition(":")
    if not repo.strip("/ "):
        raise BadInput(f"{spec!r} names no repository; write hf:OWNER/NAME or hf:OWNER/NAME:SUBFOLDER.")
    folder = folder.strip("/")
    config = _fetch(spec, repo, str(PurePosixPath(folder, CONFIG)))
    if config is None:
        raise BadInput(f"{spec} has no {CONFIG}. {_advice(_names(spec, repo))}")
    weights = _fetch(spec, repo, str(PurePosixPath(folder, WEIGHTS)))
    if weights is None:
        names = [PurePosixPath(name) for name in _names(spec, repo)]
        found = [name for name in names if name.suffix == ".safetensors" and name.parent == PurePosixPath(folder)]
        found = [name for name in found if name.name != "sparsity.safetensors"]
        weights = _fetch(spec, repo, str(found[0])) if len(found) == 1 else None
    if weights is None:
        raise BadInput(f"{spec} has no {WEIGHTS}, nor one other safetensors file. Only safetensors are read; "
                       "convert a pickle where you trust it.")  # fmt: skip
    return config, weights


def _advice(names: Sequence[str]) -> str:
    folders = sorted(str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == CONFIG)
    if not folders:
        return "No folder of it has one, so it is not in SAELens's format."
    return f"Name one of its folders after a colon: {', '.join(folders[:6])}{' ...' if len(folders) > 6 else ''}."


def _fetch(spec: str, repo: str, name: str) -> Path | None:
    """The file, None where the repository is there without it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name))
    except LocalEntryNotFoundError as error:  # no network, and not in the cache
        raise _unreachable(spec, error) from None
    except EntryNotFoundError:
        return None
    except _failures() as error:
        raise _unreachable(spec, error) from None


def _names(spec: str, repo: str) -> list[str]:
    from huggingface_hub import list_repo_files

    try:
        return list(list_repo_files(repo))
    except _failures() as error:
        raise _unreachable(spec, error) from None


def _failures() -> tuple[type[BaseException], ...]:
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, OSError, ValueError)  # its bases: the errors of whichever HTTP client it uses


def _unreachable(spec: str, error: BaseException) -> BadInput:
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0][:200]}".rstrip(". :")
    return BadInput(f"{spec} cannot be fetched ({reason}). Check the name and the network, or give a local folder.")
