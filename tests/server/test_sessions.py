"""Publishing in sessions: what is refused when, what can be resumed, and what appears."""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.server.file_answers import ServerApp
from modpkg.server.state import Server
from modpkg.server.tables import Event, PublishingSession, Role
from tests.changing import a_little, numbers, write
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

TENSORS = numbers("a", "b", "c")


@pytest.fixture
def ada(server: Server, client: TestClient[ServerApp]) -> Publisher:
    """Somebody with a token for everything."""
    return Publisher(client, token_for(server, "ada"))


def test_a_release_is_published_in_a_session_and_its_update_uploads_what_is_new(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    tree, line = built(write(tmp_path / "1", TENSORS), server.place)
    session = ada.declare(tree, line).json()
    assert (session["state"], session["line"]) == ("open", None)
    assert len(session["missing"]) == 4  # pack, config, interface, record
    assert ada.declare(tree, line).json()["id"] == session["id"]
    ada.upload(tree, session)
    assert server.registry().names() == []
    done = ada.commit(session["id"]).json()
    assert server.registry().index("m")[0].release == line.release == done["line"]["release"]
    assert ada.commit(session["id"]).json() == done
    again = ada.declare(tree, line).json()
    assert (again["id"], again["line"]) == ("", done["line"])
    update = write(tmp_path / "2", a_little(TENSORS, "b"), version="1.0.1")
    tree, line = built(update, server.place)
    sizes = {blob["size"] for blob in ada.declare(tree, line).json()["missing"]}
    assert max(sizes) < server.registry().index("m")[0].size / 3
    assert ada.publish(tree, line)["line"]["version"] == "1.0.1"
    with server.database.begin() as db:
        assert [event.version for event in db.scalars(select(Event))] == ["1.0", "1.0.1"]
        assert [role.role for role in db.scalars(select(Role))] == ["owner"]
        states = db.scalars(select(PublishingSession.state))
        assert set(states) == {"committed"}
    folder = server.place.folder
    assert folder is not None
    assert not list((folder / ".server" / "sessions").iterdir())
