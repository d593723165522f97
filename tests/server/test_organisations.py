"""Organisations, their owners and members."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server import organisations
from modpkg.server.accounts import find_account, make_administrator
from modpkg.server.passwords import password_hash
from modpkg.server.state import Server
from tests.server.conftest import sent_with, token_for

Client = TestClient[Litestar]
WHERE = "/api/1/organisations"
WORD = "correct horse battery"


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
        "invited": [],
    }
    return headers


def members(client: Client) -> list[tuple[str, str]]:
    return [(one["name"], one["role"]) for one in client.get(f"{WHERE}/ACME").json()["members"]]


def put(client: Client, headers: Any, person: str, role: str = "member") -> Any:
    return client.put(f"{WHERE}/acme/members/{person}", json={"role": role}, headers=headers)


def accept(client: Client, headers: Any) -> Any:
    return client.post(f"{WHERE}/acme/accept", headers=headers)


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
    assert accept(client, people["bob"]).status_code == 204
    assert put(client, people["bob"], "cleo").json()["code"] == "M432"
    assert members(client) == [("ada", "owner"), ("bob", "member")]
    me = client.get("/api/1/me", headers=people["bob"]).json()
    assert me["organisations"] == ["acme"]
    where = f"{WHERE}/acme/members"
    assert client.delete(f"{where}/ada", headers=people["bob"]).json()["code"] == "M432"
    assert client.delete(f"{where}/bob", headers=people["bob"]).status_code == 204
    assert client.delete(f"{where}/bob", headers=people["ada"]).json()["code"] == "M439"
    assert client.get(f"{WHERE}/bob").status_code == 404


def test_who_is_invited_is_a_member_when_he_has_accepted(
    server: Server, client: Client, people: Any
) -> None:
    ada, bob, cleo = (people[name] for name in ("ada", "bob", "cleo"))
    mine = "/api/1/me/invitations"
    assert accept(client, bob).json()["code"] == "M439"
    assert accept(client, {}).json()["code"] == "M431"
    put(client, ada, "bob")
    answer = put(client, ada, "bob", "owner").json()  # in place of the first
    assert answer["invited"] == [{"name": "bob", "role": "owner"}]
    assert members(client) == [("ada", "owner")]
    assert client.get("/api/1/me", headers=bob).json()["organisations"] == []
    assert put(client, bob, "cleo").json()["code"] == "M432"
    seen = [client.get(f"{WHERE}/acme", headers=one).json()["invited"] for one in (bob, cleo, {})]
    assert seen == [[{"name": "bob", "role": "owner"}], [], []]
    (invitation,) = client.get(mine, headers=bob).json()["invitations"]
    assert (invitation["organisation"], invitation["role"], invitation["by"]) == (
        "acme",
        "owner",
        "ada",
    )
    weak = sent_with(token_for(server, "bob", "read"))
    for answer in (accept(client, weak), client.get(mine, headers=weak)):
        assert answer.json()["code"] == "M432"
    assert accept(client, cleo).json()["code"] == "M439"
    assert accept(client, bob).status_code == 204
    assert members(client) == [("ada", "owner"), ("bob", "owner")]
    assert accept(client, bob).json()["code"] == "M439"
    events = client.get("/api/1/events", headers=bob).json()["events"]
    assert [one["action"] for one in events] == ["member.accept"]


def test_an_invitation_is_declined_withdrawn_or_void(
    server: Server, client: Client, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob, cleo = (people[name] for name in ("ada", "bob", "cleo"))
    where = f"{WHERE}/acme/members"
    for who, code in ((cleo, "M432"), (bob, None), (ada, None)):  # declined; withdrawn
        put(client, ada, "bob")
        answer = client.delete(f"{where}/bob", headers=who)
        assert (answer.json()["code"] if code else answer.status_code) == (code or 204)
    assert accept(client, bob).json()["code"] == "M439"
    put(client, ada, "bob", "owner")
    accept(client, bob)
    put(client, bob, "cleo")
    client.delete(f"{where}/bob", headers=ada)
    assert accept(client, cleo).json()["code"] == "M439"  # who invited her is gone
    assert client.get("/api/1/me/invitations", headers=cleo).json() == {"invitations": []}
    monkeypatch.setattr(organisations, "MOST_INVITED", 1)
    assert put(client, ada, "cleo").status_code == 200
    assert put(client, ada, "bob").json()["code"] == "M449"
    make_administrator(server.database, "bob")
    assert put(client, bob, "bob", "owner").status_code == 200  # he agrees with himself
    assert members(client) == [("ada", "owner"), ("bob", "owner")]


def test_who_closes_his_account_leaves_no_invitation(
    server: Server, client: Client, people: Any
) -> None:
    put(client, people["ada"], "bob")
    with server.database.begin() as db:
        account = find_account(db, "bob")
        assert account is not None
        account.password = password_hash(WORD)
    closing = client.post("/api/1/me/close", json={"password": WORD}, headers=people["bob"])
    assert closing.status_code == 204
    assert client.get(f"{WHERE}/acme", headers=people["ada"]).json()["invited"] == []


def test_the_last_owner_of_an_organisation_stays(client: Client, people: Any) -> None:
    put(client, people["ada"], "bob")
    accept(client, people["bob"])
    where = f"{WHERE}/acme/members"
    assert client.delete(f"{where}/ada", headers=people["ada"]).json()["code"] == "M440"
    assert put(client, people["ada"], "ada").json()["code"] == "M440"
    assert put(client, people["ada"], "bob", "owner").status_code == 200
    assert client.delete(f"{where}/ada", headers=people["bob"]).status_code == 204
    assert members(client) == [("bob", "owner")]
