"""An index is created, opened again, and rebuilt when it cannot be used."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from modpkg.core.disposable_index import APPLICATION, DisposableIndex, UnusableIndex, failures

TABLES = ("CREATE TABLE IF NOT EXISTS words (word TEXT)",)


def words(index: DisposableIndex) -> list[str]:
    with contextlib.closing(index.connect()) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM words")]


def add(index: DisposableIndex, word: str) -> None:
    with contextlib.closing(index.connect()) as connection, connection:
        connection.execute("INSERT INTO words VALUES (?)", (word,))


def test_it_is_created_once(tmp_path: Path) -> None:
    index = DisposableIndex(tmp_path / "i", TABLES, 3)
    add(index, "one")
    assert words(DisposableIndex(tmp_path / "i", TABLES, 3)) == ["one"]
    with contextlib.closing(sqlite3.connect(tmp_path / "i")) as connection:
        marks = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("user_version", "application_id", "journal_mode")
        }
    assert marks == {"user_version": 3, "application_id": APPLICATION, "journal_mode": "delete"}


def test_a_log_is_not_mapped(tmp_path: Path) -> None:
    """A full disk ends a process that writes into a mapped log; so the file is made again."""
    with contextlib.closing(sqlite3.connect(tmp_path / "i")) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA user_version=1; " + TABLES[0])
    index = DisposableIndex(tmp_path / "i", TABLES, 1)
    with pytest.raises(UnusableIndex):
        index.connect()
    assert not (tmp_path / "i-shm").exists()
    assert index.use(lambda: words(index), index.drop) == []


def test_another_version_cannot_be_used(tmp_path: Path) -> None:
    add(DisposableIndex(tmp_path / "i", TABLES, 1), "one")
    with pytest.raises(UnusableIndex):
        DisposableIndex(tmp_path / "i", TABLES, 2).connect()


def test_an_unusable_index_is_rebuilt_once(tmp_path: Path) -> None:
    index = DisposableIndex(tmp_path / "i", TABLES, 1)
    (tmp_path / "i").write_bytes(b"no database " * 1000)

    def rebuild() -> None:
        index.drop()
        add(index, "again")

    assert index.use(lambda: words(index), rebuild) == ["again"]
    assert index.use(lambda: words(index), lambda: pytest.fail("it is sound")) == ["again"]

    def always() -> None:
        raise UnusableIndex

    with pytest.raises(UnusableIndex):
        index.use(always, rebuild)


def test_a_full_disk_is_no_reason_to_rebuild(tmp_path: Path) -> None:
    index = DisposableIndex(tmp_path / "i", TABLES, 1)

    for reason in ("database or disk is full", "database is locked"):

        def act(reason: str = reason) -> None:
            raise sqlite3.OperationalError(reason)

        with pytest.raises(failures(), match=reason):
            index.use(act, lambda: pytest.fail("nothing is damaged"))


def test_dropping_removes_sqlite_side_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    index = DisposableIndex(folder / "i", TABLES, 1)
    connection = index.connect()
    connection.execute("INSERT INTO words VALUES ('one')")
    assert len(list(folder.iterdir())) > 1
    index.drop()
    assert list(folder.iterdir()) == []
    connection.close()
    index.drop()
    (folder / "i").mkdir()  # whatever stands there
    index.drop()
    assert list(folder.iterdir()) == []


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = DisposableIndex(tmp_path / "i", TABLES, 1).without_file()
    add(index, "one")
    index.drop()
    assert words(index) == []
    assert not any(tmp_path.rglob("*.sqlite*"))
