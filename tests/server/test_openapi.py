"""Requests of all kinds that the API's own description allows, and some that it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from litestar.testing import TestClient
from sqlalchemy import update

from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import ApiToken
from tests.server.conftest import token_for

EXAMPLES = 10
"""Requests of each kind."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient[ServerApp]]:
    """A client of a server, with a token for everything."""
    folder = tmp_path_factory.mktemp("openapi")
    server = Server(ServerSettings(storage=str(folder / "registry"), name="test"))
    server.prepare()
    with TestClient(make_app(server)) as made:
        made.headers["Authorization"] = f"Bearer {token_for(server, 'ada')}"
        made.restore = lambda: restore(server)  # type: ignore[attr-defined]
        yield made


def restore(server: Server) -> None:
    """Make the token valid again, which some requests revoke."""
    with server.database.begin() as db:
        db.execute(update(ApiToken).values(revoked=None))


def operations(schema: Any) -> list[Any]:
    return [found.ok() for found in schema.get_all_operations()]


def test_no_request_ends_in_an_error_of_the_server(client: TestClient[ServerApp]) -> None:
    document = client.get("/api/1/schema/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    seen = 0
    for operation in operations(schema):

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            nonlocal seen
            seen += 1
            client.restore()  # type: ignore[attr-defined]
            told = case.as_transport_kwargs(base_url="http://testserver")
            told.pop("cookies", None)
            answer = client.request(**told)
            assert answer.status_code < 500, (case.method, case.formatted_path, answer.text)
            if answer.status_code >= 400 and case.method != "HEAD" and "/api/" in case.path:
                assert answer.json().keys() == {"code", "message"}

        ask()
    assert seen > 100
