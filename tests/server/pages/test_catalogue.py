"""What pages read of a registry."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from modpkg.core.digests import parse_digest
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import signatures_path
from modpkg.registry.source import FolderSource
from modpkg.server.pages.catalogue import Catalogue
from modpkg.server.pages.graph import lay_out
from modpkg.server.pages.kept import KeptValues
from modpkg.server.pages.release_facts import update_bytes
from modpkg.trust.bundle import sign_statement
from modpkg.trust.private_key import PrivateKey
from modpkg.trust.statement import release_statement
from tests.modules import publish_collection
from tests.raising import raises


def test_what_is_not_there_is_said(registry: Path) -> None:
    catalogue = Catalogue(FolderSource(registry))
    with raises("M495", match="nothing"):
        catalogue.releases("nothing")
    with raises("M495", match="talker 9"):
        catalogue.releases("talker").find("9")
    with raises("M102", match="x y"):
        catalogue.releases("talker").find("x y")


def test_a_release_that_is_published_meanwhile_is_seen(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "words")
    catalogue = Catalogue(FolderSource(registry))
    assert catalogue.releases("words").newest.version == "1.0"
    assert catalogue.modules().lines["words"].version == "1.0"
    assert catalogue.needed_by("words") == ([], True)
    publish_collection(registry, "words", "1.1")
    publish_collection(registry, "book", requires={"words": ">=1"})
    assert catalogue.releases("words").newest.version == "1.1"
    assert catalogue.modules().lines["words"].version == "1.1"
    assert catalogue.needed_by("words") == (["book"], True)
    publish_collection(registry, "book", "2.0")
    assert catalogue.needed_by("words") == ([], True)


def test_an_update_costs_what_is_new(registry: Path) -> None:
    catalogue = Catalogue(FolderSource(registry))
    new, old = catalogue.releases("tiny-lora").lines
    weights = sum(entry.length for entry in catalogue.record(new).tensors.values())
    assert catalogue.update(old, new) == weights  # its config is the same
    assert update_bytes(catalogue.record(new), catalogue.record(new)) == 0


def test_a_graph_puts_what_is_needed_to_the_right(registry: Path) -> None:
    catalogue = Catalogue(FolderSource(registry))
    line = catalogue.releases("talker").newest
    graph = lay_out(line, lambda text: catalogue.releases(text.split(">")[0].split("~")[0]).newest)
    assert graph is not None
    places = {node.name: node.x for node in graph.nodes}
    assert places["talker"] < places["tiny-lora"] < places["tiny"]
    assert len(graph.edges) == 3
    unknown = lay_out(line, lambda text: None)
    assert unknown is not None
    assert [node.version for node in unknown.nodes] == ["2.0", "", ""]


def test_values_are_kept_within_a_bound() -> None:
    kept: KeptValues[int, str] = KeptValues(10)
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return "x" * 4

    for key in (1, 2, 1, 3, 1, 2):
        assert kept.get(key, lambda key=key: make(key), len) == "xxxx"  # type: ignore[misc]
    assert made == [1, 2, 3, 2]
    assert kept.get(9, lambda: "x" * 11, len)
    assert kept.get(1, lambda: "", len) == "xxxx"


def test_threads_share_what_is_kept() -> None:
    kept: KeptValues[int, int] = KeptValues(50)

    def use() -> None:
        for key in range(2000):
            assert kept.get(key % 97, lambda key=key: key % 97) == key % 97  # type: ignore[misc]

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.get(5, lambda: 5) == 5


def test_signatures_are_those_that_verify(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "words")
    publish_collection(registry, "words", "1.1")
    reader = Registry(str(registry))
    old, new = sorted(reader.index("words"), key=lambda line: line.version)
    signer = PrivateKey(Ed25519PrivateKey.generate())
    statement = release_statement(reader.record(new), parse_digest(new.release), "modpkg 1")
    bundle = sign_statement(statement, signer)
    for line in (old, new):  # of the old release it is no signature
        path = registry / signatures_path(parse_digest(line.release))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle + b"\n{}\nbroken\n")
    lines = [replace(line, signed=True) for line in (old, new)]
    (registry / "index" / "words.jsonl").write_bytes(format_index(lines))
    catalogue = Catalogue(FolderSource(registry))
    assert [catalogue.signers(line) for line in lines] == [(), (str(signer.public),)]


class RemoteSource:
    """A source that is no folder, and counts what is read."""

    def __init__(self, folder: Path) -> None:
        self.url, self.paths = "s3://models", list[str]()
        self._inner = FolderSource(folder)

    def read(self, path: str, most: int = 1 << 28) -> bytes:
        self.paths.append(path)
        return self._inner.read(path, most)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_index_files_of_an_object_store_are_asked_for_once_in_a_while(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, clock = RemoteSource(registry), [1000.0]
    own = SimpleNamespace(monotonic=lambda: clock[0])  # of no other thread
    monkeypatch.setattr("modpkg.server.pages.catalogue.time", own)
    catalogue = Catalogue(source)
    for _ in range(3):
        assert catalogue.releases("talker").newest.version == "2.0"
        assert catalogue.releases_or_none("absent") is None
        assert "talker" in catalogue.modules().lines
    assert sorted(source.paths) == ["index/absent.jsonl", "index/talker.jsonl", "modules.jsonl"]
    clock[0] += 6
    catalogue.releases("talker")
    assert source.paths.count("index/talker.jsonl") == 2
