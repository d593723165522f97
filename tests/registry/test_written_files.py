"""What would make a file of a registry longer than readers take is refused, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.filenames import REGISTRY_ADVISORIES, REGISTRY_MODULES
from modpkg.core.progress import Progress
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import candidates_path
from modpkg.registry.reader import Registry
from modpkg.registry.removing import remove_release
from modpkg.registry.writer import RegistryWriter
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.test_advisories import FIXED, INTRODUCED, add, document
from tests.registry.test_candidates import submit

LONG = 2000 * "x"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    for version in ("1.0", "1.1"):
        publish_collection(folder, "words", version)
    return folder


def files(registry: Path) -> dict[str, bytes]:
    """Return all files but locks, which are empty."""
    paths = [path for path in registry.rglob("*") if path.is_file()]
    return {str(path): data for path in paths if (data := path.read_bytes())}


def test_nobody_makes_an_index_file_longer_than_readers_take(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, before = RegistryWriter(registry), files(registry)
    line, newer = Registry(str(registry)).index("words")
    monkeypatch.setattr(bounds, "INDEX_BYTES", (registry / "index/words.jsonl").stat().st_size)
    for refused in (
        lambda: publish_collection(registry, "words", "1.2"),
        lambda: writer.yank("words", "1.0", LONG),
        lambda: writer.yank("words", "1.0", LONG, b"{}"),
        lambda: writer.deprecate("words", None, ""),
        lambda: writer.restate("words", None, lambda said: replace(said, removed=LONG)),
        lambda: writer.succeed("words", b"{}"),
        lambda: writer.sign(line, [b"{}"]),
        lambda: writer.follow(line, [b"{}"]),
    ):
        with raises("M593", match=r"index/words\.jsonl .* stays as it is"):
            refused()
        assert files(registry) == before
    copy = RegistryWriter(tmp_path / "copy", "copy")
    copy.copy_release(Registry(str(registry)), line)
    there = files(tmp_path / "copy")
    monkeypatch.setattr(bounds, "INDEX_BYTES", (tmp_path / "copy/index/words.jsonl").stat().st_size)
    with raises("M593"):
        copy.copy_release(Registry(str(registry)), newer)
    assert files(tmp_path / "copy") == there


@pytest.mark.parametrize("reason", [LONG + "x", "one\ntwo", "a\u202eb", "a\ud800b"])
def test_nobody_gives_a_reason_that_readers_would_change(registry: Path, reason: str) -> None:
    writer, before = RegistryWriter(registry), files(registry)
    for refused in (
        lambda: writer.yank("words", "1.0", reason),
        lambda: writer.yank("words", "1.0", reason, b"{}"),
        lambda: writer.deprecate("words", None, reason),
        lambda: remove_release(writer, "words", "1.0", reason, Progress()),
    ):
        with raises("M475", match=r"has (2,001 characters|the character U\+).*; write it in"):
            refused()
        assert files(registry) == before
    assert writer.yank("words", "1.0", LONG).yanked == LONG
    assert Registry(str(registry)).line("words", "1.0").yanked == LONG


def test_nor_one_of_candidates(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(registry, "1.2")
    path = registry / candidates_path("words")
    before, index = path.read_bytes(), (registry / "index/words.jsonl").read_bytes()
    monkeypatch.setattr(bounds, "CANDIDATES_BYTES", len(before) * 3 // 2)
    with raises("M593", match="without a review"):
        submit(registry, "1.3")
    writer = CandidateWriter(registry)
    with raises("M593", match="shorter reason"):
        writer.accept("words", 1, by="eve", reason=LONG)
    with raises("M593", match="shorter reason"):
        writer.reject("words", 1, by="eve", reason=LONG)
    assert (path.read_bytes(), (registry / "index/words.jsonl").read_bytes()) == (before, index)
    assert writer.accept("words", 1, by="eve").status == "accepted"


def test_nor_advisories(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(registry, document(INTRODUCED))
    path = registry / REGISTRY_ADVISORIES
    before = path.read_bytes()
    for bound, most in (
        ("ADVISORIES_BYTES", len(before) + 100),
        ("ADVISORIES_VALUES", before.count(b",") + 2),
    ):
        with monkeypatch.context() as less:
            less.setattr(bounds, bound, most)
            with raises("M593", match=r"advisories\.jsonl"):
                add(registry, document(INTRODUCED, FIXED, id="ACME-2"))
        assert path.read_bytes() == before


@pytest.mark.parametrize("bound", ["MODULES_BYTES", "MODULES_LINES", "MODULES_VALUES"])
def test_a_module_that_a_full_list_has_no_room_for_is_published_without(
    bound: str, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody could publish any more: who does reads the list."""
    path = registry / REGISTRY_MODULES
    data = path.read_bytes()
    most = {"MODULES_BYTES": len(data), "MODULES_LINES": data.count(b"\n")}
    monkeypatch.setattr(bounds, bound, most.get(bound, data.count(b",")))
    publish_collection(registry, "other")
    publish_collection(registry, "words", "1.2")
    RegistryWriter(registry).describe_all()
    reader = Registry(str(registry))
    assert [line.version for line in reader.index("other")] == ["1.0"]
    listed = {name: line.version for name, line in (reader.modules() or {}).items()}
    assert listed == {"words": "1.2"}
    index = (registry / "index/words.jsonl").read_bytes()
    assert (reader.modules() or {})["words"].index == digest_bytes(index)
    path.unlink()
    publish_collection(registry, "words", "1.3")
    assert Registry(str(registry)).modules() is None
