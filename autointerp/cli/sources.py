"""What `demo` and `planted` stand for, as a model and as a corpus."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from autointerp.config import RunConfig

if TYPE_CHECKING:
    from autointerp.pipeline import Sources


def sources_of(config: RunConfig) -> Sources:
    """Where the model and the embedded texts of a config come from. Raises BadInput for `planted:` without a seed."""
    from autointerp.demo.model import weights_folder
    from autointerp.pipeline import Sources
    from autointerp.planted.features import feature_seed_of, load_planted_features
    from autointerp.planted.model import load_planted, seed_of

    texts = partial(_embedded, "planted" if "planted" in config.corpus else "demo")
    seed = seed_of(config.model)
    if seed is not None:
        return Sources(config.model, texts, partial(load_planted, seed))
    seed = feature_seed_of(config.model)
    if seed is not None:
        return Sources(config.model, texts, partial(load_planted_features, seed))
    return Sources(str(weights_folder()) if config.model == "demo" else config.model, texts)


def without_demo_folder(message: str) -> str:
    """An error's message with the embedded model by its name: its folder tells a reader nothing, unless it or a file
    in it cannot be read (`--model FOLDER`, `model 'FOLDER'`, `FOLDER/...`)."""
    from autointerp.demo.model import weights_folder

    folder = re.escape(str(weights_folder()))
    return re.sub(rf"(?<!--model )(?<!['\"]){folder}(?![/\\\w])", "the demo model", message)


def _embedded(name: str) -> Iterable[str]:
    from autointerp.demo.corpus import held_out_texts
    from autointerp.planted.corpus import documents

    return documents() if name == "planted" else (document.text for document in held_out_texts())
