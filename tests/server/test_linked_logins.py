"""Logins of an issuer of OpenID Connect that a person with a password links to his account."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.registry.api_records import Registration
from modpkg.server import closing
from modpkg.server.accounts import register
from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import LoginIssuer, ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Event, Identity
from tests.server.conftest import sent_with, token_for
from tests.server.issuer import LocalIssuer
from tests.server.test_web_logins import PASSWORD, come_back, log_in, secret_in, sent_away

Browser = TestClient[ServerApp]


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    made = LocalIssuer()
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path, issuer: LocalIssuer) -> Iterator[Server]:
    """A server with an issuer by which people log in, and two people with a password."""
    login = LoginIssuer(url=issuer.url, title="Acme", client_id="models")
    made = Server(ServerSettings(storage=str(tmp_path / "registry"), login_issuers=(login,)))
    made.prepare()
    for name in ("ada", "bob"):
        wanted = Registration(name=name, password=PASSWORD, email="both@acme.example")
        register(made.database, made.settings, wanted, "192.0.2.1")
    yield made
    made.close()


@pytest.fixture
def ada(server: Server) -> Iterator[Browser]:
    """Ada's browser, logged in."""
    with TestClient(make_app(server)) as made:
        made.follow_redirects = False
        log_in(made)
        yield made


def send(browser: Browser, to: str, at: LocalIssuer, **fields: str) -> Any:
    data = {"csrf": secret_in(browser.get("/account")), "issuer": at.url, "password": PASSWORD}
    return browser.post(to, data=data | fields)


def begin(browser: Browser, issuer: LocalIssuer) -> dict[str, str]:
    """Begin to link, and return what the browser is sent to the issuer with."""
    page = send(browser, "/account/logins", issuer)
    assert page.status_code == 200, page.text
    found = re.search(rf'href="({re.escape(issuer.url)}/authorize[^"]+)"', page.text)
    assert found is not None
    sent = parse_qs(urlsplit(html.unescape(found[1])).query)
    return {name: one[0] for name, one in sent.items()}


def close(browser: Browser, **fields: str) -> Any:
    data = {"csrf": secret_in(browser.get("/account")), "sure": "yes"}
    return browser.post("/account/close", data=data | fields)


def identities(server: Server) -> list[str]:
    with server.database.begin() as db:
        return [*db.scalars(select(Identity.subject))]


def who(browser: Browser) -> str:
    name: str = browser.get("/api/1/me").json()["name"]
    return name


def test_a_login_is_linked_used_and_unlinked(
    ada: Browser, server: Server, issuer: LocalIssuer
) -> None:
    assert "Acme: not linked" in ada.get("/account").text
    sent = begin(ada, issuer)
    assert sent["prompt"] == "login"
    answer = come_back(ada, issuer, sent)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    assert "Unlink Acme" in ada.get("/account").text
    assert come_back(ada, issuer, begin(ada, issuer)).status_code == 303  # once more: nothing new
    assert identities(server) == ["7"]
    ada.cookies.clear()
    come_back(ada, issuer, sent_away(ada), preferred_username="somebody-else")
    assert who(ada) == "ada"
    assert "not yours here any more" in send(ada, "/account/logins/remove", issuer).text
    assert send(ada, "/account/logins/remove", issuer).status_code == 404
    assert identities(server) == []
    with server.database.begin() as db:
        actions = [*db.scalars(select(Event.action).where(Event.action.like("account.%link")))]
    assert actions == ["account.link", "account.unlink"]


def test_nothing_is_linked_by_an_address_or_a_name(
    ada: Browser, server: Server, issuer: LocalIssuer
) -> None:
    ada.cookies.clear()
    claims = {"email": "both@acme.example", "email_verified": True, "preferred_username": "ada"}
    come_back(ada, issuer, sent_away(ada), **claims)
    assert who(ada) == "ada-2"


def test_who_links_says_his_password_and_sends_the_form_himself(
    ada: Browser, server: Server, issuer: LocalIssuer
) -> None:
    for to in ("/account/logins", "/account/logins/remove"):
        assert send(ada, to, issuer, password="wrong").status_code == 401
        assert send(ada, to, issuer, csrf="x" * 43).status_code == 403
        assert send(ada, to, issuer, issuer="https://other.example").status_code == 404
    assert issuer.asked == []
    ada.cookies.clear()
    come_back(ada, issuer, sent_away(ada), sub="8")  # an account without a password
    assert send(ada, "/account/logins/remove", issuer).status_code == 409  # how he logs in


def test_only_the_login_that_began_to_link_ends_it(
    ada: Browser, server: Server, issuer: LocalIssuer
) -> None:
    """A stranger's state in her browser, or hers where she has logged in again, links nothing."""
    sent, state = begin(ada, issuer), ada.cookies["modpkg-openid"]
    ada.cookies.clear()
    ada.cookies.set("modpkg-openid", state)
    assert come_back(ada, issuer, sent).status_code == 403  # nobody is logged in
    ada.cookies.clear()
    log_in(ada)
    sent, state = begin(ada, issuer), ada.cookies["modpkg-openid"]
    ada.cookies.clear()
    log_in(ada, name="bob")
    ada.cookies.set("modpkg-openid", state)
    assert come_back(ada, issuer, sent).status_code == 403
    assert identities(server) == []
    assert [form for form in issuer.forms if form] == []  # the code was not even exchanged


def test_a_login_is_of_one_account(ada: Browser, server: Server, issuer: LocalIssuer) -> None:
    come_back(ada, issuer, begin(ada, issuer))
    refused = come_back(ada, issuer, begin(ada, issuer), sub="8")
    assert (refused.status_code, "unlink it first" in refused.text) == (409, True)
    ada.cookies.clear()
    log_in(ada, name="bob")
    refused = come_back(ada, issuer, begin(ada, issuer))
    assert (refused.status_code, "another account" in refused.text) == (409, True)
    assert identities(server) == ["7"]


def test_who_has_no_password_closes_his_account_after_a_fresh_login(
    ada: Browser, server: Server, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.cookies.clear()
    come_back(ada, issuer, sent_away(ada), sub="8", preferred_username="eve")
    assert who(ada) == "eve"
    token = sent_with(token_for(server, "eve"))
    refused = ada.post("/api/1/me/close", json={"password": "any"}, headers=token)
    assert (refused.status_code, refused.json()["code"]) == (409, "M449")
    assert "/login" in refused.json()["message"]
    assert close(ada, sure="").status_code == 200
    assert who(ada) == "eve"
    assert close(ada, csrf="x" * 43).status_code == 403
    monkeypatch.setattr(closing, "FRESH_MINUTES", -1)
    assert "log in again" in close(ada).text
    monkeypatch.undo()
    answer = close(ada)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert who(ada) == ""
    assert ada.get("/api/1/me", headers=token).status_code == 401
    assert come_back(ada, issuer, sent_away(ada), sub="8").status_code == 401


def test_who_has_a_password_closes_his_account_with_it(ada: Browser, server: Server) -> None:
    assert close(ada).status_code == 401  # however fresh the login is
    assert close(ada, password=PASSWORD).status_code == 303
    assert who(ada) == ""
