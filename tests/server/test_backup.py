"""Back-ups: taken while releases are published, and restored, also beside an older database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.manifest.logins import SentToken
from modpkg.registry.opening import open_place
from modpkg.registry.reader import Registry
from modpkg.registry.server_writer import writer_at
from modpkg.server.accounts import make_administrator
from modpkg.server.rebuilding import rebuild
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, Event, Module
from registry_spec.check import check
from tests.changing import numbers, write
from tests.documents import ROOT
from tests.raising import raises
from tests.registry.places import shared
from tests.registry.places.postgresql import PostgreSQL
from tests.registry.places.unpacked import find_program
from tests.server.conftest import token_for
from tests.server.live import live_server
from tests.server.publisher import built


def publish(server: Server, token: str, folder: Path, name: str, version: str = "1.0") -> IndexLine:
    """Publish a module over HTTP."""
    url = server.settings.url
    place = open_place(url, Settings(logins={url: SentToken(token)}))
    tree, line = built(
        write(folder / f"{name}-{version}", numbers(name, "b"), name, version), place
    )
    return writer_at(place).publish(Registry(str(tree.root)), line)


def back_up(storage: Path, target: Path, without_rsync: bool = False, **environment: str) -> None:
    """Run the script, as an operator does."""
    path = os.environ["PATH"]
    if without_rsync:
        programs = target.parent / "programs"
        programs.mkdir(exist_ok=True)
        for program in ("sh", "mkdir", "rm", "mv"):
            if not (programs / program).exists():
                (programs / program).symlink_to(str(shutil.which(program)))
        path = str(programs)
    done = subprocess.run(
        ["/bin/sh", ROOT / "deploy" / "backup.sh", storage, target],
        env=os.environ | {"PATH": path, "PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def restored(backup: Path, folder: Path, database: str | None = None) -> Server:
    """Return a server of a back-up, as docs/operating.md restores it."""
    shutil.copytree(backup / "storage", folder)
    if database is None:
        own = folder / ".server" / "server.sqlite3"
        own.parent.mkdir()
        shutil.copy(backup / "server.sqlite3", own)
    server = Server(ServerSettings(storage=str(folder), database=database))
    server.prepare()
    return server


def versions(registry: Registry) -> set[str]:
    names = registry.names() or []
    return {f"{line.name} {line.version}" for name in names for line in registry.index(name)}


def test_a_back_up_that_is_taken_while_releases_are_published(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    ends = threading.Event()
    with live_server(tmp_path / "registry") as server:
        token = token_for(server, "ada")

        def go_on() -> None:
            for number in range(1000):
                if ends.is_set():
                    break
                line = publish(server, token, tmp_path / "projects", "words", f"1.{number}")
                acknowledged.append(f"{line.name} {line.version}")

        publishing = threading.Thread(target=go_on)
        publishing.start()
        try:
            before: set[str] = set()
            for run in range(2):  # the second goes on with the first
                while len(acknowledged) < 2 + 2 * run:
                    assert publishing.is_alive()
                    ends.wait(0.01)
                before = {*acknowledged}
                back_up(tmp_path / "registry", tmp_path / "backup", without_rsync=bool(run))
        finally:
            ends.set()
            publishing.join()
    copy = restored(tmp_path / "backup", tmp_path / "copy")
    found = versions(copy.registry())
    assert before <= found
    rebuild(copy)
    assert check(str(tmp_path / "copy")).problems == []
    with copy.database.begin() as db:
        (account,) = db.scalars(select(Account))
        assert account.name == "ada"
        told = {f"{row.module} {row.version}" for row in db.scalars(select(Event)) if row.version}
    assert before <= told <= found  # of what the database knows, the storage has all
    copy.close()
    with live_server(tmp_path / "copy") as again:
        publish(again, token, tmp_path / "later", "words", "2.0")


def test_an_older_database_beside_a_newer_storage(tmp_path: Path) -> None:
    with live_server(tmp_path / "registry") as server:
        token = token_for(server, "ada")
        make_administrator(server.database, "ada")
        publish(server, token, tmp_path / "projects", "words")
        back_up(tmp_path / "registry", tmp_path / "backup")
        publish(server, token, tmp_path / "projects", "words", "1.1")
        publish(server, token, tmp_path / "projects", "sounds")
        shutil.rmtree(tmp_path / "backup" / "storage")
        shutil.copytree(
            tmp_path / "registry",
            tmp_path / "backup" / "storage",
            ignore=shutil.ignore_patterns(".server"),
        )
    copy = restored(tmp_path / "backup", tmp_path / "copy")
    assert rebuild(copy).modules == ["sounds"]
    assert rebuild(copy).modules == []
    assert versions(copy.registry()) == {"words 1.0", "words 1.1", "sounds 1.0"}
    assert check(str(tmp_path / "copy")).problems == []
    copy.close()
    with live_server(tmp_path / "copy") as again:
        publish(again, token, tmp_path / "projects", "words", "1.2")
        with raises("M432"):
            publish(again, token, tmp_path / "projects", "sounds", "1.1")
        url = f"{again.settings.api}modules/sounds/owners/ada"
        headers = {"Authorization": f"Bearer {token}"}
        role = {"role": "owner"}  # by an administrator
        named = httpx.put(url, json=role, headers=headers, timeout=120)
        assert named.is_success, named.text
        publish(again, token, tmp_path / "projects", "sounds", "1.2")


def test_a_storage_without_a_database_has_every_release(tmp_path: Path) -> None:
    with live_server(tmp_path / "registry") as server:
        publish(server, token_for(server, "ada"), tmp_path / "projects", "words")
        back_up(tmp_path / "registry", tmp_path / "backup")
    shutil.copytree(tmp_path / "backup" / "storage", tmp_path / "copy")
    copy = Server(ServerSettings(storage=str(tmp_path / "copy")))
    copy.prepare()
    assert rebuild(copy).modules == ["words"]
    assert versions(copy.registry()) == {"words 1.0"}
    with copy.database.begin() as db:
        assert [module.name for module in db.scalars(select(Module))] == ["words"]
    copy.close()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with shared.servers() as servers:
        yield servers.of(PostgreSQL)


def test_a_database_of_postgresql(tmp_path: Path, postgresql: PostgreSQL) -> None:
    dump, variables = find_program("pg_dump", "postgresql")
    load, _ = find_program("pg_restore", "postgresql")
    database, other = postgresql.new_database(), postgresql.new_database()
    with live_server(tmp_path / "registry", database=database) as server:
        token = token_for(server, "ada")
        publish(server, token, tmp_path / "projects", "words")
        plain = database.replace("+psycopg", "")
        paths = f"{Path(dump).parent}{os.pathsep}{os.environ['PATH']}"
        back_up(
            tmp_path / "registry",
            tmp_path / "backup",
            MODPKG_DATABASE=plain,
            **{**variables, "PATH": paths},
        )
    command = [load, "--no-owner", f"--dbname={other.replace('+psycopg', '')}"]
    done = subprocess.run(
        [*command, tmp_path / "backup" / "database.dump"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    copy = restored(tmp_path / "backup", tmp_path / "copy", other)
    assert rebuild(copy).modules == []
    copy.close()
    with live_server(tmp_path / "copy", database=other) as again:
        publish(again, token, tmp_path / "projects", "words", "1.1")
        assert versions(again.registry()) == {"words 1.0", "words 1.1"}
