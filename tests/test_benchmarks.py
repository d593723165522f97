"""Benchmarks are run by hand; that what they import exists is checked here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

BENCHMARKS = sorted(
    path.stem
    for path in Path(__file__).parents[1].glob("benchmarks/*.py")
    if path.stem not in ("__init__", "__main__")
)
PEERS = (
    *("fastcdc", "fastcdc.fastcdc_cy"),
    *("mergekit", "mergekit.config", "mergekit.merge", "mergekit.moe", "mergekit.moe.config"),
    *("mergekit.options", "mergekit.scripts", "mergekit.scripts.moe"),
)
"""Installed by whoever compares with them; imported at the top of a benchmark."""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for peer in PEERS:
        monkeypatch.setitem(sys.modules, peer, MagicMock())
    assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_there_are_benchmarks() -> None:
    assert len(BENCHMARKS) > 15
