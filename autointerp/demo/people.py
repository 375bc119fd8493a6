"""Proper names of the demo corpus: single-token first names, and the fictional entities with their facts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

FIRST_NAMES: tuple[str, ...] = tuple(
    """Anna Mark Lucy Tom Emma Jack Sara Paul Mary John Kate Peter Alice Simon Laura David Helen James Nina
    Oscar Clara Henry Julia Victor Marta Felix Irene Hugo Diana Leo Sofia Adam Ruth Carl Elena Martin Nora
    Bruno Stella Walter Ivy Edgar Paula Frank Greta Ralph Tina Philip Rosa Samuel Vera Oliver Wendy George
    Molly Albert Jane Robert Sally Arthur Linda Dennis Karen Louis Betty Roger Monica Stefan Judith Conrad
    Agnes Morris""".split()
)
"""First names used in two-person sentences; the tokenizer keeps each one whole, with and without a space."""

_GIVEN = """Orla Tamsin Corwin Ysolde Bertram Lenka Dorian Mirela Osric Petra Ansel Fenna Jorik Wilma Casper
Thea Roland Imke Gideon Nessa Alden Brisa Tobias Edda Lorenz Saskia Marek Hester Rowena Silas""".split()
_SURNAMES = """Vennick Hale Drake Marr Quill Sorrel Pike Lund Crewe Holt Stane Croft Voss Brand Fisk Kessel
Webb Dunn Vane Thorn""".split()
_PERSONS = tuple(f"{given} {_SURNAMES[(3 * n + 7 * k) % 20]}" for k in range(2) for n, given in enumerate(_GIVEN))
_PLACES = """Tarn Hollow|Port Ellory|Upper Brenwick|Lake Morrow|Saint Calder|Cape Wessel|North Hallam
Fort Denby|Mount Sable|Little Orrin|Castle Vare|New Tilbrook|East Garrow|Long Pellam|Black Fenton|High Marlow
Glen Tavish|West Ordley|Bay Corvin|Old Stannet|Lower Kelso|Red Harbour|Cold Spring|Green Lannock|South Dunmore
Stone Haven|River Alden|White Cross|Grand Mesa|Isle Tarro|Low Barrow|King Solten|Queen Marren|Silver Reach
Dun Carrick|Ash Valley|Pine Landing|Salt Marrick|Crow Point|Elm Bridge|Iron Gate|Moss Side|Nether Wold
Oak Ferris|Quarry Bank|Raven Cliff|Sand Ferry|Thorn Abbey|Vale Rennet|Wolf Creek"""
_BRANDS = """Calder Nimbus Harrow Orbit Delta Merle Union Vesper Polar Summit Anchor Beacon Cobalt Dorset
Ember Falcon Granite Hollis Indigo Juniper Keystone Lattice Mistral Northern Onyx Pioneer Quartz Regent
Sterling Tidal Umber Vector Willow Zenith Argent Boreal Crest Drummond Gannet Heron Kestrel Meridian Nova
Osprey""".split()
_TRADES = "Foundry Freight Press Motors Timber Foods Rail Mining Tools Paints Optics".split()
_FIRMS = tuple(f"{brand} {_TRADES[(n * 5 + n // 11) % 11]}" for n, brand in enumerate(_BRANDS))

EntityClass = Literal["person", "town", "firm"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A fictional entity; its `role`, `home` and `goods` never change (empty where it has none)."""

    entity_id: str
    mention: str
    kind: EntityClass
    role: str
    home: str
    goods: str


_ROLE_FACTS = "mayor judge pilot surgeon poet engineer captain baker weaver reporter lawyer painter".split()
_GOODS_FACTS = "ropes tiles sails engines candles stoves lenses barrels cables plums boots lamps ribbons".split()


def _split(block: str) -> tuple[str, ...]:
    return tuple(re.split(r"[|\n]", block))


def _entities() -> tuple[Entity, ...]:
    towns = _split(_PLACES)
    blocks: tuple[tuple[EntityClass, tuple[str, ...]], ...] = (
        ("person", _PERSONS),
        ("town", towns),
        ("firm", _FIRMS),
    )
    return tuple(
        Entity(
            entity_id=f"{kind}:{mention.lower().replace(' ', '-')}",
            mention=mention,
            kind=kind,
            role=_ROLE_FACTS[index * 5 % len(_ROLE_FACTS)] if kind == "person" else "",
            home="" if kind == "town" else towns[(index * 7 + len(kind)) % len(towns)],
            goods="" if kind == "person" else _GOODS_FACTS[index * 5 % len(_GOODS_FACTS)],
        )
        for kind, mentions in blocks
        for index, mention in enumerate(mentions)
    )


ENTITIES: tuple[Entity, ...] = _entities()
"""All fictional persons, towns and firms; every mention is two capitalised words."""

BY_MENTION: dict[str, Entity] = {entity.mention: entity for entity in ENTITIES}
