"""All hostile inputs."""

from __future__ import annotations

from dataclasses import replace

from tests.hostile.case import Input
from tests.hostile.files import FILES
from tests.hostile.modules import MODULES
from tests.hostile.registries import REGISTRIES

OPEN = {
    ("adapter", "10^4 patterns"),
    ("graph", "2^40 paths: tree"),
    ("index", "20,000 bad lines"),
    ("index", "20,000 lines of another name"),
    ("index", "20,000 lines of spec 2"),
    ("record", "20,000 of one digest"),
    ("tokenizer", "a template of 10^5"),
    ("tokenizer", "doubling 30 times"),
}
"""Inputs that took longer or told more than they may when they were last run: the benchmark runs
them, and what ends as it should goes from here."""

INPUTS: list[Input] = [
    replace(given, heavy=True) if (given.kind, given.name) in OPEN else given
    for given in (*REGISTRIES, *MODULES, *FILES)
]
KINDS = sorted({given.kind for given in INPUTS})
