"""Accounts, passwords and who may try how often."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import select, update

from modpkg.registry.api_records import Registration
from modpkg.server import guessing
from modpkg.server.accounts import make_administrator, proved_account, register
from modpkg.server.passwords import check_password
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken, FailedAttempts, Invitation
from tests.raising import raises
from tests.server.conftest import sent_with, token_for

PASSWORD = "correct horse battery"
SPELLINGS = ("ADA-L", "ada_l", "ada.-_l")
Client = TestClient[Litestar]


def joined(client: Client, name: str = "ada", **more: Any) -> Any:
    sent = {"name": name, "password": PASSWORD, **more}
    return client.post("/api/1/register", json=sent)


def logged_in(client: Client, name: str = "ada", password: str = PASSWORD, **more: Any) -> Any:
    return client.post("/api/1/login", json={"name": name, "password": password, **more})


def test_somebody_registers_and_logs_in_for_a_token(client: Client, server: Server) -> None:
    assert joined(client, "Ada").json()["name"] == "ada"
    answer = logged_in(client)
    assert answer.status_code == 201
    me = client.get("/api/1/me", headers=sent_with(answer.json()["token"])).json()
    assert (me["name"], me["administrator"], me["modules"]) == ("ada", False, ["*"])
    assert me["actions"] == ["manage", "publish", "read", "review", "submit", "yank"]
    assert me["expires"] == answer.json()["info"]["expires"]
    with server.database.begin() as db:
        kept = db.scalar(select(Account.password))
        assert kept is not None
        assert kept.startswith("$argon2id$")
        assert PASSWORD not in kept


@pytest.mark.parametrize("name", ["ada", "a-da", "ADA", "api", "a" * 41, ".."])
def test_names_are_taken_once_in_all_forms(client: Client, name: str) -> None:
    joined(client)
    answer = joined(client, name)
    assert (answer.status_code, answer.json()["code"]) in ((400, "M435"), (400, "M101"))


def test_a_password_is_judged_by_its_length(client: Client) -> None:
    for password, name in (("short", "ada"), ("a" * 12, "ada"), ("ada-lovelace", "Ada-Lovelace")):
        with raises("M436"):
            check_password(password, name)
    check_password("eight words are enough", "ada")
    assert joined(client, password="short").json()["code"] == "M436"


def test_an_unknown_name_and_a_wrong_password_look_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(client)
    hashed: list[bytes] = []
    import modpkg.server.passwords as passwords

    verify = passwords._HASHER.verify

    class Counting:
        def verify(self, kept: str, password: bytes) -> bool:
            hashed.append(password)
            return verify(kept, password)

        hash = passwords._HASHER.hash

    monkeypatch.setattr(passwords, "_HASHER", Counting())
    answers = [logged_in(client, "ada", "wrong"), logged_in(client, "nobody", "wrong")]
    assert [(one.status_code, one.json()["code"]) for one in answers] == [(401, "M433")] * 2
    assert answers[0].json() == answers[1].json()
    assert hashed == [b"wrong", b"wrong"]


def test_guessing_is_ended_by_name_and_address(server: Server) -> None:
    register(server.database, server.settings, Registration(name="ada-l", password=PASSWORD), "a")
    for number in range(guessing.BY_NAME_AND_ADDRESS):
        with raises("M433"):
            proved_account(server.database, SPELLINGS[number % 3], "wrong", "192.0.2.1")
    with raises("M434", match="seconds"):
        proved_account(server.database, "ada-l", PASSWORD, "192.0.2.1")
    assert proved_account(server.database, "ada-l", PASSWORD, "192.0.2.2").name == "ada-l"
    with server.database.begin() as db:
        for row in db.scalars(select(FailedAttempts)):
            row.since -= guessing.WINDOW
    assert proved_account(server.database, "ada-l", PASSWORD, "192.0.2.1").name == "ada-l"


def test_an_address_that_tries_many_names_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "BY_ADDRESS", 5)
    for number in range(5):
        with raises("M433"):
            proved_account(server.database, f"name{number}", "wrong", "192.0.2.1")
    with raises("M434"):
        proved_account(server.database, "name9", "wrong", "192.0.2.1")
    for number in range(9):  # who may be anybody behind a proxy of this machine
        with raises("M433"):
            proved_account(server.database, f"name{number}", "wrong", "127.0.0.1")


def test_too_many_attempts_are_answered_with_when_to_come_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessing, "BY_NAME_AND_ADDRESS", 0)
    answer = logged_in(client)
    assert (answer.status_code, answer.json()["code"]) == (429, "M434")
    assert 0 < int(answer.headers["Retry-After"]) <= 900


def test_who_is_right_is_not_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guessing, "BY_ADDRESS", 2)
    register(server.database, server.settings, Registration(name="ada", password=PASSWORD), "a")
    for _ in range(5):
        proved_account(server.database, "ada", PASSWORD, "192.0.2.1")


def test_an_account_by_invitation(server: Server, client: Client) -> None:
    closed = ServerSettings(storage=server.settings.storage, open_registration=False)
    wanted = Registration(name="bob", password=PASSWORD)
    with raises("M437", match="closed"):
        register(server.database, closed, wanted, "a")
    make_administrator(server.database, "root-of-all", PASSWORD)
    token = logged_in(client, "root-of-all").json()["token"]
    code = client.post("/api/1/invitations", headers=sent_with(token)).json()["code"]
    invited = Registration(name="bob", password=PASSWORD, invitation=code)
    assert register(server.database, closed, invited, "a").name == "bob"
    again = Registration(name="carl", password=PASSWORD, invitation=code)
    with raises("M437", match="used"):
        register(server.database, closed, again, "a")
    answer = client.post("/api/1/invitations", headers=sent_with(token_for(server, "bob")))
    assert (answer.status_code, answer.json()["code"]) == (403, "M432")
    code = client.post("/api/1/invitations", headers=sent_with(token)).json()["code"]
    with server.database.begin() as db:
        db.execute(update(Invitation).values(expires=datetime.datetime(2020, 1, 1).astimezone()))
    with raises("M437", match="expired"):
        register(server.database, closed, again, "a")


def test_a_password_is_changed_by_who_knows_it(server: Server, client: Client) -> None:
    joined(client)
    headers = sent_with(logged_in(client).json()["token"])
    change = {"old": "wrong", "new": "another long one"}
    assert client.put("/api/1/me/password", json=change, headers=headers).status_code == 401
    change["old"] = PASSWORD
    narrow = sent_with(token_for(server, "ada", modules="acme-*"))
    assert client.put("/api/1/me/password", json=change, headers=narrow).json()["code"] == "M432"
    assert client.put("/api/1/me/password", json=change, headers=headers).status_code == 204
    assert logged_in(client).status_code == 401
    assert logged_in(client, password="another long one").status_code == 201


def test_a_closed_account_can_do_nothing(server: Server, client: Client) -> None:
    joined(client)
    token = logged_in(client).json()["token"]
    make_administrator(server.database, "chief", PASSWORD)
    chief = sent_with(logged_in(client, "chief").json()["token"])
    where, closed = "/api/1/accounts/ada", {"disabled": True}
    assert client.put(where, json=closed, headers=sent_with(token)).status_code == 403
    unknown = client.put("/api/1/accounts/nobody", json=closed, headers=chief)
    assert unknown.json()["code"] == "M439"
    assert client.put(where, json=closed, headers=chief).status_code == 204
    assert client.get("/api/1/me", headers=sent_with(token)).status_code == 401
    assert logged_in(client).json()["code"] == "M433"
    with server.database.begin() as db:
        valid = db.scalars(select(ApiToken.account_id).where(ApiToken.revoked.is_(None)))
        assert 1 not in {*valid}
    assert client.put(where, json={"disabled": False}, headers=chief).status_code == 204
    assert client.get("/api/1/me", headers=sent_with(token)).status_code == 401
    assert client.put(where, json={"password": "short"}, headers=chief).json()["code"] == "M436"
    new = {"password": "who has lost his"}
    assert client.put(where, json=new, headers=chief).status_code == 204
    assert logged_in(client).status_code == 401
    assert logged_in(client, password=new["password"]).status_code == 201


def test_an_administrator_is_somebody(server: Server) -> None:
    with raises("M901", match="--password-stdin"):
        make_administrator(server.database, "nobody")
