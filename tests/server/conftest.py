"""A server in this process, for tests of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.server.api_tokens import add_token
from modpkg.server.app import make_app
from modpkg.server.callers import ACTIONS
from modpkg.server.clock import now
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on an empty folder, with its tables."""
    made = Server(ServerSettings(storage=str(tmp_path / "registry"), name="test"))
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> Iterator[TestClient[ServerApp]]:
    """A client of the server's application."""
    with TestClient(make_app(server)) as made:
        yield made


def token_for(
    server: Server, name: str, actions: str = " ".join(ACTIONS), modules: str = "*"
) -> str:
    """Return a token of a person, who is made if need be."""
    with server.database.begin() as db:
        account = db.scalar(select(Account).where(Account.name == name))
        if account is None:
            account = Account(name=name, created=now())
            db.add(account)
            db.flush()
        return add_token(db, account.id, "test", actions.split(), modules.split(), None).token


def sent_with(token: str) -> dict[str, str]:
    """Return the headers of a request with a token."""
    return {"Authorization": f"Bearer {token}"}
