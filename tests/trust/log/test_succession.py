"""The key of a log is exchanged: by who has the one before, and readers go on."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from modpkg.core.records import LogInfo
from modpkg.manifest.config import parse_settings
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.identity import set_info
from modpkg.registry.place import registry_at
from modpkg.registry.reader import Registry
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.trust.log.appending import LogWriter
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.entries import transfer_entry
from modpkg.trust.log.memory import LogMemory, LogState
from modpkg.trust.log.succession import SUCCESSORS, is_successor, named_successor
from modpkg.trust.private_key import PrivateKey
from tests.raising import raises
from tests.registry.servers import serve
from tests.trust.log.logged import ORIGIN, LoggedRegistry, actions_of
from tests.trust.signed_registry import key

AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def one(tmp_path: Path) -> LoggedRegistry:
    return LoggedRegistry(tmp_path / "models").begin()


def hand_over(one: LoggedRegistry, old: PrivateKey, new: PrivateKey) -> LogWriter:
    """Do what a server does that is started with both keys."""
    log = LogWriter(one.place, new)
    log.begin(ORIGIN, one.place, before=LogWriter(one.place, old))
    one.place.journal = one.log = log
    return log


def memory(folder: Path) -> LogMemory:
    return LogMemory("https://models.example", folder)


def test_readers_go_on_with_the_key_that_the_one_before_has_named(
    one: LoggedRegistry, tmp_path: Path
) -> None:
    words = one.publish("words")
    ada, bob = memory(tmp_path / "ada"), memory(tmp_path / "bob")
    locked = check_logged(one.read(), [words], ada)
    assert locked is not None
    for old, new in ((one.key, key(1)), (key(1), key(2))):
        hand_over(one, old, new)
        hand_over(one, old, new)  # started once more with both
        one.publish("words", f"2.{new.public.data[0]}")
    now = check_logged(one.read(), [words], ada)
    assert now is not None
    assert (now.log.key, now.checkpoint.size) == (str(key(2).public), 3)
    assert check_logged(one.read(), [words], bob, locked) == now  # by the lock, which has the first
    seen = ada.read()
    assert seen is not None
    assert seen.knows(locked)
    assert len(actions_of(one.folder)) == 3


def test_the_key_before_signs_no_more(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    ada = memory(tmp_path / "ada")
    old = one.log
    shutil.copytree(one.folder, tmp_path / "old")
    hand_over(one, one.key, key(1))
    check_logged(one.read(), [words], ada)
    with raises("M550", match="not signed by"):  # a server that was not stopped
        old.append([transfer_entry("words", "bob", AT)])
    with raises("M551", match="key:ed25519"):
        check_logged(Registry(str(tmp_path / "old")), [words], ada)
    with raises("M556", match="log-key-before"):
        LogWriter(one.place, key(3)).begin(ORIGIN, one.place, before=LogWriter(one.place, key(2)))


def test_no_key_comes_back(one: LoggedRegistry, tmp_path: Path) -> None:
    """Readers would take neither of two that a key has named: so whoever runs it is refused."""
    words = one.publish("words")
    ada = memory(tmp_path / "ada")
    hand_over(one, one.key, key(1))
    check_logged(one.read(), [words], ada)
    named = (one.folder / SUCCESSORS).read_bytes()
    with raises("M572", match="for the log of .*: that has named key:ed25519"):
        hand_over(one, key(1), one.key)
    set_info(one.place, "log", {"origin": ORIGIN, "key": str(one.key.public)})  # went back before
    LogWriter(one.place, one.key)._sign_alone(key(1).public)
    with raises("M572", match="it has named key:ed25519"):
        hand_over(one, one.key, key(2))
    assert (one.folder / SUCCESSORS).read_bytes() == named
    set_info(one.place, "log", {"origin": ORIGIN, "key": str(key(1).public)})
    LogWriter(one.place, key(1))._sign_alone(one.key.public)
    hand_over(one, key(1), key(2))
    one.publish("words", "2.0")
    check_logged(one.read(), [words], ada)


def test_the_key_before_still_counts_for_who_has_not_seen_that_it_was_exchanged(
    one: LoggedRegistry, tmp_path: Path
) -> None:
    """Not covered, as docs/security.md says: nothing tells him that there is a later key."""
    words = one.publish("words")
    ada, bob, eve = (memory(tmp_path / name) for name in ("ada", "bob", "eve"))
    check_logged(one.read(), [words], ada)
    shutil.copytree(one.folder, tmp_path / "old")
    hand_over(one, one.key, key(1))
    thief = LoggedRegistry(tmp_path / "old", tmp_path / "models.pem")
    thief.place.journal = thief.log
    evil = thief.publish("words", "1.1")
    shutil.rmtree(tmp_path / "projects" / "words-1.1")
    for name in ("more", "tags"):
        one.publish(name)
    for reader in (ada, bob):
        check_logged(thief.read(), [evil], reader)
        with raises("M552", match="different things"):  # once he meets the other log
            check_logged(one.read(), [words], reader)
    check_logged(one.read(), [words], eve)  # who has seen it is told
    with raises("M551", match="key:ed25519"):
        check_logged(thief.read(), [evil], eve)


def test_nobody_else_names_a_successor(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    ada = memory(tmp_path / "ada")
    check_logged(one.read(), [words], ada)
    mallory = key(1)
    other = named_successor("other.example/log", one.key, mallory.public)
    own = named_successor(ORIGIN, mallory, mallory.public)
    before = LogInfo(ORIGIN, str(one.key.public))
    set_info(one.place, "log", {"origin": ORIGIN, "key": str(mallory.public)})
    for data in (None, b"", b"{}\n", other + b"\n" + own + b"\n"):
        if data is not None:
            (one.folder / SUCCESSORS).write_bytes(data)
            assert not is_successor(data, before, LogInfo(ORIGIN, str(mallory.public)))
        with raises("M551", match="key:ed25519"):
            check_logged(one.read(), [words], ada)
    right = named_successor(ORIGIN, one.key, mallory.public)
    assert is_successor(right, before, LogInfo(ORIGIN, str(mallory.public)))
    assert not is_successor(right, before, LogInfo("other", str(mallory.public)))


def test_a_log_is_held_to_its_history_whatever_its_key(one: LoggedRegistry, tmp_path: Path) -> None:
    """A successor that begins with something else is refused as the key before it would be."""
    fork = LoggedRegistry(tmp_path / "fork", tmp_path / "models.pem").begin()
    words, tools = one.publish("words"), fork.publish("tools")
    ada = memory(tmp_path / "ada")
    locked = check_logged(one.read(), [words], ada)
    hand_over(fork, fork.key, key(1))
    with raises("M552", match="different things"):
        check_logged(fork.read(), [tools], ada)
    with raises("M552", match="modpkg.lock"):
        check_logged(fork.read(), [tools], memory(tmp_path / "bob"), locked)


class Killed(Exception):
    pass


def test_whoever_is_killed_meanwhile_no_reader_is_refused(
    one: LoggedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = one.publish("words")
    locked = check_logged(one.read(), [words], memory(tmp_path / "first"))
    change = FolderPlace.change
    finished = []
    for number in range(1, 8):
        folder = tmp_path / f"copy{number}"
        shutil.copytree(one.folder, folder)
        copy = LoggedRegistry(folder, tmp_path / "models.pem")
        left = [number]

        def until(place: FolderPlace, edit: object, left: list[int] = left) -> object:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return change(place, edit)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(FolderPlace, "change", until)
            with contextlib.suppress(Killed):
                hand_over(copy, copy.key, key(1))
                finished.append(number)
        for who, state in (("ada", locked), ("bob", None)):
            check_logged(copy.read(), [words], memory(tmp_path / f"{who}{number}"), state)
        hand_over(copy, copy.key, key(1))
        copy.publish("tools")
        check_logged(copy.read(), [words], memory(tmp_path / f"ada{number}"))
    assert finished == [7]


def test_a_mirror_may_be_behind(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    shutil.copytree(one.folder, tmp_path / "old")
    with serve(one.folder) as home, serve(tmp_path / "old") as old:
        text = f'[registry."{home.url}"]\nmirrors = ["{old.url}"]'
        settings = parse_settings(text, tmp_path / "config.toml")
        ada, bob = memory(tmp_path / "ada"), memory(tmp_path / "bob")
        locked = check_logged(Registry(home.url, settings=settings), [words], ada)
        hand_over(one, one.key, key(1))
        states: list[LogState | None] = [
            check_logged(Registry(home.url, settings=settings), [words], who, state)
            for who, state in ((ada, None), (bob, locked), (memory(tmp_path / "eve"), None))
        ]
        assert {state.log.key for state in states if state} == {str(key(1).public)}
        (one.folder / SUCCESSORS).unlink()
        with raises("M551", match="forget --log"):
            check_logged(
                Registry(home.url, settings=settings), [words], memory(tmp_path / "joe"), locked
            )


def test_a_server_is_started_with_both_keys(one: LoggedRegistry, tmp_path: Path) -> None:
    one.publish("words")
    other = LoggedRegistry(tmp_path / "other")
    settings = ServerSettings(
        storage=str(one.folder),
        log_key=str(tmp_path / "other.pem"),
        log_key_before=str(tmp_path / "models.pem"),
    )
    server = Server(settings)
    try:
        server.prepare()
        info = registry_at(one.place).info.log
        assert info is not None
        assert info.key == str(other.key.public)
    finally:
        server.close()
