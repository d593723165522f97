"""Copies of an index: offline they count if they are signed, and online nobody asks for those then.

Of mirrors at first contact nothing is believed either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import RegistryUnreachable
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.tree import BlobTree
from modpkg.registry.late_copies import copies_wait
from modpkg.registry.mutable_files import MutableFiles
from modpkg.registry.reader import Registry
from modpkg.trust import signed_index
from modpkg.trust.known_registry import NamedRoot, SeenRegistry, remembered_folder
from modpkg.trust.signed_index import SignedIndex
from tests.raising import raises
from tests.registry.servers import Server, serve
from tests.registry.test_revalidation import with_etags
from tests.trust.signed_registry import DAY, HostileSource, SignedRegistry, read, reader

WORDS = "index/words.jsonl"
OTHER = f"sha256:{'0' * 64}"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_index, "PAUSE", 0)


@pytest.fixture
def registry(tmp_path: Path) -> SignedRegistry:
    return SignedRegistry(tmp_path / "registry", bits=1)


@pytest.fixture
def server(registry: SignedRegistry) -> HostileSource:
    return HostileSource(registry.folder)


class Reader:
    """A command of a project, which reads index files and keeps copies of them."""

    def __init__(self, server: HostileSource, registry: SignedRegistry, *, offline: bool) -> None:
        copies = registry.folder.parent / "copies"
        self._files = MutableFiles(server, copies, offline=offline)
        self.checks = SignedIndex(server, server, self._files.info, now=registry.clock)
        self._files.checks = self.checks

    def read(self, path: str = WORDS) -> bytes:
        return self._files.read(path, bounds.INDEX_BYTES)


def root_of(registry: SignedRegistry) -> bytes:
    return (registry.folder / "tuf" / "1.root.json").read_bytes()


def without_root(registry: SignedRegistry) -> bytes:
    """Return a ``registry.json`` that says nothing of a signed index."""
    info = json.loads((registry.folder / "registry.json").read_bytes())
    del info["tuf"]
    return json.dumps(info).encode()


@pytest.fixture
def poisoned(registry: SignedRegistry, server: HostileSource) -> HostileSource:
    """The registry, after it was shown unsigned, with another index, to a project here."""
    server.shown = {"registry.json": without_root(registry), WORDS: b"evil\n"}
    assert Reader(server, registry, offline=False).read() == b"evil\n"
    server.asked.clear()
    return server


def test_an_unsigned_copy_does_not_count_where_the_manifest_names_the_root(
    registry: SignedRegistry, poisoned: HostileSource
) -> None:
    assert Reader(poisoned, registry, offline=True).read() == b"evil\n"  # nobody knows better
    command = Reader(poisoned, registry, offline=True)
    command.checks.named = NamedRoot(digest_bytes(root_of(registry)), "modpkg.toml")
    for path, code in ((WORDS, "M592"), ("registry.json", "M501")):  # there is no copy of that
        with raises(code, match="run the same command once without"):
            command.read(path)
    assert poisoned.asked == []


def test_an_unsigned_copy_does_not_count_where_the_lock_has_the_root(
    registry: SignedRegistry, poisoned: HostileSource
) -> None:
    command = Reader(poisoned, registry, offline=True)
    command.checks.locked = SeenRegistry(digest_bytes(root_of(registry)), 1, 1)
    with raises("M592"):
        command.read()


def test_an_unsigned_copy_does_not_count_once_the_registry_is_known(
    registry: SignedRegistry, poisoned: HostileSource
) -> None:
    poisoned.shown = {}
    Reader(poisoned, registry, offline=False).checks.metadata()
    with raises("M592"):
        Reader(poisoned, registry, offline=True).read()
    registry.publish("other", b"")  # of the same bin or not
    assert Reader(poisoned, registry, offline=False).read("index/other.jsonl") == b""
    with raises("M592"):
        Reader(poisoned, registry, offline=True).read()
    assert Reader(poisoned, registry, offline=False).read() == b""
    assert Reader(poisoned, registry, offline=True).read() == b""


def test_offline_another_root_than_the_one_that_is_remembered_is_named(
    registry: SignedRegistry, server: HostileSource
) -> None:
    Reader(server, registry, offline=False).read()
    command = Reader(server, registry, offline=True)
    command.checks.named = NamedRoot(OTHER, "modpkg.toml")
    with raises("M573", match="modpkg.toml"):
        command.read()
    command = Reader(server, registry, offline=True)
    command.checks.locked = SeenRegistry(OTHER, 1, 1)
    with raises("M567"):
        command.read()


def test_what_was_verified_is_read_offline_however_old_it_is(
    registry: SignedRegistry, server: HostileSource
) -> None:
    Reader(server, registry, offline=False).read()
    for number in range(4):  # another project has read on, and knows newer bins
        registry.publish(f"other{number}", b"")
        Reader(server, registry, offline=False).read(f"index/other{number}.jsonl")
    registry.clock.time += 400 * DAY
    assert Reader(server, registry, offline=True).read() == b""
    for path in remembered_folder(server.url).glob("index-*.json"):
        path.write_bytes(path.read_bytes().replace(b'"length":0', b'"length":1'))
    with raises("M592"):
        Reader(server, registry, offline=True).read()


def test_a_copy_that_is_only_old_is_said_to_be(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Another project has read on, and has no copy of this file."""
    Reader(server, registry, offline=False).read()
    registry.publish("words", b"new\n")
    registry.publish("other", b"")
    reader = Reader(server, registry, offline=False)
    for path in (WORDS, "index/other.jsonl"):
        assert reader.checks.checked(path, server.read(path), lambda: None) is not None
    with raises("M592", match="is older than"):
        Reader(server, registry, offline=True).read()
    assert Reader(server, registry, offline=False).read() == b"new\n"
    assert Reader(server, registry, offline=True).read() == b"new\n"


def test_a_key_that_was_replaced_vouches_for_no_copy(
    registry: SignedRegistry, server: HostileSource
) -> None:
    Reader(server, registry, offline=False).read()
    registry.online = SignedRegistry(registry.folder.parent / "spare", online=8).online
    registry.writer = registry.opened()
    registry.write_root(2)
    registry.writer.sign_all(bits=1)
    Reader(server, registry, offline=False).checks.metadata()
    with raises("M592"):
        Reader(server, registry, offline=True).read()


def test_a_mirror_has_no_root_of_its_own_remembered(
    registry: SignedRegistry, server: HostileSource, tmp_path: Path
) -> None:
    own = SignedRegistry(tmp_path / "mirror", threshold=1, online=8)
    own.write_index("words", b"evil\n")
    own.writer.sign_all(bits=1)
    mirror = HostileSource(own.folder)
    for told in (mirror.read("registry.json"), without_root(own)):
        both = SignedIndex(mirror, server, lambda data=told: data, now=registry.clock)
        read_again = lambda: server.read(WORDS)  # noqa: E731
        assert both.checked(WORDS, b"evil\n", read_again) == b""
        remembered = remembered_folder(server.url) / "1.root.json"
        assert remembered.read_bytes() == root_of(registry)
        remembered.unlink()


def test_a_mirror_is_asked_who_signs_where_the_registry_cannot_be(
    registry: SignedRegistry, server: HostileSource
) -> None:
    def fail(path: str) -> None:
        raise RegistryUnreachable("M302", url=server.url, reason="it is down")

    info = (registry.folder / "registry.json").read_bytes()
    server.before_read = fail
    mirror = HostileSource(registry.folder)
    both = SignedIndex(mirror, server, lambda: info, now=registry.clock)
    assert both.metadata() is not None


# What is not asked for ---------------------------------------------------------------------------


@pytest.fixture
def sent(registry: SignedRegistry) -> Iterator[Server]:
    """A server of the registry without its list of modules, which would tell what has changed."""
    (registry.folder / REGISTRY_MODULES).unlink(missing_ok=True)
    with serve(registry.folder) as server:
        server.fault = with_etags
        yield server


def asked(sent: Server, store: Path, registry: SignedRegistry, *names: str) -> list[str]:
    """Return the index files that a new command asks for."""
    sent.seen.clear()
    opened = Registry(sent.url, cache=BlobTree(store))
    files = opened.files
    files.checks = SignedIndex(files.source, files.source, files.info, now=registry.clock)
    for name in names:
        path = f"index/{name}.jsonl"
        assert files.read(path, bounds.INDEX_BYTES) == (registry.folder / path).read_bytes()
    return [path[1:] for path in sent.paths() if path.startswith("/index/")]


def test_a_copy_that_is_signed_as_it_is_is_not_asked_for(
    registry: SignedRegistry, sent: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    registry.publish("words", b"one\n")
    registry.publish("more", b"more\n")
    both = ["words", "more"]
    assert asked(sent, store, registry, *both) == ["index/words.jsonl", "index/more.jsonl"]
    assert asked(sent, store, registry, *both) == []
    registry.publish("words", b"two\n")
    assert asked(sent, store, registry, *both) == ["index/words.jsonl"]
    assert asked(sent, store, registry, *both) == []
    assert not [*store.rglob("*.jsonl.validator")]  # nobody is going to ask by one


def test_a_damaged_copy_is_asked_for(
    registry: SignedRegistry, sent: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    registry.publish("words", b"one\n")
    asked(sent, store, registry, "words")
    (copy,) = store.rglob("words.jsonl")
    copy.write_bytes(bytes(copy.stat().st_size))  # as a loss of power may leave it
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    assert copy.read_bytes() == b"one\n"
    assert asked(sent, store, registry, "words") == []


def test_what_is_being_replaced_is_asked_for(
    registry: SignedRegistry, sent: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    registry.publish("words", b"one\n")
    asked(sent, store, registry, "words")
    registry.writer.announce("index/words.jsonl", b"one\n", b"two\n")
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    registry.write_index("words", b"two\n")
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    registry.writer.settle(["index/words.jsonl"])
    assert asked(sent, store, registry, "words") == []


def test_a_copy_from_before_the_index_was_signed_is_held_to_it(
    registry: SignedRegistry, sent: Server, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    registry.publish("words", b"one\n")
    Registry(sent.url, cache=BlobTree(store)).files.read("index/words.jsonl", bounds.INDEX_BYTES)
    assert [*store.rglob("words.jsonl.validator")]
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    (request,) = (one for one in sent.seen if one.path == "/index/words.jsonl")
    assert "if-none-match" in request.headers
    assert asked(sent, store, registry, "words") == []
    (copy,) = store.rglob("words.jsonl")
    copy.write_bytes(b"evil\n")
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]


def test_whether_a_registry_is_signed_is_not_waited_for_where_nobody_knows_of_it(
    tmp_path: Path, sent: Server, registry: SignedRegistry
) -> None:
    """The first files of a registry that is not signed would wait for its registry.json."""
    store = tmp_path / "store"
    info = json.loads((registry.folder / "registry.json").read_bytes())
    del info["tuf"]
    (registry.folder / "registry.json").write_text(json.dumps(info))
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    assert asked(sent, store, registry, "words") == ["index/words.jsonl"]
    paths = sent.paths()
    assert paths.index("/index/words.jsonl") < paths.index("/registry.json")


def test_who_waited_for_metadata_that_cannot_be_read_does_not_try_in_turn(
    registry: SignedRegistry,
) -> None:
    source = HostileSource(registry.folder)
    assert reader(source, registry.clock).metadata() is not None  # it is known to be signed
    source.asked.clear()

    def fail(path: str) -> None:
        raise RegistryUnreachable("M302", url=source.url, reason="it is down")

    source.before_read = fail
    signed = reader(source, registry.clock)

    class Turn:
        """A lock that another thread had before, which did not get the metadata either."""

        others = 1

        def __enter__(self) -> None:
            if self.others:
                self.others -= 1
                with raises("M302"):
                    signed.metadata()

        def __exit__(self, *_: object) -> None:
            pass

    signed._lock = Turn()  # type: ignore[assignment]
    with raises("M302"):
        signed.is_current(WORDS, b"")
    assert source.asked.count("tuf/timestamp.json") == 1
    source.before_read = lambda path: None
    assert signed.metadata() is not None  # who comes later tries again


def test_what_was_fetched_is_not_fetched_again_where_it_is_not_written_yet(
    registry: SignedRegistry,
) -> None:
    source = HostileSource(registry.folder)
    with copies_wait():
        assert read(source, registry.clock) == b""
        fetched = [path for path in source.asked if ".targets." in path or ".index-" in path]
        assert len(fetched) == len({*fetched}) >= 2
        source.asked.clear()
        assert read(source, registry.clock) == b""
        assert not {*source.asked} & {*fetched}


def test_a_private_index_is_asked_for_each_time(
    registry: SignedRegistry, sent: Server, tmp_path: Path
) -> None:
    """Whether another one has taken its place is not known from what is signed."""
    store = tmp_path / "store"
    registry.write_index("secret", b"one\n")
    registry.writer.announce_private(b"one\n")
    registry.writer.settle_private(None, b"one\n")
    assert asked(sent, store, registry, "secret") == ["index/secret.jsonl"]
    assert asked(sent, store, registry, "secret") == ["index/secret.jsonl"]
    assert sent.seen[-1].path == "/index/secret.jsonl"
    assert "if-none-match" in sent.seen[-1].headers
