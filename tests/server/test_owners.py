"""Owners of modules, and modules that pass to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server import role_invitations
from modpkg.server.accounts import add_account, make_administrator
from modpkg.server.callers import ANYBODY, Caller, caller_for
from modpkg.server.clock import now
from modpkg.server.owners import add_module
from modpkg.server.passwords import password_hash
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


def accept(client: Client, headers: dict[str, str], name: str) -> Any:
    return client.post(f"/api/1/modules/words/owners/{name}/accept", headers=headers)


def become(client: Client, words: Any, name: str, role: str = "owner") -> None:
    """Let ada offer somebody a role, who accepts it."""
    assert given(client, words["ada"], name, role).status_code == 200
    assert accept(client, words[name], name).status_code == 204


def offered(client: Client, headers: dict[str, str]) -> list[tuple[str, str, str]]:
    """Return the roles that somebody is offered: of which module, to whom, as what."""
    rows = client.get("/api/1/transfers", headers=headers).json()["roles"]
    return [(one["module"], one["to"], one["role"]) for one in rows]


def test_owners_are_added_and_removed_by_owners(client: Client, words: Any) -> None:
    assert given(client, words["bob"], "bob").json()["code"] == "M432"
    assert given(client, {}, "bob").json()["code"] == "M431"
    assert given(client, words["ada"], "nobody").json()["code"] == "M439"
    assert given(client, words["ada"], "bob", "king").status_code == 400
    become(client, words, "bob", "maintainer")
    assert owners(client) == [("ada", "owner"), ("bob", "maintainer")]
    assert given(client, words["bob"], "cleo").json()["code"] == "M432"
    assert given(client, words["ada"], "bob").status_code == 200
    where = "/api/1/modules/words/owners/"
    assert client.delete(where + "ada", headers=words["bob"]).status_code == 204
    assert owners(client) == [("bob", "owner")]
    assert client.delete(where + "ada", headers=words["bob"]).json()["code"] == "M439"


def test_the_last_owner_stays(client: Client, words: Any) -> None:
    become(client, words, "bob", "maintainer")
    answer = client.delete("/api/1/modules/words/owners/ada", headers=words["ada"])
    assert (answer.status_code, answer.json()["code"]) == (409, "M440")
    assert given(client, words["ada"], "ada", "reviewer").json()["code"] == "M440"
    assert owners(client) == [("ada", "owner"), ("bob", "maintainer")]


def test_anybody_gives_up_his_own_role(client: Client, words: Any) -> None:
    become(client, words, "bob", "reviewer")
    assert client.delete("/api/1/modules/words/owners/bob", headers=words["bob"]).status_code == 204


def test_nobody_has_a_role_that_he_has_not_accepted(
    server: Server, client: Client, words: Any
) -> None:
    ada, bob, cleo = (words[name] for name in ("ada", "bob", "cleo"))
    assert accept(client, bob, "bob").json()["code"] == "M439"
    given(client, ada, "bob", "reviewer")
    answer = given(client, ada, "bob", "maintainer").json()  # in place of the first
    assert [(one["name"], one["role"]) for one in answer["invited"]] == [("bob", "maintainer")]
    assert owners(client) == [("ada", "owner")]
    where = "/api/1/modules/words/owners"
    seen = [client.get(where, headers=one).json()["invited"] for one in (bob, cleo, {})]
    assert [len(one) for one in seen] == [1, 0, 0]
    assert offered(client, bob) == [("words", "bob", "maintainer")]
    assert offered(client, cleo) == offered(client, ada) == []
    weak = sent_with(token_for(server, "bob", "read"))
    for headers, name in ((cleo, "bob"), (ada, "bob"), (weak, "bob"), (bob, "cleo"), (bob, "no")):
        assert accept(client, headers, name).json()["code"] == "M439"
    assert accept(client, {}, "bob").json()["code"] == "M431"
    assert accept(client, bob, "Bob").status_code == 204
    assert owners(client) == [("ada", "owner"), ("bob", "maintainer")]
    assert accept(client, bob, "bob").json()["code"] == "M439"
    assert given(client, ada, "bob").json()["invited"] == []  # who has one gets another at once
    assert owners(client) == [("ada", "owner"), ("bob", "owner")]
    events = client.get("/api/1/events?module=words").json()["events"]
    assert [(one["action"], one["actor"]) for one in events][:4] == [
        ("owner.add", "ada"),
        ("owner.accept", "bob"),
        ("owner.invite", "ada"),
        ("owner.invite", "ada"),
    ]


def test_an_offered_role_is_declined_withdrawn_or_void(
    client: Client, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob, cleo = (words[name] for name in ("ada", "bob", "cleo"))
    where = "/api/1/modules/words/owners"
    for who, status in ((cleo, 403), (bob, 204), (ada, 204)):  # declined; withdrawn
        given(client, ada, "bob")
        assert client.delete(f"{where}/bob", headers=who).status_code == status
    assert accept(client, bob, "bob").json()["code"] == "M439"
    become(client, words, "bob")
    given(client, bob, "cleo")
    client.delete(f"{where}/bob", headers=ada)
    assert accept(client, cleo, "cleo").json()["code"] == "M439"  # who offered it owns no more
    assert offered(client, cleo) == []
    monkeypatch.setattr(role_invitations, "MOST_OFFERED", 1)
    assert given(client, ada, "cleo").status_code == 200  # in place of the first
    assert given(client, ada, "bob").json()["code"] == "M449"
    client.post("/api/1/modules/words/transfer", json={"to": "bob"}, headers=ada)
    assert client.post("/api/1/modules/words/transfer/accept", headers=bob).status_code == 204
    assert client.get(where, headers=bob).json()["invited"] == []


def test_the_owners_of_an_organisation_accept_for_it(
    server: Server, client: Client, words: Any
) -> None:
    with server.database.begin() as db:
        group = add_account(db, "acme", None, is_organisation=True)
        for person, role in ((2, "owner"), (3, "member")):
            db.add(Membership(organisation_id=group.id, person_id=person, role=role))
    given(client, words["ada"], "acme", "maintainer")
    assert offered(client, words["bob"]) == [("words", "acme", "maintainer")]
    assert offered(client, words["cleo"]) == []
    assert accept(client, words["cleo"], "acme").json()["code"] == "M439"
    assert accept(client, words["bob"], "acme").status_code == 204
    assert owners(client) == [("ada", "owner"), ("acme", "maintainer")]
    where = "/api/1/modules/words/owners/acme"
    assert client.delete(where, headers=words["cleo"]).json()["code"] == "M432"
    assert client.delete(where, headers=words["bob"]).status_code == 204
    become(client, words, "bob")
    assert given(client, words["bob"], "acme").json()["invited"] == []  # it is his


def test_who_closes_his_account_is_offered_nothing(
    server: Server, client: Client, words: Any
) -> None:
    given(client, words["ada"], "bob")
    with server.database.begin() as db:
        db.get_one(Account, 2).password = password_hash("correct horse battery")
    closing = {"password": "correct horse battery"}
    assert client.post("/api/1/me/close", json=closing, headers=words["bob"]).status_code == 204
    found = client.get("/api/1/modules/words/owners", headers=words["ada"]).json()
    assert found["invited"] == []


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
    assert client.get("/api/1/transfers", headers=words["cleo"]).json()["transfers"] == []
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
    become(client, words, "bob")
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
    become(client, words, "cleo", "reviewer")


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
    assert offered(client, headers["bob"]) == [("words", "bob", "owner")]
    assert accept(client, headers["bob"], "bob").status_code == 204
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
    def refusal(to: str) -> str:
        body = {"to": to}
        answer = client.post("/api/1/modules/words/transfer", json=body, headers=words["ada"])
        return str(answer.json().get("code")) if answer.content else ""

    assert refusal("ada") == "M449"
    become(client, words, "bob")
    assert refusal("bob") == "M449"
    become(client, words, "cleo", "maintainer")
    assert refusal("cleo") == ""
