"""What a probe study leaves on disk: activations, probes, results.

`activations/NAME.*`, `probes/NAME.*`, `probes.csv` (a line a site), `probes.json` (all results with their controls).
NAME is the site with its space replaced, such as `z_L5H1`.
"""

from __future__ import annotations

import json
from pathlib import Path

from autointerp.model import LanguageModel
from autointerp.model.sites import Site
from autointerp.probing.collection import CollectOptions
from autointerp.probing.items import ProbeSet
from autointerp.probing.results import ProbeResult
from autointerp.probing.saved import ProbeFacts, SavedProbe, final_probe, save_probe
from autointerp.probing.storage import activation_facts, activations_of, model_facts, save_activations
from autointerp.probing.study import Study
from autointerp.probing.tables import sites_table
from autointerp.records import Failure
from autointerp.store.files import write_whole


def site_name(site: Site) -> str:
    return str(site).replace(" ", "_")


def save_study(
    folder: Path,
    study: Study,
    probe_set: ProbeSet,
    model: LanguageModel,
    options: CollectOptions,
    origin: tuple[str, str],
) -> None:
    """Write everything; `origin` is what `--model` and the dataset were given as. A site that failed has no probe."""
    facts = model_facts(model, origin[0])
    for (site, x), result in zip(study.activations.items(), study.results, strict=True):
        about = activation_facts(facts, site, probe_set, study.task, options)
        name = site_name(site)
        save_activations(folder / "activations" / name, activations_of(x, probe_set, study.task, about))
        probe = final_probe(x, study.task)
        if isinstance(result, Failure) or isinstance(probe, Failure):
            continue
        saved = ProbeFacts(
            model=facts,
            site=str(site),
            class_names=study.task.class_names,
            penalty=probe.penalty,
            gradient=probe.gradient,
            balanced=study.task.options.balanced,
            n_items=len(probe_set),
            split=study.task.split,
            seed=study.task.seed,
            dataset=origin[1],
            activations=f"../activations/{name}",
            ablated=any(placed.ablate or placed.cut for placed in probe_set.items),
            result=result,
            sha256="",
        )
        save_probe(folder / "probes" / name, SavedProbe(probe, saved))
    names = [str(site) for site in study.activations]
    write_whole(folder / "probes.csv", sites_table(study.results, names).to_csv().encode("utf-8", "surrogatepass"))
    rows = [_row(name, result) for name, result in zip(names, study.results, strict=True)]
    write_whole(folder / "probes.json", json.dumps(rows, indent=1).encode())


def _row(name: str, result: ProbeResult | Failure) -> dict[str, object]:
    return {"site": name, "failed" if isinstance(result, Failure) else "result": result.model_dump(mode="json")}
