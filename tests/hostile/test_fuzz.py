"""A short part of `benchmarks/fuzz.py`, with fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.fuzzing import TARGETS, corpus, fuzz

COUNT = 500


@pytest.mark.parametrize("name", TARGETS)
def test_what_reads_bytes_of_others_ends_with_a_code(name: str) -> None:
    found = fuzz(name, COUNT, seed=1)
    assert not found, "".join(f"{error!r}: {data[:500]!r}\n" for data, error in found[:5])


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_to_begin_with_is_read(name: str, tmp_path: Path) -> None:
    """Mutations of what is refused at once would try little."""
    TARGETS[name].run(corpus(name)[0], tmp_path)
