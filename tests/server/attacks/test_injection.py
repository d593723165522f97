"""Texts that are SQL elsewhere: in every parameter and every field they are a name like others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from litestar.testing import TestClient
from sqlalchemy import MetaData, func, select

from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import ServerLimits, ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account
from tests.registry.places import shared
from tests.registry.places.postgresql import PostgreSQL
from tests.server.conftest import sent_with, token_for

UNKNOWN = "nobody-of-that-name"
TEXTS = [
    "' OR '1'='1",
    "' OR 1=1 --",
    "') OR ('1'='1' --",
    "admin'--",
    '" OR ""="',
    "1; DROP TABLE accounts; --",
    "'; DROP TABLE accounts; --",
    "'; UPDATE accounts SET is_administrator=1; --",
    "' UNION SELECT name, password FROM accounts --",
    "' AND SLEEP(5) --",
    "'; SELECT pg_sleep(5); --",
    "'||(SELECT sqlite_version())||'",
    "%' OR name LIKE '%",
    "_%",
    "\\'; --",
    "$$; SELECT 1; $$",
    ":name",
    "%(name)s",
    "?",
    "{0.__class__}",
]
PAGES = [
    "/search?q={}",
    "/modules/{}",
    "/events?module={}",
    "/modules/m/{}",
    "/people/{}",
    "/organisations/{}",
]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with shared.servers() as servers:
        yield servers.of(PostgreSQL)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with either database, which takes any number of requests."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_database()
    storage = tmp_path_factory.mktemp("injection") / "registry"
    limits = ServerLimits(requests_per_second=0)
    made = Server(ServerSettings(storage=str(storage), database=url, name="test", limits=limits))
    made.prepare()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[TestClient[ServerApp]]:
    with TestClient(make_app(server)) as made:
        yield made


def contents(server: Server) -> dict[str, int]:
    """Return the tables that the database really has, and how many rows each has."""
    found = MetaData()
    with server.database.begin() as db:
        found.reflect(db.connection())
        return {
            name: db.scalar(select(func.count()).select_from(table)) or 0
            for name, table in found.tables.items()
            if name not in ("events", "tokens", "attempts", "invitations")
        }


def example(schema: dict[str, Any], known: dict[str, Any], value: str) -> Any:
    """Return what a JSON schema describes, with ``value`` wherever a text may be."""
    if "$ref" in schema:
        return example(known[schema["$ref"].rpartition("/")[2]], known, value)
    for key in ("oneOf", "anyOf"):
        if key in schema:
            kinds = [one for one in schema[key] if one.get("type") != "null"]
            return example(kinds[0], known, value)
    kind = schema.get("type")
    if kind == "object":
        return {
            name: example(one, known, value) for name, one in schema.get("properties", {}).items()
        }
    if kind == "array":
        return [example(schema.get("items", {}), known, value)]
    return {"integer": 1, "number": 1, "boolean": False}.get(str(kind), value)


def requests(schema: dict[str, Any], value: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, address and options of a request to each operation, with a text everywhere."""
    known = schema["components"]["schemas"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if (method, path) == ("delete", "/api/1/tokens/current"):
                continue  # it would end the token that all are sent with
            query = {
                one["name"]: value
                for one in operation.get("parameters", [])
                if one["in"] == "query" and one["schema"].get("type") != "integer"
            }
            address = re.sub(r"\{[^}]+\}", quote(value, safe=""), path)
            options: dict[str, Any] = {"params": query}
            if body := operation.get("requestBody", {}).get("content", {}).get("application/json"):
                made = example(body["schema"], known, value)
                options["content"] = msgspec.json.encode(made)
                options["headers"] = {"content-type": "application/json"}
            yield method, address, options


def test_no_text_is_part_of_a_query(server: Server, client: TestClient[ServerApp]) -> None:
    schema = client.get("/api/1/schema/openapi.json").json()
    headers = sent_with(token_for(server, "bob"))

    def answers(value: str) -> list[int]:
        found = []
        for method, address, options in requests(schema, value):
            options["headers"] = options.get("headers", {}) | headers
            answer = client.request(method, address, **options)
            assert answer.status_code < 500, (method, address, answer.text)
            found.append(answer.status_code)
        return found

    usual = answers(UNKNOWN)  # some of them make an account, an organisation, a token
    assert len(usual) > 40
    before = contents(server)
    for value in TEXTS:
        done = [status < 300 for status in answers(value)]
        assert not any(now and was >= 400 for now, was in zip(done, usual, strict=True)), value
        for page in PAGES:
            assert client.get(page.format(quote(value, safe=""))).status_code < 500
    assert contents(server) == before
    with server.database.begin() as db:
        chiefs = select(Account.name).where(Account.is_administrator)
        assert [*db.scalars(chiefs)] == []
