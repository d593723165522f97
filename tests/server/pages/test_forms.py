"""The pages that change something."""

from __future__ import annotations

import re
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server.accounts import find_account
from modpkg.server.app import make_app
from modpkg.server.callers import caller_for
from modpkg.server.owners import add_module, give_role, holders_of
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import ApiToken, WebLogin
from tests.server.conftest import sent_with, token_for
from tests.server.pages.parsed import ParsedPage

Browser = TestClient[Litestar]
PASSWORD = "correct horse battery"


def secret_on(browser: Browser, address: str) -> str:
    """Return what the forms of a page send back."""
    found = re.search(r'name="csrf" value="([^"]+)"', browser.get(address).text)
    assert found is not None
    return found[1]


def send(browser: Browser, page: str, to: str, **fields: Any) -> Any:
    data = {"csrf": secret_on(browser, page)} | fields
    return browser.post(to, data=data, follow_redirects=False)


@pytest.fixture
def ada(client: Browser) -> Browser:
    """A browser that has made an account, and is logged in."""
    client.headers["Accept"] = "text/html"
    answer = send(client, "/register", "/register", name="ada", password=PASSWORD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    return client


def test_a_person_registers_and_logs_in_and_out(ada: Browser, server: Server) -> None:
    assert "<h1>ada</h1>" in ada.get("/account").text
    assert ada.get("/login", follow_redirects=False).headers["location"] == "/account"
    first = ada.cookies["modpkg"]
    assert send(ada, "/account", "/logout").headers["location"] == "/"
    assert ada.get("/account", follow_redirects=False).status_code == 303
    answer = send(
        ada, "/login?following=/events", "/login", name="Ada", password=PASSWORD, next="/events"
    )
    assert answer.headers["location"] == "/events"
    assert ada.cookies["modpkg"] != first
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert 'href="/account">ada' in ada.get("/").text
    assert ada.get("/").headers["Cache-Control"] == "no-store"


def test_cookies_belong_to_the_host_where_it_is_secure(server: Server) -> None:
    made = Server(ServerSettings(storage=server.settings.storage, url="https://models.example"))
    with TestClient(make_app(made), base_url="https://models.example") as browser:
        answer = send(browser, "/register", "/register", name="bob", password=PASSWORD)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-modpkg=")
        assert "Secure" in cookie
        assert "domain" not in cookie.lower()
        assert "<h1>bob</h1>" in browser.get("/account").text


def test_wrong_passwords_are_answered_on_the_form(client: Browser, server: Server) -> None:
    answer = send(client, "/login", "/login", name="<b>", password="wrong", next="//evil.example")
    assert answer.status_code in (401, 403)
    parsed = ParsedPage(answer.text)
    assert parsed.foreign == []
    assert 'value="&lt;b&gt;"' in answer.text
    assert "wrong" not in re.sub(r"<p[^>]*>.*?</p>", "", answer.text)
    assert 'name="next" value="/"' in answer.text


@pytest.mark.parametrize("fields", [{"password": "short"}, {"name": "admin"}, {"name": "<i>"}])
def test_what_no_account_can_have_is_answered_on_the_form(
    client: Browser, fields: dict[str, str]
) -> None:
    answer = send(
        client, "/register", "/register", **({"name": "ada", "password": PASSWORD} | fields)
    )
    assert answer.status_code == 400
    assert ParsedPage(answer.text).foreign == []
    assert PASSWORD not in answer.text
    assert 'role="alert"' in answer.text


def test_nobody_is_sent_to_another_site(ada: Browser) -> None:
    send(ada, "/account", "/logout")
    for address in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"):
        answer = send(ada, "/login", "/login", name="ada", password=PASSWORD, next=address)
        assert answer.headers["location"] == "/"
        send(ada, "/account", "/logout")


def test_a_token_is_shown_once_and_revoked(ada: Browser, server: Server) -> None:
    fields = {"name": "notebook", "actions": ["publish", "read"], "modules": "acme-* words"}
    answer = send(ada, "/account", "/account/tokens", **fields)
    (token,) = re.findall(r"modpkg_[0-9A-Za-z]{46}", answer.text)
    headers = {"Authorization": f"Bearer {token}"}
    me = ada.get("/api/1/me", headers=headers).json()
    assert (me["name"], me["actions"]) == ("ada", ["publish", "read"])
    page = ada.get("/account").text
    assert token not in page
    assert "notebook" in page
    assert "acme-* words" in page
    with server.database.begin() as db:
        (row,) = db.query(ApiToken)
    assert send(ada, "/account", f"/account/tokens/{row.id}/revoke").status_code == 303
    assert ada.get("/api/1/me", headers=headers).status_code == 401
    assert "notebook" not in ada.get("/account").text


def test_one_action_and_none_are_forms_too(ada: Browser) -> None:
    answer = send(ada, "/account", "/account/tokens", name="x", actions="read")
    assert "modpkg_" in answer.text
    assert (
        send(ada, "/account", "/account/tokens", name="x", actions="everything").status_code == 400
    )
    assert send(ada, "/account", "/account/tokens", name="x", days="99999").status_code == 400
    problem = send(ada, "/account", "/account/tokens", name="x", actions="read", modules="<b>")
    assert problem.status_code == 400
    assert ParsedPage(problem.text).foreign == []


def test_an_offered_role_is_answered_on_the_page_of_the_account(
    ada: Browser, server: Server
) -> None:
    token_for(server, "bob")
    with server.database.begin() as db:
        bob = find_account(db, "bob")
        assert bob is not None
        for name in ("words", "others"):
            add_module(db, caller_for(bob), name)
            give_role(db, caller_for(bob), name, "ada", "maintainer")
    assert "bob offers you a role" in ada.get("/account").text
    to = "/account/invitations"
    for name, answer in (("words", "accept"), ("others", "decline")):
        sent = send(ada, "/account", to, module=name, account="ada", answer=answer)
        assert sent.headers["location"] == "/account"
    assert "offers you" not in ada.get("/account").text
    again = send(ada, "/account", to, module="others", account="ada", answer="accept")
    assert again.status_code == 404
    with server.database.begin() as db:
        assert [one.name for one in holders_of(db, "words")] == ["bob", "ada"]
        assert [one.name for one in holders_of(db, "others")] == ["bob"]


def test_an_invitation_is_answered_on_the_page_of_the_account(ada: Browser, server: Server) -> None:
    bob = sent_with(token_for(server, "bob"))
    for name in ("acme", "other"):
        ada.post("/api/1/organisations", json={"name": name}, headers=bob)
        where = f"/api/1/organisations/{name}/members/ada"
        assert ada.put(where, json={"role": "owner"}, headers=bob).status_code == 200
    shown = ada.get("/account").text
    assert "bob invites you" in shown
    to = "/account/invitations"
    assert ada.post(to, data={"organisation": "acme", "answer": "accept"}).status_code == 403
    for name, answer in (("acme", "accept"), ("other", "decline")):
        sent = send(ada, "/account", to, organisation=name, answer=answer)
        assert sent.headers["location"] == "/account"
    assert "invites you" not in ada.get("/account").text
    assert send(ada, "/account", to, organisation="other", answer="accept").status_code == 404
    mine = ada.get("/people/ada").text
    assert "/organisations/acme" in mine
    assert "/organisations/other" not in mine


def test_a_new_password_ends_other_logins(ada: Browser, server: Server) -> None:
    wrong = send(ada, "/account", "/account/password", old="wrong one", new="another long one")
    assert wrong.status_code in (401, 403)
    with server.database.begin() as db:
        assert db.query(WebLogin).count() == 1
    done = send(ada, "/account", "/account/password", old=PASSWORD, new="another long one")
    assert "The password is changed" in done.text
    assert ada.get("/account").status_code == 200


FORMS = [
    *("/login", "/logout", "/register", "/account/tokens", "/account/tokens/1/revoke"),
    *("/account/password", "/account/invitations", "/account/close"),
]


@pytest.mark.parametrize("address", FORMS)
@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"csrf": "x" * 43}, {}),
        (None, {"Origin": "https://evil.example"}),
        (None, {"Origin": "null"}),
        (None, {"Sec-Fetch-Site": "cross-site"}),
    ],
)
def test_no_other_site_sends_a_form(
    ada: Browser, address: str, fields: dict[str, str] | None, headers: dict[str, str]
) -> None:
    data = {"csrf": secret_on(ada, "/account")} if fields is None else fields
    answer = ada.post(address, data=data, headers=headers, follow_redirects=False)
    assert answer.status_code == 403
    assert ParsedPage(answer.text).foreign == []
    assert "<h1>ada</h1>" in ada.get("/account").text


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data; boundary=x"]
)
def test_forms_are_of_one_type(ada: Browser, kind: str) -> None:
    answer = ada.post("/logout", content=b'{"csrf": "x"}', headers={"Content-Type": kind})
    assert answer.status_code in (400, 403, 415)
    assert "<h1>ada</h1>" in ada.get("/account").text


def test_fields_nobody_asked_for_are_refused(ada: Browser) -> None:
    fields = {"name": "x", "actions": "read", "account_id": "1", "is_administrator": "true"}
    assert send(ada, "/account", "/account/tokens", **fields).status_code == 400
