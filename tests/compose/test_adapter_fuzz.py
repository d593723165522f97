"""A part of the random adapter configurations of `benchmarks.adapter_fuzz`."""

from __future__ import annotations

import pytest

from benchmarks.adapter_fuzz import run

pytestmark = pytest.mark.filterwarnings("ignore")


def test_random_adapter_configurations_are_equal_or_refused() -> None:
    outcomes = run(25, 1)
    assert sum(count for (_, outcome), count in outcomes.items() if outcome == "equal") >= 5
