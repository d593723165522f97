"""A server in this process, for tests of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server.app import make_app
from modpkg.server.callers import ACTIONS, BEGINNING, secret_digest
from modpkg.server.clock import now
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on an empty folder, with its tables."""
    made = Server(ServerSettings(storage=str(tmp_path / "registry"), name="test"))
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> Iterator[TestClient[Litestar]]:
    """A client of the server's application."""
    with TestClient(make_app(server)) as made:
        yield made


def token_for(server: Server, name: str, actions: str = " ".join(ACTIONS)) -> str:
    """Return a token of a person, who is made if need be."""
    token = f"{BEGINNING}{name}{'0' * 40}"
    with server.database.begin() as db:
        account = Account(name=name, created=now())
        db.add(account)
        db.flush()
        row = ApiToken(
            account_id=account.id,
            name="test",
            digest=secret_digest(token),
            actions=actions,
            created=now(),
        )
        db.add(row)
    return token
