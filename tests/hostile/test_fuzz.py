"""A short part of `benchmarks/fuzz.py`, with fixed seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.fuzzing import TARGETS, corpus, fuzz

COUNT = 200
FOUND = {
    "lock": [b"spec = " + b"9" * 5000],
    "adapter": [
        b'{"config": {"peft_type": "PROMPT_TUNING", "task_type": [1]},'
        b' "tensors": {"prompt_embeddings": ["F32", 4, 4]}}'
    ],
    "mergekit": [
        b"merge_method: passthrough\nslices: [a]",
        b"merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: 5}]}]",
        b"merge_method: [ties]",
        b"merge_method: linear\nmodels: [{model: a, parameters: 1}]",
        b"merge_method: linear\nmodels: [{model: a, parameters: {weight: [{value: 1}, 2]}}]",
        b"merge_method: linear\nmodels: [{model: a, parameters: {weight: 1979-05-27}}]",
        b"merge_method: linear\nmodels: [{model: a, parameters: {1: 2}}]",
        b"merge_method: linear\nmodels: [{model: a, parameters: {weight: &a [*a]}}]",
        b"merge_method: linear\ndtype: [a]\nmodels: [{model: a, parameters: {weight: 1}}]",
        b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (n, n, b", ".join([b"*%c" % (n - 1)] * 10))
                   for n in range(ord("b"), ord("k"))),
        b"base_model: a\nexperts: [{source_model: b}]\ngate_mode: [x]",
    ],
}  # fmt: skip
"""Inputs that longer runs found at fault, and their like."""


@pytest.mark.parametrize("name", TARGETS)
def test_what_reads_bytes_of_others_ends_with_a_code(name: str) -> None:
    found = fuzz(name, COUNT, seed=1)
    assert not found, "".join(f"{error!r}: {data[:500]!r}\n" for data, error in found[:5])


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_to_begin_with_is_read(name: str, tmp_path: Path) -> None:
    """Mutations of what is refused at once would try little."""
    TARGETS[name].run(corpus(name)[0], tmp_path)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_at_fault_is_mended(name: str, tmp_path: Path) -> None:
    for data in FOUND[name]:
        assert TARGETS[name].fault(data, tmp_path) is None, data
