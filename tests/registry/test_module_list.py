"""The list of modules never has the digest of an index file that is another by now."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modpkg.core.digests import blob_path, digest_bytes, parse_digest
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.records import IndexLine, Provenance, ReleaseRecord, canonical_json
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.index import format_index, parse_index
from modpkg.registry.module_lines import parse_module_lines
from modpkg.registry.module_list import ModuleList
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing
from modpkg.registry.writer import RegistryWriter
from tests.modules import publish_collection

INDEX = "index/lib.jsonl"


def record(version: str) -> ReleaseRecord:
    return ReleaseRecord(
        name="lib",
        version=version,
        kind="collection",
        license="MIT",
        manifest={},
        provenance=Provenance(built_with="test"),
    )


def line(version: str) -> IndexLine:
    release = digest_bytes(canonical_json(record(version)))
    return IndexLine(name="lib", version=version, kind="collection", release=release)


RECORDS = {line(version).release: record(version) for version in "01234"}


class Conflict(Exception):
    """Somebody else has replaced a file."""


class Killed(BaseException):
    """The process ends here."""


class Shared:
    """Files that are replaced by compare-and-swap, as those of an object store are."""

    def __init__(self) -> None:
        self.files = {REGISTRY_INFO: b"{}"}
        for release, one in RECORDS.items():
            self.files[blob_path(parse_digest(release))] = canonical_json(one)
        source = SimpleNamespace(
            url="shared",
            read=self.read,
            names=lambda folder: ["lib.jsonl"] if INDEX in self.files else [],
        )
        self.place: Any = SimpleNamespace(journal=None, url="shared", folder=None, source=source)

    def read(self, path: str, most: int) -> bytes:
        if path not in self.files:
            raise FileMissing(path)
        return self.files[path]

    def list_now(self, modules: ModuleList) -> None:
        change = SharedChange(self, lambda: None)
        modules.end(change, "lib", None, RECORDS)

    def check(self) -> None:
        """Check what readers rely on: what is listed is right, at any moment."""
        told = parse_module_lines(self.files.get(REGISTRY_MODULES, b""), "list").get("lib")
        if told is not None and told.index is not None:
            assert told.index == digest_bytes(self.files[INDEX])


class SharedChange:
    def __init__(self, shared: Shared, step: Any) -> None:
        self.shared, self.step = shared, step
        self.seen: dict[str, bytes | None] = {}

    def read(self, path: str, most: int = 0) -> bytes | None:
        self.step()
        self.seen[path] = self.shared.files.get(path)
        return self.seen[path]

    def replace(self, path: str, data: bytes) -> None:
        self.step()
        if self.shared.files.get(path) != self.seen[path]:
            raise Conflict
        self.shared.files[path] = data

    def add(self, *_: object) -> int:
        raise AssertionError


class Publisher(threading.Thread):
    """Publishes a version, a step at a time; it may be killed before any of them."""

    def __init__(self, shared: Shared, version: str, steps: int) -> None:
        super().__init__(daemon=True)
        self.shared, self.version, self.left = shared, version, steps
        self.turn, self.rests = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self.rests.acquire()

    def step(self) -> None:
        self.rests.release()
        self.turn.acquire()
        self.left -= 1
        if self.left < 0:
            raise Killed

    def run(self) -> None:
        modules = ModuleList(self.shared.place)
        try:
            for _ in range(30):
                try:
                    self.edit(modules, SharedChange(self.shared, self.step))
                    break
                except Conflict:
                    continue
        except Killed:
            pass
        self.left = -1
        self.rests.release()

    def edit(self, modules: ModuleList, change: SharedChange) -> None:
        before = change.read(INDEX) or b""
        lines = parse_index(before, "lib", "shared")
        if self.version in [one.version for one in lines]:
            modules.end(change, "lib", None, RECORDS)
            return
        data = format_index([*lines, line(self.version)])
        modules.begin(change, "lib")
        change.replace(INDEX, data)
        modules.end(change, "lib", data, RECORDS)

    def go_on(self) -> None:
        self.turn.release()
        self.rests.acquire()


@pytest.mark.parametrize("listed", [True, False, None])
@pytest.mark.parametrize("seed", range(2))
def test_whoever_is_killed_and_when_no_digest_is_wrong(seed: int, listed: bool | None) -> None:
    """Three publish at once: a module that is listed, or is not; None: that is not there yet."""
    order = random.Random(seed)
    survivors = 0
    for _ in range(60):
        shared = Shared()
        if listed is not None:
            shared.files[INDEX] = format_index([line("0")])
        if listed:
            shared.list_now(ModuleList(shared.place))
        steps = [order.choice([order.randrange(1, 9), 99]) for _ in range(3)]
        running = [Publisher(shared, v, n) for v, n in zip("121", steps, strict=True)]
        while running:
            publisher = order.choice(running)
            publisher.go_on()
            shared.check()
            if publisher.left < 0:
                running.remove(publisher)
        if all(n == 99 for n in steps):
            survivors += 1
            told = parse_module_lines(shared.files[REGISTRY_MODULES], "list")["lib"]
            assert told.version == "2"
            assert told.index == digest_bytes(shared.files[INDEX])
    assert survivors


def test_a_change_that_nobody_ends_is_ended_after_a_day() -> None:
    shared = Shared()
    shared.files[INDEX] = format_index([line("0")])
    ModuleList(shared.place).begin(SharedChange(shared, lambda: None), "lib")
    shared.list_now(ModuleList(shared.place))
    told = parse_module_lines(shared.files[REGISTRY_MODULES], "list")["lib"]
    assert told.index is None  # somebody may be at it
    later = told.changing.replace("20", "19", 1)
    shared.files[REGISTRY_MODULES] = shared.files[REGISTRY_MODULES].replace(
        told.changing.encode(), later.encode()
    )
    shared.list_now(ModuleList(shared.place))
    shared.check()
    assert parse_module_lines(shared.files[REGISTRY_MODULES], "list")["lib"].index is not None


def indexed(registry: Path) -> dict[str, bool]:
    """Return by name whether the list has the digest of the index file, which is never wrong."""
    found = {}
    for text in (registry / REGISTRY_MODULES).read_bytes().splitlines():
        told = json.loads(text)
        data = (registry / "index" / f"{told['name']}.jsonl").read_bytes()
        found[told["name"]] = "index" in told
        assert told.get("index", digest_bytes(data)) == digest_bytes(data)
    return found


@pytest.mark.parametrize("killed_before", ["index/one.jsonl", "index/new.jsonl", "the list"])
def test_a_publisher_of_a_folder_that_is_killed_is_mended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "one", "1.0")
    name = "new" if "new" in killed_before else "one"
    replaced: list[str] = []
    original = FolderPlace.change

    def change(place: FolderPlace, edit: Any) -> Any:
        def edited(opened: Any) -> Any:
            replace = opened.replace

            def replace_or_die(path: str, data: bytes) -> None:
                if path == killed_before or (path == REGISTRY_MODULES and "index" in str(replaced)):
                    raise Killed
                replaced.append(path)
                replace(path, data)

            monkeypatch.setattr(opened, "replace", replace_or_die)
            return edit(opened)

        return original(place, edited)

    with monkeypatch.context() as patched:
        patched.setattr(FolderPlace, "change", change)
        with pytest.raises(Killed):
            publish_collection(registry, name, "2.0")
    assert not indexed(registry).get(name)
    publish_collection(registry, "other", "1.0")
    lines = Registry(str(registry)).modules()
    assert lines is not None
    published = {"one": True, "other": True} | ({"new": True} if killed_before == "x" else {})
    assert indexed(registry) == published
    versions = {"the list": "2.0"}.get(killed_before, "1.0")
    assert lines["one"].version == versions


def test_a_list_of_old_gets_digests(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    for name in ("one", "two"):
        publish_collection(registry, name, "1.0")
    path = registry / REGISTRY_MODULES
    texts = [json.loads(text) for text in path.read_bytes().splitlines()]
    for told in texts:
        told.pop("index")
    path.write_text("".join(json.dumps(told) + "\n" for told in texts))
    RegistryWriter(registry).yank("one", "1.0", "bad")
    assert indexed(registry) == {"one": True, "two": True}
