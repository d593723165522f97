"""Who asks, as the server sees it."""

from __future__ import annotations

from litestar import get
from litestar.testing import TestClient
from sqlalchemy.exc import OperationalError

from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.state import Server
from tests.server.conftest import token_for


def test_a_token_says_who_asks(server: Server, client: TestClient[ServerApp]) -> None:
    assert client.get("/api/1/me").json()["name"] == ""
    headers = {"Authorization": f"Bearer {token_for(server, 'ada')}"}
    assert client.get("/api/1/me", headers=headers).json()["name"] == "ada"


def test_a_wrong_token_is_refused_and_not_taken_for_anybody(client: TestClient[ServerApp]) -> None:
    answer = client.get("/api/1/me", headers={"Authorization": "Bearer modpkg_guessed"})
    assert (answer.status_code, answer.json()["code"]) == (401, "M430")


def test_a_database_that_is_away_is_no_error_of_the_server(server: Server) -> None:
    @get("/api/1/away", sync_to_thread=False)
    def away() -> None:
        raise OperationalError("SELECT 1", {}, Exception("the connection was refused"))

    with TestClient(make_app(server, [away])) as client:
        answer = client.get("/api/1/away")
    assert (answer.status_code, answer.json()["code"]) == (503, "M302")
    assert answer.headers["retry-after"] == "1"
    assert "refused" not in answer.text
