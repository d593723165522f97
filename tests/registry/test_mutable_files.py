"""What may have changed is asked for with one request; nothing that has changed is missed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.bounds import MODULES_AHEAD_BYTES
from modpkg.core.digests import digest_bytes
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.names import parse_requirement
from modpkg.core.records import (
    Expects,
    IndexLine,
    Provenance,
    Provides,
    ReleaseRecord,
    TensorEntry,
    TensorType,
    TouchedTensor,
    canonical_json,
)
from modpkg.core.tree import BlobTree
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.lock import LockedModule
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from modpkg.store.store import Store
from modpkg.transfer.plan import plan_transfer
from tests.registry.servers import Handler, Server, serve
from tests.registry.test_revalidation import with_etags

WEIGHT = TensorType("F32", [1])


def digest(text: str) -> str:
    return digest_bytes(text.encode())


class Published:
    """A registry whose records are written without weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = BlobTree(folder)
        self.lines: dict[str, list[IndexLine]] = {}
        self.writer = RegistryWriter(folder, "published")
        self.writer.prepare()
        self.provides = self.blobs.add(canonical_json(Provides(tensors={"w": WEIGHT}, ports={})))

    def add(self, name: str, version: str, *requires: str, of: str = "", on: str = "") -> None:
        """Add a release: ``of`` makes it a base with these weights, ``on`` an adapter for these."""
        provides = self.provides if of else None
        expects, tensors = {}, {}
        if of:
            tensors["w"] = TensorEntry("F32", [1], digest(of), digest("pack"), 0, 4)
        if on:
            touched = Expects(tensors={"w": TouchedTensor("F32", [1], digest(on))})
            expects["base"] = self.blobs.add(canonical_json(touched))
        shared = {
            "name": name,
            "version": version,
            "kind": "base" if of else "adapter" if on else "collection",
            "requires": [*requires, *(["base"] if on else [])],
            "provides": provides,
            "expects": expects,
        }
        record = ReleaseRecord(
            license="MIT",
            manifest={},
            tensors=tensors,
            packs={digest("pack"): 4} if of else {},
            provenance=Provenance(built_with="test"),
            **shared,
        )
        release = self.blobs.add(canonical_json(record))
        self.lines.setdefault(name, []).append(IndexLine(release=release, **shared))

    def write(self) -> None:
        for name, lines in self.lines.items():
            (self.folder / "index" / f"{name}.jsonl").write_bytes(format_index(lines))
        self.writer.describe_all()

    def change(self, name: str, values: dict[str, object]) -> None:
        """Change a module's line of the list."""
        path = self.folder / REGISTRY_MODULES
        lines = [json.loads(text) for text in path.read_bytes().splitlines()]
        lines = [line | values if line["name"] == name else line for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def published(tmp_path: Path) -> Published:
    published = Published(tmp_path / "registry")
    published.add("a", "1")
    published.add("b", "1")
    published.write()
    return published


@pytest.fixture
def server(published: Published) -> Iterator[Server]:
    with serve(published.folder) as server:
        server.fault = with_etags
        yield server


def read(server: Server, store: Path, *names: str, **options: bool) -> tuple[list[str], list[str]]:
    """Return the versions that a new reader finds, and what it asks for."""
    server.seen.clear()
    registry = Registry(server.url, cache=BlobTree(store), **options)  # type: ignore[arg-type]
    found = [f"{name} {line.version}" for name in names for line in registry.index(name)]
    assert registry.name == "published"
    return found, [path[1:] for path in server.paths()]


def test_nothing_changed_takes_one_request_and_a_change_one_more(
    published: Published, server: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    read(server, store, "a", "b")
    assert read(server, store, "a", "b") == (["a 1", "b 1"], [REGISTRY_MODULES])
    assert read(server, store, "a", "b") == (["a 1", "b 1"], [REGISTRY_MODULES])
    published.add("b", "2")
    published.write()
    expected = ["a 1", "b 1", "b 2"]
    assert read(server, store, "a", "b") == (expected, [REGISTRY_MODULES, "index/b.jsonl"])
    assert read(server, store, "a", "b") == (expected, [REGISTRY_MODULES])
    assert read(server, store, "a", "b", offline=True) == (expected, [])


@pytest.mark.parametrize(
    "told",
    [
        {"index": digest("another")},
        {"index": None},
        {"index": 7},
        {"index": "no digest"},
        {"name": "../../b"},
        {"changing": "2026-01-01T00:00:00Z 00"},
    ],
)
def test_what_is_told_wrongly_is_asked_for(
    published: Published, server: Server, tmp_path: Path, told: dict[str, object]
) -> None:
    store = tmp_path / "store"
    read(server, store, "a", "b")
    published.add("b", "2")
    published.write()
    published.change("b", told | ({"index": None} if "changing" in told else {}))
    found, asked = read(server, store, "a", "b")
    assert found == ["a 1", "b 1", "b 2"]
    assert asked == [REGISTRY_MODULES, "index/b.jsonl"]
    published.change("b", {"index": digest("newer than what is sent")})
    assert read(server, store, "a", "b")[0] == ["a 1", "b 1", "b 2"]


@pytest.mark.parametrize("damage", [b"", b"\xff{\n" * 9, b"[" * 100_000, b"x" * 9_000_000, None])
def test_without_a_usable_list_each_file_is_asked_for(
    published: Published, server: Server, tmp_path: Path, damage: bytes | None
) -> None:
    store = tmp_path / "store"
    read(server, store, "a", "b")
    read(server, store, "a", "b")
    published.add("b", "2")
    published.write()
    path = published.folder / REGISTRY_MODULES
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    found, asked = read(server, store, "a", "b")
    assert found == ["a 1", "b 1", "b 2"]
    assert asked[1:] == ["index/a.jsonl", "index/b.jsonl", REGISTRY_INFO]


def test_a_list_that_is_long_beside_the_project_is_not_fetched(
    published: Published, server: Server, tmp_path: Path
) -> None:
    for number in range(60):
        published.add(f"m{number}", "1")
    published.write()
    published.change("a", {"summary": "x" * (MODULES_AHEAD_BYTES + 50_000)})
    store = tmp_path / "store"
    read(server, store, "a", "b")
    assert read(server, store, "a", "b")[1][1:] == ["index/a.jsonl", "index/b.jsonl", REGISTRY_INFO]
    names = [f"m{number}" for number in range(60)]
    read(server, store, *names)
    registry = Registry(server.url, cache=BlobTree(store))
    registry.files.needed.update(names)
    server.seen.clear()
    assert all(registry.index(name) for name in names)
    assert server.paths() == [f"/{REGISTRY_MODULES}"]
    assert read(server, store, "a")[1] == ["index/a.jsonl", REGISTRY_INFO]  # its size is known


def test_another_name_of_the_registry_is_seen(
    published: Published, server: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    read(server, store, "a")
    path = published.folder / REGISTRY_INFO
    path.write_bytes(path.read_bytes().replace(b"published", b"taken-over"))
    published.writer.describe_all()
    assert Registry(server.url, cache=BlobTree(store)).name == "taken-over"


def test_a_name_that_may_be_meant_takes_one_request(
    published: Published, server: Server, tmp_path: Path
) -> None:
    registry = Registry(server.url, cache=BlobTree(tmp_path / "store"))
    assert not registry.index("aa")
    server.seen.clear()
    assert "did you mean 'a'" in str(registry.not_found("aa", "any"))
    assert server.paths() == [f"/{REGISTRY_MODULES}"]


class Waves:
    """Answers requests in waves: each when all of its wave have come."""

    def __init__(self, *sizes: int) -> None:
        self.ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        self.come = 0
        self.condition = threading.Condition()
        self.failed = False

    def answer(self, handler: Handler, number: int) -> bool:
        with self.condition:
            self.come += 1
            self.condition.notify_all()
            end = next((end for end in self.ends if self.come <= end), self.come)
            self.failed |= not self.condition.wait_for(lambda: self.come >= end, 20)
        return with_etags(handler, number)


def test_a_project_of_200_modules(tmp_path: Path) -> None:
    published = Published(tmp_path / "registry")
    published.add("base", "1", of="one")
    for number in range(39):
        published.add(f"adapter{number}", "1", on=f"weights {number}")
    for number in range(160):
        below = [f"part{child}" for child in (2 * number + 1, 2 * number + 2) if child < 160]
        above = [f"adapter{number - 90}"] if 90 <= number < 129 else []
        published.add(f"part{number}", "1", *below, *above)
    published.write()

    def resolved() -> int:
        """Return how many modules there are."""
        registry = Registry(server.url, cache=BlobTree(tmp_path / "store"))
        roots = root_needs("part0", (), parse_requirement("part0").specifier, "")
        modules = resolve(roots, Catalog(registry)).modules
        assert registry.name == "published"
        return len(modules)

    with serve(published.folder) as server:
        server.fault = with_etags
        assert resolved() == 200
        server.seen.clear()
        assert resolved() == 200
        assert server.paths() == [f"/{REGISTRY_MODULES}"]
        published.add("base", "2", of="weights 0")
        for number in range(5):
            published.add(f"adapter{number}", "2", on=f"other weights {number}")
            published.add(f"new{number}", "1", *([f"new{number + 1}"] if number < 4 else []))
        published.add("part7", "2", "part15", "part16", "new0")
        published.write()
        server.seen.clear()
        # The list; 7 changed and 5 new index files; 5 interfaces, and the records of two bases.
        waves = Waves(1, 12, 7)
        server.fault = waves.answer
        assert resolved() == 205
        assert (waves.come, waves.failed) == (20, False)
        assert resolved() == 205
        assert waves.come == 21


def test_the_records_of_a_lock_are_fetched_together(published: Published, tmp_path: Path) -> None:
    store, waves = Store(tmp_path / "store"), Waves(2)
    with serve(published.folder) as server:
        server.fault = waves.answer
        registry = Registry(server.url, cache=store.blobs)
        modules = [
            LockedModule(name=x.name, version="1", kind=x.kind, registry="", release=x.release)
            for lines in published.lines.values()
            for x in lines
        ]
        plan = plan_transfer(modules, dict.fromkeys("ab", registry), store)
    assert sorted(plan.records) == ["a", "b"]
    assert (waves.come, waves.failed) == (2, False)


def test_etags_are_of_the_content(published: Published) -> None:
    data = (published.folder / REGISTRY_MODULES).read_bytes()
    first, second = (json.loads(line) for line in data.splitlines())
    index = (published.folder / "index" / "a.jsonl").read_bytes()
    assert first["index"] == "sha256:" + hashlib.sha256(index).hexdigest()
    info = (published.folder / REGISTRY_INFO).read_bytes()
    assert first["registry"] == digest_bytes(info)
    assert "registry" not in second
