"""All hostile inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.answers import ANSWERS
from tests.hostile.case import Input
from tests.hostile.files import FILES
from tests.hostile.modules import MODULES
from tests.hostile.registries import REGISTRIES
from tests.hostile.sizes import SIZES

GIVEN = [*REGISTRIES, *ANSWERS, *SIZES, *MODULES, *FILES]
LONG = {
    ("bombs", "safetensors: 10^5 tensors of nothing"),
    ("bombs", "shards: 10^5 shards"),
    ("config", "10^6 labels"),
    ("config", "10^7 lists"),
    ("config", "generation: 10^5 bad words"),
    ("graph", "300 beside each other"),
    ("graph", "300 in a row: tree"),
    ("graph", "300 in a row: why"),
}
"""Inputs that end as they should and take over a second: the tests leave them to the benchmark."""

MANY, VERY_MANY = 20, 50
"""From so many inputs of a class on, the tests run every second one, or every third, and the
benchmark all."""


def _all() -> Iterator[Input]:
    counts = Counter(given.kind for given in GIVEN if not given.heavy)
    seen: Counter[str] = Counter()
    for given in GIVEN:
        seen[given.kind] += not given.heavy
        count = counts[given.kind]
        every = 1 + (count > MANY) + (count > VERY_MANY)
        left_out = every > 1 and seen[given.kind] % every != 1
        heavy = given.heavy or left_out or (given.kind, given.name) in LONG
        yield replace(given, heavy=heavy)


INPUTS = [*_all()]
KINDS = sorted({given.kind for given in INPUTS})
TESTED = sorted({given.kind for given in INPUTS if not given.heavy})
"""The kinds of which the tests run some, too."""
