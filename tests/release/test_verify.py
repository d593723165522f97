"""A release that came from outside: every claim of its record is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from modpkg.core.errors import IntegrityError, RecordError
from modpkg.core.records import Provenance, ReleaseRecord, TensorEntry, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from modpkg.release.verify import check_record, verify_release
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.raising import raises

WEIGHTS = safetensors_bytes(
    {"b": ("F32", [2], bytes(range(8))), "a": ("BF16", [1, 2], b"\x01\x02\x03\x04")}
)


@pytest.fixture
def built(tmp_path: Path) -> tuple[ReleaseRecord, BlobTree]:
    folder = write_module(
        tmp_path / "m", "m", kind="base", files={"model.safetensors": WEIGHTS, "config.json": b"{}"}
    )
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    return build(manifest, manifest.module, folder / "dist").record, BlobTree(folder / "dist")


def changed(record: ReleaseRecord, path: str, value: Any) -> ReleaseRecord:
    """Return the record with one value replaced, without any check."""
    raw = msgspec.to_builtins(record)
    *way, last = path.split("/")
    place = raw
    for key in way:
        place = place[key]
    place[last] = value
    return msgspec.convert(raw, ReleaseRecord)


def test_a_valid_release_passes(built: tuple[ReleaseRecord, BlobTree]) -> None:
    record, tree = built
    verify_release(record, tree.path)
    assert record.tensors["a"].shape == [1, 2]
    assert list(record.packs.values()) == [12 + record.tensors["b"].offset]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("spec", 9, "update modpkg"),
        ("name", "M", "not in normal form"),
        ("version", "one", "not a version"),
        ("requires", ["a @ http://x"], "not a requirement"),
        ("files", {"../x": {"digest": "sha256:" + "0" * 64, "size": 1}}, "stay inside"),
        ("files", {"/etc/x": {"digest": "sha256:" + "0" * 64, "size": 1}}, "absolute"),
        ("files", {"run.py": {"digest": "sha256:" + "0" * 64, "size": 1}}, "only data"),
        (
            "files",
            {n: {"digest": "sha256:" + "0" * 64, "size": 1} for n in ("a.txt", "A.txt")},
            "differ only by case",
        ),
        ("tensors/a/offset", 10**12, "outside of its pack"),
        ("tensors/a/pack", "sha256:" + "1" * 64, "not listed"),
        ("tensors/a/dtype", "PY", "unknown dtype"),
    ],
)
def test_an_inconsistent_record_is_refused(
    built: tuple[ReleaseRecord, BlobTree], path: str, value: Any, sentence: str
) -> None:
    with raises("M209", match=sentence):
        check_record(changed(built[0], path, value))


@pytest.mark.parametrize("count", [2000, 20])
def test_one_tensor_under_very_many_names_is_refused(count: int) -> None:
    """A folder that is written of the release has each of them."""
    pack, extent = "sha256:" + "1" * 64, 3_000_000
    entry = TensorEntry("F32", [extent], "sha256:" + "2" * 64, pack, 8, 4 * extent)
    raw: Any = {"built_with": "1"}
    record = ReleaseRecord(
        name="m",
        version="1.0",
        kind="base",
        license="MIT",
        manifest={},
        packs={pack: 8 + 4 * extent},
        tensors={f"t{number}": entry for number in range(count)},
        provenance=msgspec.convert(raw, Provenance),
    )
    if count == 20:  # 240 MB of zeros, say
        check_record(record)
    else:
        with raises("M209", match="2000 tensors are 24000000000 bytes, of which 12000000 differ"):
            check_record(record)


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("tensors/a/digest", "sha256:" + "1" * 64, IntegrityError),
        ("tensors/a/shape", [2, 1], RecordError),
        ("tensors/a/dtype", "F16", RecordError),
        ("tensors/a/offset", 100, RecordError),
        ("tensors/a/length", 2, RecordError),
    ],
)
def test_a_tensor_table_that_does_not_match_its_pack_is_refused(
    built: tuple[ReleaseRecord, BlobTree], path: str, value: Any, error: type[Exception]
) -> None:
    record, tree = built
    with pytest.raises(error):
        verify_release(changed(record, path, value), tree.path)


@pytest.mark.parametrize("length", [0, 7, 50])
def test_a_truncated_pack_is_refused(built: tuple[ReleaseRecord, BlobTree], length: int) -> None:
    record, tree = built
    path = tree.path(next(iter(record.packs)))  # type: ignore[arg-type]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:length])
    with raises("M201"):
        verify_release(record, tree.path)


def test_a_damaged_build_is_not_published(built: tuple[ReleaseRecord, BlobTree]) -> None:
    record, tree = built
    path = tree.path(next(iter(record.packs)))  # type: ignore[arg-type]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    reader = Registry(str(tree.root))
    registry = tree.root.parent / "registry"
    with raises("M305", match="tampered"):
        RegistryWriter(registry).publish(reader, reader.line("m", "1.0"))
    assert not registry.exists()


def test_records_are_canonical(built: tuple[ReleaseRecord, BlobTree]) -> None:
    record, _ = built
    data = canonical_json(record)
    assert canonical_json(msgspec.json.decode(data)) == data
    assert b" " not in data.replace(b"modpkg 0", b"modpkg0")
