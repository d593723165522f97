"""A registry, or a thief of its online keys, wants the time or the memory of its readers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modpkg.core import bounds
from modpkg.trust import metadata
from modpkg.trust.fetched_metadata import FetchedMetadata
from modpkg.trust.metadata import (
    BinKeys,
    MetadataSignature,
    ReadMetadata,
    RoleKeys,
    canonical,
    check_signed,
    metadata_key,
)
from modpkg.trust.private_key import PrivateKey
from tests.raising import raises
from tests.trust.signed_registry import BITS, HostileSource, SignedRegistry, key, read
from tests.trust.test_signed_index import show_named, signed_by


@pytest.fixture
def registry(tmp_path: Path) -> SignedRegistry:
    return SignedRegistry(tmp_path / "registry")


@pytest.fixture
def server(registry: SignedRegistry) -> HostileSource:
    return HostileSource(registry.folder)


def other_key(number: int) -> PrivateKey:
    seed = hashlib.sha256(b"%d" % number).digest()
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(seed))


@pytest.mark.parametrize("is_canonical", [True, False])
def test_wrong_signatures_have_nothing_written_in_canonical_form_again(
    monkeypatch: pytest.MonkeyPatch, *, is_canonical: bool
) -> None:
    made: list[object] = []
    signed = {"b": 1, "a": 2}
    data = canonical(signed) if is_canonical else msgspec.json.encode(signed)
    others = [metadata_key(other_key(number).public) for number in range(15)]
    keyid, own = metadata_key(key(9).public)
    signatures = [MetadataSignature(one, "00" * 64) for one, _ in others]
    right = MetadataSignature(keyid, key(9).sign(canonical(signed)).hex())
    role = RoleKeys([*(one for one, _ in others), keyid], 1)
    keys = {**dict(others), keyid: own}

    def counted(document: object) -> bytes:
        made.append(document)
        return canonical(document)

    monkeypatch.setattr(metadata, "canonical", counted)
    check_signed(ReadMetadata(None, data, [*signatures, right]), role, keys, "a bin")
    assert len(made) == (0 if is_canonical else 1)
    with raises("M560", match="0 of 1"):
        check_signed(ReadMetadata(None, data, signatures), role, keys, "a bin")


def test_more_signatures_than_servers_make_are_refused(
    registry: SignedRegistry, server: HostileSource
) -> None:
    path = registry.folder / "tuf" / "timestamp.json"
    document = msgspec.json.decode(path.read_bytes())
    document["signatures"] += [
        {"keyid": f"{number:064x}", "sig": "00" * 64} for number in range(16)
    ]
    server.shown["tuf/timestamp.json"] = msgspec.json.encode(document)
    with raises("M565", match="over 16 signatures"):
        read(server, registry.clock)


def test_a_bin_of_files_without_digests_is_refused(
    registry: SignedRegistry, server: HostileSource
) -> None:
    keys = BinKeys([], 1, BITS)
    name = f"1.{keys.name('index/words.jsonl')}.json"
    empty = {f"{number:x}": 0 for number in range(2000)}
    made = signed_by(9, registry.folder / "tuf" / name, targets=empty)
    show_named(registry, server, f"tuf/{name}", made)
    with raises("M565", match="without their digests"):
        read(server, registry.clock)


def test_bins_of_one_command_are_bounded(
    registry: SignedRegistry, server: HostileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(server, registry.clock) == b""
    monkeypatch.setattr(bounds, "TUF_BINS_BYTES", 100)
    with raises("M565", match="its bins have over 100 B"):
        read(server, registry.clock)


def test_what_is_fetched_ahead_is_kept_up_to_a_bound(
    registry: SignedRegistry, server: HostileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "TUF_AHEAD_BYTES", 250)
    names = [f"{number}.index-0.json" for number in range(4)]
    server.shown = {f"tuf/{name}": b"x" * 100 for name in names}
    ahead = FetchedMetadata(server)
    ahead.fetch([(name, 1000) for name in names])
    assert sum(map(ahead.has, names)) == 2
    assert [ahead.read(name, 1000) for name in names] == [b"x" * 100] * 4
