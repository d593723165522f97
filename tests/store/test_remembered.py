"""Results of slow checks are computed once for the same inputs, and whenever in doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.core.home import store_folder
from modpkg.store import remembered as module
from modpkg.store.remembered import remembered

INPUTS = ["doubled 1", {"a": 1}]


@pytest.fixture
def calls(home: Path) -> list[int]:
    return []


def doubled(calls: list[int], inputs: object = INPUTS, number: int = 2) -> tuple[int, ...]:
    def compute() -> tuple[int, ...]:
        calls.append(number)
        return (number, number)

    return remembered(inputs, tuple[int, ...], compute)


def test_the_same_is_computed_once(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert doubled(calls) == doubled(calls, number=9) == (2, 2)
    assert calls == [2]
    assert doubled(calls, [*INPUTS, 0], 3) == (3, 3)
    monkeypatch.setattr(module, "version", lambda package: "9")
    assert doubled(calls, number=4) == (4, 4)
    assert calls == [2, 3, 4]


@pytest.mark.parametrize("damage", ["text", "value", "kind", "missing"])
def test_what_is_damaged_is_computed_again(calls: list[int], damage: str) -> None:
    doubled(calls)
    (path,) = (path for path in (store_folder() / "tested").rglob("*") if path.is_file())
    data = path.read_bytes()
    path.unlink()
    if damage == "text":
        path.write_bytes(b"{")
    elif damage == "value":
        path.write_bytes(data.replace(b"[2,2]", b"[2,3]"))
    if damage == "kind":
        path.write_bytes(data)
        assert remembered(INPUTS, str, lambda: "other") == "other"
    else:
        assert doubled(calls, number=5) == (5, 5)


def test_errors_are_not_remembered_and_nothing_needs_the_store(
    calls: list[int], home: Path
) -> None:
    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        remembered(INPUTS, None, fail)
    (home / "store").mkdir(parents=True, exist_ok=True)
    (home / "store" / "tested").write_bytes(b"in the way")
    assert doubled(calls, number=6) == (6, 6)
    assert doubled(calls, number=7) == (7, 7)
