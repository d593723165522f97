"""Signing the index of a bucket, whose writers no lock keeps apart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modpkg.core import bounds
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place, RegistryChange
from modpkg.registry.source import FileMissing
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.root_metadata import name_root, new_root, signed_root, write_root
from modpkg.trust.signed_index import SignedIndex
from modpkg.trust.signing_place import SigningPlace
from tests.registry.s3 import running_s3, use_s3
from tests.trust.signed_registry import DAY, Clock, key


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A signed registry in a bucket."""
    use_s3(monkeypatch, s3_url)
    httpx.post(f"{s3_url}/moto-api/reset", trust_env=False, timeout=120)
    httpx.put(f"{s3_url}/bucket", trust_env=False, timeout=120)
    place = open_place("s3://bucket/models")
    place.prepare("test")
    root = new_root(1, [key(1).public], 1, key(9).public, Clock()() + 365 * DAY)
    data = signed_root(root, [key(1)], None)
    write_root(place, data, None)
    name_root(place, data)
    MetadataWriter(place, [key(9)], now=Clock()).sign_all(bits=1)
    return place


def read(place: Place, name: str, folder: Path) -> bytes | None:
    """Return an index file as a reader verifies it."""

    def file(path: str) -> bytes | None:
        try:
            return place.source.read(path)
        except FileMissing:
            return None

    path, source = f"index/{name}.jsonl", place.source
    signed = SignedIndex(source, source, lambda: file("registry.json"), folder=folder, now=Clock())
    return signed.checked(path, file(path), lambda: file(path))


def test_writers_at_once_sign_what_each_has_written(bucket: Place, tmp_path: Path) -> None:
    """Of one name, and of several in one bin; each is another server with the same key."""

    def add(number: int) -> None:
        name = f"m{number % 2}"

        def edit(change: RegistryChange) -> None:
            before = change.read(f"index/{name}.jsonl", bounds.INDEX_BYTES) or b""
            change.replace(f"index/{name}.jsonl", before + b"%d\n" % number)

        writer = MetadataWriter(bucket, [key(9)], now=Clock())
        SigningPlace(bucket, writer).change(edit)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(6)))
    for name, numbers in (("m0", {b"0", b"2", b"4"}), ("m1", {b"1", b"3", b"5"})):
        assert set((read(bucket, name, tmp_path / "memory") or b"").split()) == numbers
    assert MetadataWriter(bucket, [key(9)], now=Clock()).renew(thoroughly=True) == []
    for name in ("m0", "m1"):
        assert len(read(bucket, name, tmp_path / "memory") or b"") == 6
