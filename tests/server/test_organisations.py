"""Organisations, their owners and members."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server.state import Server
from tests.server.conftest import sent_with, token_for

Client = TestClient[Litestar]
WHERE = "/api/1/organisations"


@pytest.fixture
def people(server: Server, client: Client) -> dict[str, dict[str, str]]:
    """The headers of ada, who has founded ``acme``, and of others."""
    headers = {name: sent_with(token_for(server, name)) for name in ("ada", "bob", "cleo")}
    answer = client.post(
        WHERE, json={"name": "Acme", "full_name": "Acme & Co"}, headers=headers["ada"]
    )
    assert answer.json() == {
        "name": "acme",
        "full_name": "Acme & Co",
        "members": [{"name": "ada", "role": "owner"}],
    }
    return headers


def members(client: Client) -> list[tuple[str, str]]:
    return [(one["name"], one["role"]) for one in client.get(f"{WHERE}/ACME").json()["members"]]


def put(client: Client, headers: Any, person: str, role: str = "member") -> Any:
    return client.put(f"{WHERE}/acme/members/{person}", json={"role": role}, headers=headers)


def test_names_of_people_and_organisations_are_one_space(
    server: Server, client: Client, people: Any
) -> None:
    for name in ("bob", "acrne", "ACME", "root"):
        answer = client.post(WHERE, json={"name": name}, headers=people["ada"])
        assert answer.json()["code"] == "M435", name
    sent = {"name": "acme", "password": "correct horse battery"}
    assert client.post("/api/1/register", json=sent).json()["code"] == "M435"
    assert client.post("/api/1/login", json=sent).json()["code"] == "M433"
    for headers in ({}, sent_with(token_for(server, "ada", "publish"))):
        answer = client.post(WHERE, json={"name": "others"}, headers=headers)
        assert answer.json()["code"] in ("M431", "M432")


def test_owners_add_and_remove_members(client: Client, people: Any) -> None:
    assert put(client, people["bob"], "bob").json()["code"] == "M432"
    assert put(client, {}, "bob").json()["code"] == "M431"
    assert put(client, people["ada"], "nobody").json()["code"] == "M439"
    assert put(client, people["ada"], "acme").json()["code"] == "M439"
    assert put(client, people["ada"], "bob").status_code == 200
    assert put(client, people["bob"], "cleo").json()["code"] == "M432"
    assert members(client) == [("ada", "owner"), ("bob", "member")]
    me = client.get("/api/1/me", headers=people["bob"]).json()
    assert me["organisations"] == ["acme"]
    where = f"{WHERE}/acme/members"
    assert client.delete(f"{where}/ada", headers=people["bob"]).json()["code"] == "M432"
    assert client.delete(f"{where}/bob", headers=people["bob"]).status_code == 204
    assert client.delete(f"{where}/bob", headers=people["ada"]).json()["code"] == "M439"
    assert client.get(f"{WHERE}/bob").status_code == 404


def test_the_last_owner_of_an_organisation_stays(client: Client, people: Any) -> None:
    put(client, people["ada"], "bob")
    where = f"{WHERE}/acme/members"
    assert client.delete(f"{where}/ada", headers=people["ada"]).json()["code"] == "M440"
    assert put(client, people["ada"], "ada").json()["code"] == "M440"
    assert put(client, people["ada"], "bob", "owner").status_code == 200
    assert client.delete(f"{where}/ada", headers=people["bob"]).status_code == 204
    assert members(client) == [("bob", "owner")]
