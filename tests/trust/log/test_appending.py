"""Adding to a log: what each change of an index adds, two servers at once, and who is killed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.progress import Progress
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.removing import remove_release
from modpkg.registry.writer import RegistryWriter
from modpkg.trust.log.appending import DECIDED, LogWriter, open_log, origin_of
from modpkg.trust.log.entries import logged_path, transfer_entry
from modpkg.trust.private_key import new_key
from tests.modules import publish_collection
from tests.raising import raises
from tests.trust.log.logged import ORIGIN, LoggedRegistry, actions_of, entries_of

AT = "2026-01-01T00:00:00Z"


def test_what_an_index_says_is_in_the_log_before(tmp_path: Path) -> None:
    publish_collection(tmp_path / "models", "old")
    one = LoggedRegistry(tmp_path / "models")
    one.writer.yank("old", "1.0", "wrong")
    publish_collection(tmp_path / "private", "secret")
    one.place.journal = one.log
    one.log.begin(ORIGIN, one.place, FolderPlace(tmp_path / "private"))
    first = [("publish", "old", "1.0"), ("yank", "old", "1.0"), ("publish", "", "")]
    assert actions_of(one.folder) == first
    line = one.publish("words")
    assert one.publish("words") == line  # again
    one.publish("words", "2.0")
    one.writer.yank("words", "1.0", "slow")
    one.writer.yank("words", "1.0", "very slow")
    one.writer.yank("words", "1.0", None)
    one.writer.deprecate("words", None, "old", "old>=1")
    one.writer.deprecate("words", "2.0", None)
    remove_release(one.writer, "words", "1.0", "leaked", Progress())
    one.log.append([transfer_entry("words", "bob", AT)])
    assert actions_of(one.folder)[3:] == [
        ("publish", "words", "1.0"),
        ("publish", "words", "2.0"),
        ("yank", "words", "1.0"),
        ("unyank", "words", "1.0"),
        ("deprecate", "words", "1.0"),
        ("deprecate", "words", "2.0"),
        ("undeprecate", "words", "2.0"),
        ("remove", "words", "1.0"),
        ("transfer", "words", ""),
    ]
    entries = entries_of(one.folder)
    assert entries[3].release == line.release
    assert entries[7].successor == "old>=1"
    assert entries[-1].owner == "bob"
    assert "slow" not in str(entries)


def test_full_tiles_take_the_place_of_partial_ones(tmp_path: Path) -> None:
    one = LoggedRegistry(tmp_path / "models").begin()
    for first, count in ((0, 3), (3, 252), (255, 1), (256, 1), (257, 300)):
        names = range(first, first + count)
        one.log.append([transfer_entry(f"m{name}", "bob", AT) for name in names])
        assert [entry.name for entry in entries_of(one.folder)] == [
            f"m{i}" for i in range(names.stop)
        ]
    tiles = one.folder / "log/tile"
    for kind in ("0", "entries"):
        assert (tiles / kind / "001").is_file()
        assert not [*(tiles / kind / "000.p").iterdir()]
    assert (tiles / "0/002.p/45").stat().st_size == 45 * 32
    assert (tiles / "1/000.p/2").stat().st_size == 64


def test_a_place_with_a_log_takes_nothing_that_is_not_logged(tmp_path: Path) -> None:
    one = LoggedRegistry(tmp_path / "models").begin()
    one.publish("words")
    with raises("M557", match="log-key"):
        publish_collection(tmp_path / "models", "other")
    with raises("M557", match="log-key"):
        RegistryWriter(tmp_path / "models").yank("words", "1.0", "why")
    assert one.read().index("other") == []
    other = LoggedRegistry(tmp_path / "models", tmp_path / "other.pem")
    with raises("M556", match="key:ed25519"):
        other.begin()
    with raises("M556", match="key:ed25519"):
        other.log.append([transfer_entry("words", "bob", AT)])
    assert actions_of(one.folder) == [("publish", "words", "1.0")]


def test_several_writers_add_at_once(tmp_path: Path) -> None:
    one = LoggedRegistry(tmp_path / "models").begin()
    logs = [LogWriter(FolderPlace(one.folder), one.key) for _ in range(3)]

    def add(log: LogWriter, number: int) -> None:
        for at in range(8):
            log.append([transfer_entry(f"m{number}-{at}", "bob", AT)])

    threads = [threading.Thread(target=add, args=(log, i)) for i, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [entry.name for entry in entries_of(one.folder)]
    assert sorted(names) == sorted(f"m{i}-{at}" for i in range(3) for at in range(8))


class Killed(BaseException):
    """What a kill is in these tests: nobody handles it."""


def killed_at(step: int, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do something until the file number ``step`` is to be written; return whether it was."""
    import modpkg.registry.folder_place as module

    count, write = 0, module.write_atomically

    def write_or_die(*args: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count > step:
            raise Killed
        write(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomically", write_or_die)
        try:
            work()
        except Killed:
            return True
    return False


def test_who_is_killed_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = LoggedRegistry(tmp_path / "base").begin()
    base.log.append([transfer_entry(f"m{i}", "bob", AT) for i in range(255)])
    steps = 0
    while True:
        folder = tmp_path / f"at-{steps}"
        shutil.copytree(base.folder, folder)
        one = LoggedRegistry(folder, tmp_path / "base.pem")
        one.place.journal = one.log
        was_killed = killed_at(steps, lambda one=one: one.publish("words"), monkeypatch)
        visible = [line.version for line in one.read().index("words")]
        if visible:  # nothing that can be seen is not logged
            assert ("publish", "words", "1.0") in actions_of(one.folder)
        next_one = LoggedRegistry(folder, tmp_path / "base.pem")
        next_one.place.journal = next_one.log
        line = next_one.publish("other")
        assert actions_of(next_one.folder)[-1] == ("publish", "other", "1.0")
        assert next_one.place.size(logged_path(parse_digest(line.release)))
        next_one.publish("words")
        found = actions_of(next_one.folder)[255:]
        assert 2 <= len(found) <= 3
        assert {*found} == {("publish", "other", "1.0"), ("publish", "words", "1.0")}
        steps += 1
        if not was_killed:
            break
    assert steps > 6


def test_who_is_killed_while_he_begins_a_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(12):
        folder = tmp_path / f"at-{step}"
        publish_collection(folder, "words")
        one = LoggedRegistry(folder, tmp_path / "key.pem")
        was_killed = killed_at(step, one.begin, monkeypatch)
        LoggedRegistry(folder, tmp_path / "key.pem").begin()
        assert {*actions_of(one.folder)} == {("publish", "words", "1.0")}
        if not was_killed:
            return
    raise AssertionError("it is never done")


def test_a_damaged_log_is_not_gone_on_with(tmp_path: Path) -> None:
    one = LoggedRegistry(tmp_path / "models").begin()
    one.log.append([transfer_entry(f"m{i}", "bob", AT) for i in range(3)])
    tile, more = one.folder / "log/tile/0/000.p/3", [transfer_entry("m", "bob", AT)]
    whole = tile.read_bytes()
    for damaged in (bytes(96), whole[:-32]):
        tile.write_bytes(damaged)
        with raises("M555", match="root|hashes"):
            one.log.append(more)
    tile.unlink()
    with raises("M555", match="missing"):
        one.log.append(more)
    tile.write_bytes(whole)
    for text in ("{", '{"size":9,"entries":["{}"]}'):
        (one.folder / DECIDED).write_text(text)
        with raises("M555", match=DECIDED):
            one.log.append(more)
    (one.folder / DECIDED).unlink()
    one.log.append(more)
    assert len(entries_of(one.folder)) == 4
    checkpoint = one.folder / "log/checkpoint"
    checkpoint.unlink()
    with raises("M555", match="back-up"):
        one.log.append(more)


def test_which_keys_a_log_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = FolderPlace(tmp_path / "models")
    new_key(tmp_path / "log.pem", "ed25519", "hush")
    with raises("M547", match="MODPKG_KEY_PASSPHRASE"):
        open_log(place, str(tmp_path / "log.pem"))
    monkeypatch.setenv("MODPKG_KEY_PASSPHRASE", "hush")
    open_log(place, str(tmp_path / "log.pem"))
    new_key(tmp_path / "other.pem", "ecdsa-p256", None)
    with raises("M547", match="Ed25519"):
        open_log(place, str(tmp_path / "other.pem"))
    assert origin_of("http://[::1]:8420") == "[::1]:8420/log"
    assert origin_of("https://models.example") == ORIGIN
