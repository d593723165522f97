"""Owners of modules, and modules that pass to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server.accounts import add_account, make_administrator
from modpkg.server.callers import ANYBODY, Caller, caller_for
from modpkg.server.clock import now
from modpkg.server.owners import add_module
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership, Module
from tests.raising import raises
from tests.server.conftest import sent_with, token_for

Client = TestClient[Litestar]
People = Callable[[str], Caller]


@pytest.fixture
def words(server: Server, client: Client) -> dict[str, dict[str, str]]:
    """A module, ``words``, which ada owns; the headers of three people."""
    headers = {name: sent_with(token_for(server, name)) for name in ("ada", "bob", "cleo")}
    with server.database.begin() as db:
        ada = db.get_one(Account, 1)
        add_module(db, caller_for(ada), "words")
    return headers


def owners(client: Client) -> list[tuple[str, str]]:
    return [
        (one["name"], one["role"])
        for one in client.get("/api/1/modules/Words/owners").json()["holders"]
    ]


def given(client: Client, headers: dict[str, str], name: str, role: str = "owner") -> Any:
    where = f"/api/1/modules/words/owners/{name}"
    return client.put(where, json={"role": role}, headers=headers)


def test_owners_are_added_and_removed_by_owners(client: Client, words: Any) -> None:
    assert given(client, words["bob"], "bob").json()["code"] == "M432"
    assert given(client, {}, "bob").json()["code"] == "M431"
    assert given(client, words["ada"], "nobody").json()["code"] == "M439"
    assert given(client, words["ada"], "bob", "king").status_code == 400
    assert given(client, words["ada"], "bob", "maintainer").status_code == 200
    assert owners(client) == [("ada", "owner"), ("bob", "maintainer")]
    assert given(client, words["bob"], "cleo").json()["code"] == "M432"
    assert given(client, words["ada"], "bob").status_code == 200
    where = "/api/1/modules/words/owners/"
    assert client.delete(where + "ada", headers=words["bob"]).status_code == 204
    assert owners(client) == [("bob", "owner")]
    assert client.delete(where + "ada", headers=words["bob"]).json()["code"] == "M439"


def test_the_last_owner_stays(client: Client, words: Any) -> None:
    given(client, words["ada"], "bob", "maintainer")
    answer = client.delete("/api/1/modules/words/owners/ada", headers=words["ada"])
    assert (answer.status_code, answer.json()["code"]) == (409, "M440")
    assert given(client, words["ada"], "ada", "reviewer").json()["code"] == "M440"
    assert owners(client) == [("ada", "owner"), ("bob", "maintainer")]


def test_anybody_gives_up_his_own_role(client: Client, words: Any) -> None:
    given(client, words["ada"], "bob", "reviewer")
    assert client.delete("/api/1/modules/words/owners/bob", headers=words["bob"]).status_code == 204


def test_a_token_for_other_modules_or_actions_manages_nothing(
    server: Server, client: Client, words: Any
) -> None:
    for actions, modules in (("publish", "*"), ("manage", "acme-*")):
        headers = sent_with(token_for(server, "ada", actions, modules))
        assert given(client, headers, "bob").json()["code"] == "M432"


def test_a_module_passes_when_both_sides_want_it(client: Client, words: Any) -> None:
    where = "/api/1/modules/words/transfer"
    assert client.post(where, json={"to": "bob"}, headers=words["bob"]).json()["code"] == "M432"
    assert client.post(where, json={"to": "bob"}, headers=words["ada"]).status_code == 204
    assert client.post(f"{where}/accept", headers=words["cleo"]).json()["code"] == "M441"
    assert owners(client) == [("ada", "owner")]
    offers = client.get("/api/1/transfers", headers=words["bob"]).json()["transfers"]
    assert [(one["module"], one["to"]) for one in offers] == [("words", "bob")]
    shown = [
        client.get("/api/1/modules/words/owners", headers=words[who]).json()["transfer"]
        for who in ("ada", "bob", "cleo")
    ]
    assert [one and one["to"] for one in shown] == ["bob", "bob", None]
    assert client.get("/api/1/transfers", headers=words["cleo"]).json() == {"transfers": []}
    assert client.post(f"{where}/accept", headers=words["bob"]).status_code == 204
    assert owners(client) == [("bob", "owner")]
    assert client.post(f"{where}/accept", headers=words["bob"]).json()["code"] == "M441"


def test_an_offer_is_declined_or_withdrawn(client: Client, words: Any) -> None:
    where = "/api/1/modules/words/transfer"
    for who in ("bob", "ada"):
        client.post(where, json={"to": "bob"}, headers=words["ada"])
        assert client.delete(where, headers=words["cleo"]).status_code == 403
        assert client.delete(where, headers=words[who]).status_code == 204
        assert client.post(f"{where}/accept", headers=words["bob"]).json()["code"] == "M441"


def test_an_offer_ends_with_the_right_to_make_it(client: Client, words: Any) -> None:
    client.post("/api/1/modules/words/transfer", json={"to": "cleo"}, headers=words["ada"])
    given(client, words["ada"], "bob")
    client.delete("/api/1/modules/words/owners/ada", headers=words["bob"])
    answer = client.post("/api/1/modules/words/transfer/accept", headers=words["cleo"])
    assert answer.json()["code"] == "M441"
    assert owners(client) == [("bob", "owner")]


def test_of_an_organisation_owners_own_and_members_maintain(
    server: Server, client: Client, words: Any
) -> None:
    with server.database.begin() as db:
        group = add_account(db, "acme", None, is_organisation=True)
        for person, role in ((1, "owner"), (2, "member")):
            db.add(Membership(organisation_id=group.id, person_id=person, role=role))
    client.post("/api/1/modules/words/transfer", json={"to": "acme"}, headers=words["ada"])
    where = "/api/1/modules/words/transfer/accept"
    assert client.post(where, headers=words["bob"]).json()["code"] == "M441"
    assert client.post(where, headers=words["ada"]).status_code == 204
    assert owners(client) == [("acme", "owner")]
    assert given(client, words["bob"], "bob").json()["code"] == "M432"
    assert given(client, words["ada"], "cleo", "reviewer").status_code == 200


def test_a_name_is_taken_by_the_first(server: Server, words: Any) -> None:
    del words
    with server.database.begin() as db:
        bob = caller_for(db.get_one(Account, 2))
        with raises("M449", match="words"):
            add_module(db, bob, "words")
        with raises("M431"):
            add_module(db, ANYBODY, "others")
    assert now().tzinfo is not None


def test_unknown_modules_are_not_there(client: Client) -> None:
    for name in ("nothing", "..", "%2e%2e%2fx", "a" * 200):
        answer = client.get(f"/api/1/modules/{name}/owners")
        assert answer.status_code in (404, 400), name


def test_an_administrator_names_owners_of_a_private_module_without_any(
    server: Server, client: Client
) -> None:
    headers = {name: sent_with(token_for(server, name)) for name in ("ada", "bob")}
    make_administrator(server.database, "ada")
    with server.database.begin() as db:
        db.add(Module(name="words", is_private=True, created=now()))
    assert given(client, headers["bob"], "bob").json()["code"] == "M439"
    assert given(client, headers["ada"], "bob").status_code == 200
    assert given(client, headers["ada"], "ada").json()["code"] == "M439"  # it has one now


def test_the_last_administrator_is_not_closed(server: Server, client: Client) -> None:
    headers = sent_with(token_for(server, "ada"))
    token_for(server, "bob")
    make_administrator(server.database, "ada")

    def closed(name: str) -> Any:
        return client.put(f"/api/1/accounts/{name}", json={"disabled": True}, headers=headers)

    assert closed("ada").json()["code"] == "M449"
    assert closed("bob").status_code == 204
    make_administrator(server.database, "bob")  # opens it again
    assert closed("ada").status_code == 204


def test_a_module_is_not_offered_to_who_owns_it(
    client: Client, words: dict[str, dict[str, str]]
) -> None:
    def offered(to: str) -> str:
        body = {"to": to}
        answer = client.post("/api/1/modules/words/transfer", json=body, headers=words["ada"])
        return str(answer.json().get("code")) if answer.content else ""

    assert offered("ada") == "M449"
    given(client, words["ada"], "bob")
    assert offered("bob") == "M449"
    given(client, words["ada"], "cleo", "maintainer")
    assert offered("cleo") == ""
