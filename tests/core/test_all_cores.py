"""Work that is spread over all cores has its results in order."""

from __future__ import annotations

import threading

import pytest

from modpkg.core import all_cores
from modpkg.core.all_cores import on_all_cores


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("scale", [0, 1, 1 << 12, 1 << 20])
def test_results_are_in_order(cores: int, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_cores.system, "available_cores", lambda: cores)
    items = [7, 300, 2, 2, 9_000, 1, 40]
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return -item

    assert on_all_cores(work, items, lambda item: item * scale) == [-item for item in items]
    assert sorted(begun) == sorted(items)
    assert (begun == items) == (cores == 1 or scale < 1 << 12)
    assert on_all_cores(work, [], lambda item: item) == []


def test_an_error_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_cores.system, "available_cores", lambda: 2)
    threads = {*threading.enumerate()}

    def work(item: int) -> int:
        if item == 3:
            raise LookupError(item)
        return item

    with pytest.raises(LookupError):
        on_all_cores(work, list(range(9)), lambda item: 1 << 25)
    assert {*threading.enumerate()} <= threads
