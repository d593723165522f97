"""Removing releases from an object store, where nothing keeps publishers out; advisories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.progress import Progress
from modpkg.registry import removing
from modpkg.registry.advisories import add_advisories, read_advisories
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.removing import remove_release
from modpkg.registry.writer import RegistryWriter
from registry_spec.check import check
from tests.changing import a_little, numbers, write
from tests.raising import raises
from tests.registry.proxy import FaultyProxy
from tests.registry.s3 import running_s3, use_s3
from tests.registry.test_advisories import INTRODUCED, document
from tests.registry.test_bucket import built


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    with running_s3() as url, FaultyProxy(url) as proxy:
        use_s3(monkeypatch, proxy.url)
        proxy.request("PUT", "/bucket")
        yield open_place("s3://bucket/models")


def test_removing_from_a_bucket(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = numbers("a", "b", "c")
    writer = RegistryWriter(place, "models")
    for name, version, values in (
        ("m", "1.0", tensors),
        ("m", "1.1", a_little(tensors, "b")),
        ("n", "1.0", numbers("x")),
    ):
        writer.publish(*built(write(tmp_path / f"{name}{version}", values, name, version), place))
    done = remove_release(writer, "m", "1.0", "leaked", Progress())
    assert done.shared > 0  # the first pack: the later release refers to it
    registry = registry_at(place)
    assert registry.line("m", "1.0").removed == "leaked"
    assert check("s3://bucket/models").problems == []

    original: Any = removing.named_blobs

    def meanwhile(at: Place, progress: Progress) -> set[str]:
        """Return what is named; then somebody publishes what is about to be removed."""
        found: set[str] = original(at, progress)
        monkeypatch.setattr(removing, "named_blobs", original)
        again = write(tmp_path / "copy", numbers("x"), "copy", "1.0")
        RegistryWriter(at).publish(*built(again, at))
        return found

    monkeypatch.setattr(removing, "named_blobs", meanwhile)
    with raises("M486", match="published a release"):
        remove_release(writer, "n", None, "leaked", Progress())
    assert registry_at(place).line("n", "1.0").removed == "leaked"
    assert check("s3://bucket/models").problems != []  # which verify tells, too


def test_advisories_of_a_bucket(place: Place, tmp_path: Path) -> None:
    RegistryWriter(place, "models").publish(
        *built(write(tmp_path / "m", numbers("a"), "lib"), place)
    )
    text = json.dumps(document(INTRODUCED)).encode()
    assert len(add_advisories(place, [("a", text)])) == 1
    assert add_advisories(place, [("a", text)]) == []
    found = read_advisories(Registry("s3://bucket/models"), {"lib"})
    assert [one.id for one in found or ()] == ["ACME-2026-0001"]
