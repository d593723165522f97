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
OPEN = {
    ("adapter", "10^4 patterns"),
    ("config", "10^8 labels"),
    ("transport", "1xx without an end at /index/"),
}
"""Inputs that took longer or told more than they may when they were last run: the benchmark runs
them, and what ends as it should goes from here."""

MANY = 20
"""From so many inputs of a class on, the tests run every second one, and the benchmark all."""


def _all() -> Iterator[Input]:
    counts = Counter(given.kind for given in GIVEN if not given.heavy)
    seen: Counter[str] = Counter()
    for given in GIVEN:
        seen[given.kind] += not given.heavy
        every_second = counts[given.kind] > MANY and seen[given.kind] % 2 == 0
        heavy = given.heavy or every_second or (given.kind, given.name) in OPEN
        yield replace(given, heavy=heavy)


INPUTS = [*_all()]
KINDS = sorted({given.kind for given in INPUTS})
TESTED = sorted({given.kind for given in INPUTS if not given.heavy})
"""The kinds of which the tests run some, too."""
