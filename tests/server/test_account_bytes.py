"""What an account has uploaded."""

from __future__ import annotations

from pathlib import Path

from litestar.testing import TestClient
from sqlalchemy import func, select

from modpkg.server.accounts import find_account
from modpkg.server.file_answers import ServerApp
from modpkg.server.state import Server
from modpkg.server.tables import PublishingSession
from tests.changing import numbers, write
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built


def uploaded(server: Server) -> int:
    """Return what counts of all that was uploaded, bytes."""
    with server.database.begin() as db:
        return db.scalar(select(func.sum(PublishingSession.size))) or 0


def test_what_is_removed_for_good_counts_no_more(
    server: Server, client: TestClient[ServerApp], tmp_path: Path
) -> None:
    ada, chief = (Publisher(client, token_for(server, name)) for name in ("ada", "chief"))
    with server.database.begin() as db:
        account = find_account(db, "chief")
        assert account is not None
        account.is_administrator = True
    ada.publish(*built(write(tmp_path / "1", numbers("a", "b")), server.place))
    first = uploaded(server)
    again = write(tmp_path / "2", numbers("a", "b", "c"), version="1.1")
    ada.publish(*built(again, server.place))
    both = uploaded(server)

    def remove(version: str | None) -> int:
        body = {"version": version, "reason": "leaked"}
        answer = chief.request("POST", "modules/m/remove", json=body)
        assert answer.status_code == 200, answer.text
        freed: int = answer.json()["freed"]
        return freed

    freed = remove("1.0")
    assert 0 < freed < first  # what the second release needs of it is there, and counts
    assert uploaded(server) == both - freed
    assert remove("1.0") == 0
    assert uploaded(server) == both - freed
    remove(None)
    assert uploaded(server) == 0
