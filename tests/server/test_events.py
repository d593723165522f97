"""The event log: who sees what, and that nothing of it is changed."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DatabaseError

from modpkg.server import events
from modpkg.server.accounts import find_account
from modpkg.server.callers import caller_for
from modpkg.server.events import log_event
from modpkg.server.owners import add_module
from modpkg.server.state import Server
from modpkg.server.tables import Event
from tests.server.conftest import sent_with, token_for

Client = TestClient[Litestar]


@pytest.fixture
def people(server: Server) -> dict[str, dict[str, str]]:
    headers = {name: sent_with(token_for(server, name)) for name in ("ada", "bob", "chief")}
    with server.database.begin() as db:
        ada, chief = find_account(db, "ada"), find_account(db, "chief")
        assert ada is not None
        assert chief is not None
        chief.is_administrator = True
        add_module(db, caller_for(ada), "words")
        add_module(db, caller_for(ada), "secret", private=True)
        log_event(db, "ada", "publish", "words", "1.0", release="sha256:…")
        log_event(db, "ada", "account.password")
    return headers


def seen(client: Client, headers: Any = None, **query: Any) -> list[tuple[str, str]]:
    found = client.get("/api/1/events", params=query, headers=headers or {}).json()["events"]
    return [(one["action"], one["module"]) for one in found]


def test_events_are_seen_by_those_whom_they_concern(client: Client, people: Any) -> None:
    public = [("publish", "words"), ("module.create", "words")]
    own = [("account.password", ""), public[0], ("module.create", "secret"), public[1]]
    assert seen(client) == seen(client, people["bob"]) == public
    assert seen(client, people["ada"]) == own
    assert seen(client, people["chief"]) == [own[0], *public]
    assert seen(client, people["ada"], module="secret") == [own[2]]
    assert seen(client, people["bob"], module="secret") == []
    assert seen(client, person="bob") == []
    assert seen(client, person="ada") == public


def test_events_come_in_pages(client: Client, people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAGE", 1)
    first = client.get("/api/1/events").json()
    second = client.get("/api/1/events", params={"before": first["before"]}).json()
    assert [one["events"][0]["action"] for one in (first, second)] == ["publish", "module.create"]
    assert second["before"] is None
    for wrong in ("x", "-1", "9" * 30):
        assert client.get("/api/1/events", params={"before": wrong}).status_code == 400


def test_no_event_is_changed_or_taken_away(server: Server, people: Any) -> None:
    del people
    for statement in (update(Event).values(actor="eve"), delete(Event)):
        with (
            pytest.raises(DatabaseError, match="only added"),
            server.database.begin() as db,
        ):
            db.execute(statement)
    with server.database.begin() as db:
        assert {*db.scalars(select(Event.actor))} == {"ada"}
