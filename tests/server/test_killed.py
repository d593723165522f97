"""A server that is killed while it commits: releases are whole, or nobody sees them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.core.progress import Progress
from modpkg.registry.damage import Verification
from modpkg.server.app import make_app
from modpkg.server.callers import ACTIONS, Caller
from modpkg.server.clock import now
from modpkg.server.committing import claim_name, commit
from modpkg.server.settings import ServerSettings
from modpkg.server.spool import spooled_sessions
from modpkg.server.state import Server
from modpkg.server.sweeping import sweep
from modpkg.server.tables import Account, Event, Module, PublishingSession, Role
from tests.changing import numbers, write
from tests.faults import writes
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

SAMPLE = 10
"""At how many of the changes to the file system a server is killed, of about fifty."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Caller]:
    """A storage with a release, and a session for the next one, all of which is uploaded."""
    root = tmp_path_factory.mktemp("killed")
    server = Server(ServerSettings(storage=str(root / "registry"), name="test"))
    server.prepare()
    with TestClient(make_app(server)) as client:
        ada = Publisher(client, token_for(server, "ada"))
        tensors = numbers("a", "b")
        ada.publish(*built(write(root / "1", tensors), server.place))
        new = write(root / "2", tensors, name="n")
        tree, line = built(new, server.place)
        session = ada.declare(tree, line).json()
        ada.upload(tree, session)
        with server.database.begin() as db:
            account = db.scalars(select(Account)).one()
        caller = Caller(
            account_id=account.id, name="ada", actions=frozenset(ACTIONS), patterns=("*",)
        )
    return root / "registry", session["id"], caller


def committed_until(storage: Path, session: str, caller: Caller, fatal: int) -> int:
    """Commit in another process that is killed before a change to the file system.

    Return how many there were, or -1 if it was killed.
    """
    receive, send = os.pipe()
    if (child := os.fork()) == 0:
        seen = 0

        def hook(event: str, values: tuple[Any, ...]) -> None:
            nonlocal seen
            if writes(event, values, f"{storage}/"):
                seen += 1
                if seen == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            commit(Server(ServerSettings(storage=str(storage))), caller, session)
            os.write(send, str(seen).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    return -1 if os.WIFSIGNALED(status) else int(text)


def seen_by_readers(server: Server) -> list[str]:
    """Return the modules whose index readers see; all they name has to be there, undamaged."""
    registry = server.registry()
    names = registry.names() or []
    found = Verification(registry, Progress()).run(names, None)
    assert not found.damaged
    return names


def test_a_server_that_is_killed_leaves_whole_releases_and_sessions_that_go_on(
    prepared: tuple[Path, str, Caller], tmp_path: Path
) -> None:
    storage, session, caller = prepared
    shutil.copytree(storage, tmp_path / "0")
    count = committed_until(tmp_path / "0", session, caller, 0)
    assert count > 20
    visible = set()
    for fatal in sorted({round(1 + at * (count - 1) / (SAMPLE - 1)) for at in range(SAMPLE)}):
        shutil.copytree(storage, copy := tmp_path / str(fatal))
        assert committed_until(copy, session, caller, fatal) == -1
        server = Server(ServerSettings(storage=str(copy)))
        names = seen_by_readers(server)
        visible.add("n" in names)
        done = commit(server, caller, session)
        assert server.registry().line("n", "1.0") == done.line
        assert seen_by_readers(server) == ["m", "n"]
        with server.database.begin() as db:
            assert len([*db.scalars(select(Event).where(Event.module == "n"))]) == 1
            assert len([*db.scalars(select(Role).where(Role.module == "n"))]) == 1
        assert session not in spooled_sessions(server.place)
        assert server.registry().modules().keys() == {"m", "n"}  # type: ignore[union-attr]
        server.close()
    assert visible == {False, True}


def test_a_name_that_was_given_for_nothing_is_free_again(
    prepared: tuple[Path, str, Caller], tmp_path: Path
) -> None:
    storage, session, caller = prepared
    shutil.copytree(storage, tmp_path / "copy")
    server = Server(ServerSettings(storage=str(tmp_path / "copy")))
    with server.database.begin() as db:
        row = db.get_one(PublishingSession, session)
    assert claim_name(server, caller, row)  # and killed then
    assert not claim_name(server, caller, row)
    with server.database.begin() as db:
        db.get_one(PublishingSession, session).expires = now()
    sweep(server)
    with server.database.begin() as db:
        assert {*db.scalars(select(Module.name))} == {"m"}
    server.close()
