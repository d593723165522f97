"""Checking a log: a registry that shows two people different things, or goes back, is found out."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.records import IndexLine, canonical_json
from modpkg.manifest.config import parse_settings
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.reader import Registry
from modpkg.trust.log import checking
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.entries import LoggedRelease, logged_path, transfer_entry
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.log.small_log import size_in
from modpkg.trust.log.tiles import Tile, bundle_of, entries_in
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.servers import Handler, serve
from tests.trust.log.logged import ORIGIN, LoggedRegistry

AT = "2026-01-01T00:00:00Z"


def by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read logs as those are that are large."""
    monkeypatch.setattr(checking, "SMALL", 0)
    monkeypatch.setattr(checking, "is_small", lambda registry: False)


@pytest.fixture(autouse=True, params=["by_place", "whole"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In which of two ways logs are read."""
    if request.param == "by_place":
        by_place(monkeypatch)
    else:
        monkeypatch.setattr(checking, "is_small", lambda registry: True)
    return str(request.param)


@pytest.fixture
def one(tmp_path: Path) -> LoggedRegistry:
    return LoggedRegistry(tmp_path / "models").begin()


class Reader:
    """Somebody who reads a registry at one address, wherever that leads by now."""

    def __init__(self, folder: Path) -> None:
        self.memory = LogMemory("https://models.example", folder)

    def check(self, registry: Registry, *lines: IndexLine) -> None:
        check_logged(registry, lines, self.memory)


def add(one: LoggedRegistry, count: int, prefix: str = "m") -> None:
    one.log.append([transfer_entry(f"{prefix}{i}", "bob", AT) for i in range(count)])


def fork(one: LoggedRegistry, name: str) -> LoggedRegistry:
    """Return a copy of a registry, whose operator has the same key."""
    folder = one.folder.parent / name
    shutil.copytree(one.folder, folder)
    copy = LoggedRegistry(folder, one.folder.parent / "models.pem")
    copy.place.journal = copy.log
    return copy


def test_what_is_logged_is_taken_as_the_log_grows(one: LoggedRegistry, tmp_path: Path) -> None:
    ada = Reader(tmp_path / "ada")
    lines = []
    for number, count in enumerate((0, 1, 5, 249, 256, 300)):
        add(one, count)
        lines.append(one.publish(f"words{number}"))
        ada.check(one.read(), lines[-1])
    ada.check(one.read(), *lines)
    Reader(tmp_path / "bob").check(one.read(), *lines)
    seen = ada.memory.read()
    assert seen is not None
    assert seen.log.origin == ORIGIN
    assert seen.last.size == 817


def test_a_registry_without_a_log_is_as_before(tmp_path: Path) -> None:
    line = publish_collection(tmp_path / "plain", "words")
    ada = Reader(tmp_path / "ada")
    ada.check(Registry(str(tmp_path / "plain")), line)
    assert ada.memory.read() is None


def test_two_people_who_are_shown_different_things(one: LoggedRegistry, tmp_path: Path) -> None:
    """The registry shows one tree to Ada and another to Bob: whoever sees both knows it."""
    words = one.publish("words")
    ada, bob = Reader(tmp_path / "ada"), Reader(tmp_path / "bob")
    ada.check(one.read(), words)
    hers, his = fork(one, "hers"), fork(one, "his")
    good = hers.publish("tools", "1.0")
    (his.folder.parent / "projects" / "tools-1.0" / "modpkg.toml").unlink()
    bad = his.publish("tools", "1.1")
    ada.check(hers.read(), good)
    bob.check(his.read(), bad)
    for other, line in ((his, bad), (hers, good)):
        add(other, 7)  # more entries do not help
        reader = ada if other is his else bob
        for _ in range(2):
            with raises("M552", match="different things") as caught:
                reader.check(other.read(), line)
        evidence = Path(str(caught.value.values["path"]))
        assert evidence.read_text().count(ORIGIN) >= 4
    ada.check(hers.read(), good)


def test_another_tree_of_the_same_size(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    ada = Reader(tmp_path / "ada")
    other = fork(one, "other")
    add(one, 1)
    add(other, 1, "n")
    ada.check(one.read(), words)
    with raises("M552", match="different things"):
        ada.check(other.read(), words)


def test_a_log_that_goes_back(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    before = fork(one, "before")
    ada = Reader(tmp_path / "ada")
    later = one.publish("words", "2.0")
    ada.check(one.read(), later)
    with raises("M553", match="old copy"):
        ada.check(before.read(), words)
    with raises("M553", match="size 1, and of 2 as"):  # reported before what it lacks
        ada.check(before.read(), later)
    ada.check(one.read(), words)


def test_a_release_that_is_not_logged(
    one: LoggedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry, or who has broken into it, has its files and not the key of the log."""
    words, more = one.publish("words"), one.publish("more")
    ada = Reader(tmp_path / "ada")
    one.place.journal = None
    (one.folder / REGISTRY_INFO).rename(tmp_path / "info")
    secret = publish_collection(one.folder, "secret")
    (tmp_path / "info").rename(one.folder / REGISTRY_INFO)
    with raises("M554", match=r"secret 1.0 .*(does not say where|no entry is about it)"):
        ada.check(one.read(), words, secret)
    by_place(monkeypatch)
    place = one.folder / logged_path(parse_digest(secret.release))
    place.parent.mkdir(parents=True)
    other = (one.folder / logged_path(parse_digest(words.release))).read_bytes()
    found = msgspec.json.decode(other, type=LoggedRelease)
    made = found.entry.replace("words", "secret").replace(words.release, secret.release)
    for data, reason in (
        (other, "something else"),
        (b"{", "malformed"),
        (canonical_json(LoggedRelease(0, made)), "none of the tree"),
        (canonical_json(LoggedRelease(1, made)), "none of the tree"),
        (canonical_json(LoggedRelease(2, made)), "number 2"),
        (canonical_json(LoggedRelease(0, "[" * 5000)), "malformed"),
    ):
        place.write_bytes(data)
        with raises("M554", match=reason):
            ada.check(one.read(), secret)
    ada.check(one.read(), words, more)


def test_checkpoints_and_tiles_that_are_not_right(
    one: LoggedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, _ = one.publish("words"), one.publish("more")
    ada = Reader(tmp_path / "ada")
    checkpoint, tile = one.folder / "log/checkpoint", one.folder / "log/tile/0/000.p/2"
    whole, hashes = checkpoint.read_bytes(), tile.read_bytes()
    for data in (b"", whole.replace(b"\n2\n", b"\n3\n"), whole[:-9]):
        checkpoint.write_bytes(data)
        with raises("M550", match="checkpoint"):
            ada.check(one.read(), words)
    checkpoint.unlink()
    with raises("M550", match="missing"):
        ada.check(one.read(), words)
    checkpoint.write_bytes(whole)
    ada.check(one.read(), words)
    by_place(monkeypatch)
    tile.write_bytes(bytes(64))
    with raises("M554", match="none of the tree"):
        ada.check(one.read(), words)
    tile.unlink()
    with raises("M555", match="missing"):
        ada.check(one.read(), words)
    full = tile.parent.with_suffix("")  # the tile was filled since the checkpoint was read
    full.write_bytes(hashes + bytes(254 * 32))
    ada.check(one.read(), words)


def test_entries_of_a_small_log_that_are_not_right(
    one: LoggedRegistry, tmp_path: Path, way: str
) -> None:
    if way != "whole":
        return
    words, more = one.publish("words"), one.publish("more")
    ada = Reader(tmp_path / "ada")
    bundle = one.folder / "log/tile/entries/000.p/2"
    data = bundle.read_bytes()
    first, second = entries_in(Tile(None, 0, 2), data, "")
    for entries, code in (
        ([second, first], "M554"),  # in another order
        ([first, first], "M554"),
        ([first, second.replace(b"more", b"evil")], "M554"),
        ([first.replace(b'"publish"', b'"yank"'), second], "M554"),
        ([b"[" * 5000, second], "M554"),
        ([first], "M555"),
        ([], "M555"),
    ):
        bundle.write_bytes(bundle_of(entries))
        with raises(code):
            ada.check(one.read(), words, more)
    bundle.write_bytes(data[:-1])
    with raises("M555", match="cut short"):
        ada.check(one.read(), words)
    bundle.unlink()
    with raises("M555", match="missing"):
        ada.check(one.read(), words)
    bundle.write_bytes(data)
    ada.check(one.read(), words, more)
    assert ada.memory.read() is not None


def test_a_log_that_was_taken_for_small_is_asked_for_places(
    one: LoggedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, more = one.publish("words"), one.publish("more")
    monkeypatch.setattr(checking, "SMALL", 1)
    Reader(tmp_path / "ada").check(one.read(), words, more)


@pytest.mark.parametrize(
    ("text", "size"),
    [(b"models.example/log\n300\nAAA\n", 300), (b"x\n-1\n", None), (b"\n" * 9, None), (b"", None)],
)
def test_a_size_that_nobody_has_verified(text: bytes, size: int | None) -> None:
    assert size_in(text) == size


def test_a_log_that_is_another_or_gone(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    ada = Reader(tmp_path / "ada")
    ada.check(one.read(), words)
    other = LoggedRegistry(tmp_path / "other").begin()
    with raises("M551", match="key:ed25519"):
        ada.check(other.read(), other.publish("words"))
    plain = publish_collection(tmp_path / "plain", "words")
    with raises("M551", match="now has none") as caught:
        ada.check(Registry(str(tmp_path / "plain")), plain)
    assert "trust forget --log" in str(caught.value)
    assert ada.memory.forget()  # the remedy
    assert not ada.memory.forget()
    ada.check(Registry(str(tmp_path / "plain")), plain)


def test_a_mirror_has_no_say(one: LoggedRegistry, tmp_path: Path) -> None:
    """Neither one without a log, as modpkg makes them, nor one that is old."""
    words = one.publish("words")
    shutil.copytree(one.folder, tmp_path / "old")
    shutil.copytree(one.folder, tmp_path / "bare", ignore=shutil.ignore_patterns("log"))
    info = tmp_path / "bare" / REGISTRY_INFO
    told = msgspec.json.decode(info.read_bytes())
    del told["log"]
    info.write_bytes(canonical_json(told))
    more = one.publish("more")
    with serve(one.folder) as home, serve(tmp_path / "old") as old, serve(info.parent) as bare:
        for mirror in (old, bare):
            text = f'[registry."{home.url}"]\nmirrors = ["{mirror.url}"]'
            settings = parse_settings(text, tmp_path / "config.toml")
            ada = Reader(tmp_path / f"of-{mirror.url[-5:]}")
            ada.check(Registry(home.url, settings=settings), words, more)
            ada.check(Registry(home.url, settings=settings), words, more)
            seen = ada.memory.read()
            assert seen is not None
            assert seen.last.size == 2


def test_a_registry_that_is_silent_is_asked_once(
    one: LoggedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try may take its time; what a mirror has is read then, and held to what was seen."""
    monkeypatch.setattr(ObjectSource, "RETRIES", 0)
    words = one.publish("words")
    with serve(one.folder) as home, serve(one.folder) as mirror:
        text = f'[registry."{home.url}"]\nmirrors = ["{mirror.url}"]'
        settings = parse_settings(text, tmp_path / "config.toml")
        ada = Reader(tmp_path / "ada")
        ada.check(Registry(home.url, settings=settings), words)

        def fault(handler: Handler, number: int) -> bool:
            handler.answer(503)
            return True

        home.fault = fault
        registry = Registry(home.url, settings=settings)
        _ = registry.info  # which asks for the name of the registry
        before = len(home.seen)
        ada.check(registry, words)
        asked = home.paths()[before:]
        assert asked.count("/log/checkpoint") == 1
        assert len(asked) <= 2  # where the release is, at the same time


def test_what_is_remembered_only_goes_forward(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    ada = Reader(tmp_path / "ada")
    ada.check(one.read(), words)
    early = ada.memory.read()
    add(one, 3)
    ada.check(one.read(), words)
    assert early is not None
    assert ada.memory.keep(early.state, early)  # somebody who was slower
    seen = ada.memory.read()
    assert seen is not None
    assert seen.last.size == 4
    ada.memory.path.write_bytes(b"{}")
    assert ada.memory.read() is None
