"""Logins of browsers: the cookie, the secret of forms, and what other sites cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from litestar.connection import ASGIConnection
from litestar.testing import TestClient
from msgspec.structs import replace
from sqlalchemy import func, select

from modpkg.registry.api_records import Registration
from modpkg.server.accounts import register
from modpkg.server.app import make_app
from modpkg.server.callers import ANYBODY
from modpkg.server.file_answers import ServerApp
from modpkg.server.openid_login import BACK
from modpkg.server.settings import LoginIssuer, ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken, OpenidRequest, WebLogin
from modpkg.server.web_logins import check_form
from tests.raising import raises
from tests.server.conftest import token_for
from tests.server.issuer import LocalIssuer, challenge_of, new_key

Client = TestClient[ServerApp]
PASSWORD = "correct horse battery"
HOST = "testserver.local"


@pytest.fixture
def browser(server: Server) -> Iterator[Client]:
    """A browser of ada's, who is not logged in."""
    ada = Registration(name="ada", password=PASSWORD)
    register(server.database, server.settings, ada, "192.0.2.1")
    with TestClient(make_app(server)) as made:
        made.follow_redirects = False
        yield made


def secret_in(page: Any) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def log_in(browser: Client, **more: Any) -> Any:
    sent = {"csrf": secret_in(browser.get("/login")), "name": "ada", "password": PASSWORD}
    return browser.post("/login", data=sent | more)


def test_a_cookie_is_new_with_each_login(server: Server, browser: Client) -> None:
    browser.cookies.set(server.cookie, "planted", domain=HOST)
    browser.get("/login")
    answer = log_in(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    first = browser.cookies[server.cookie]
    assert first != "planted"
    with server.database.begin() as db:
        assert first not in {*db.scalars(select(WebLogin.digest))}
    browser.post("/logout", data={"csrf": secret_in(browser.get("/account"))})
    browser.cookies.set(server.cookie, first, domain=HOST)
    assert browser.get("/account").status_code == 303  # it has ended on the server too
    browser.cookies.delete(server.cookie)
    log_in(browser)
    assert browser.cookies[server.cookie] != first


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_forms_of_other_sites_are_refused(
    server: Server, browser: Client, headers: dict[str, str]
) -> None:
    log_in(browser)
    csrf = secret_in(browser.get("/account"))
    sent = {"csrf": csrf, "name": "x", "actions": "publish", "modules": "*", "days": "1"}
    refused = browser.post("/account/tokens", data=sent, headers=headers)
    assert refused.status_code == 403
    for secret in ("", "x" * 43):
        assert browser.post("/account/tokens", data=sent | {"csrf": secret}).status_code == 403
    with server.database.begin() as db:
        assert db.scalar(select(func.count()).select_from(ApiToken)) == 0
    own = {"Origin": server.settings.url, "Sec-Fetch-Site": "same-origin"}
    assert browser.post("/account/tokens", data=sent, headers=own).status_code in (200, 201)


def test_a_form_of_nobody_has_a_secret_too(browser: Client) -> None:
    csrf = secret_in(browser.get("/login"))
    browser.cookies.clear()
    sent = {"csrf": csrf, "name": "ada", "password": PASSWORD}
    assert browser.post("/login", data=sent).status_code == 403


def test_what_a_browser_sends_to_the_api_by_itself_has_no_effect(browser: Client) -> None:
    log_in(browser)
    assert browser.get("/api/1/me").json()["name"] == "ada"
    wanted = {"name": "x", "actions": ["publish"]}
    refused = browser.post("/api/1/tokens", json=wanted)
    assert (refused.status_code, refused.json()["code"]) == (401, "M431")


@pytest.mark.parametrize("place", ["//evil.example", "https://evil.example", "/\\evil", "/a\nb"])
def test_nobody_is_sent_elsewhere_after_a_login(browser: Client, place: str) -> None:
    assert log_in(browser, next=place).headers["location"] == "/"


def test_a_change_of_the_password_ends_other_logins(server: Server, browser: Client) -> None:
    log_in(browser)
    other = browser.cookies[server.cookie]
    browser.cookies.clear()
    log_in(browser)
    sent = {"csrf": secret_in(browser.get("/account")), "old": PASSWORD, "new": "one two three"}
    browser.post("/account/password", data=sent)
    assert browser.get("/account").status_code == 200
    browser.cookies.clear()
    browser.cookies.set(server.cookie, other)
    assert browser.get("/account").status_code == 303


def test_over_https_the_cookie_is_of_this_host_alone(tmp_path: Path) -> None:
    settings = ServerSettings(storage=str(tmp_path / "r"), url="https://models.example")
    server = Server(settings)
    server.prepare()
    ada = Registration(name="ada", password=PASSWORD)
    register(server.database, settings, ada, "192.0.2.1")
    with TestClient(make_app(server), base_url="https://models.example") as browser:
        browser.follow_redirects = False
        cookie = log_in(browser).headers["set-cookie"]
    assert cookie.startswith("__Host-modpkg=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie


def test_a_form_that_is_not_of_this_login(server: Server) -> None:
    for headers in ([], [(b"cookie", b"modpkg-form=" + b"s" * 43)]):
        scope: Any = {"type": "http", "headers": headers}
        with raises("M446", match="load the page again"):
            check_form(server, ASGIConnection(scope), ANYBODY, "x" * 43)


# An issuer of OpenID Connect ----------------------------------------------------------------


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    made = LocalIssuer()
    yield made
    made.close()


@pytest.fixture
def federated(tmp_path: Path, issuer: LocalIssuer) -> Iterator[Server]:
    """A server with an issuer by which people log in."""
    login = LoginIssuer(
        url=issuer.url, title="Acme", client_id="models", client_secret="shared: one"
    )
    settings = ServerSettings(storage=str(tmp_path / "registry"), login_issuers=(login,))
    made = Server(settings)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def visitor(federated: Server) -> Iterator[Client]:
    with TestClient(make_app(federated)) as made:
        made.follow_redirects = False
        yield made


def sent_away(visitor: Client) -> dict[str, str]:
    answer = visitor.get("/login/openid/0", params={"following": "/account"})
    assert answer.status_code == 303
    return {
        name: one[0] for name, one in parse_qs(urlsplit(answer.headers["location"]).query).items()
    }


def come_back(visitor: Client, issuer: LocalIssuer, sent: dict[str, str], **claims: Any) -> Any:
    claims = {"aud": "models", "sub": "7", "nonce": sent["nonce"], **claims}
    issuer.id_token = issuer.signed(claims)
    return visitor.get(BACK, params={"state": sent["state"], "code": "c0de"})


def test_somebody_logs_in_by_an_issuer(
    visitor: Client, federated: Server, issuer: LocalIssuer
) -> None:
    assert "Log in with Acme" in visitor.get("/login").text
    sent = sent_away(visitor)
    assert (sent["client_id"], sent["code_challenge_method"]) == ("models", "S256")
    answer = come_back(visitor, issuer, sent, preferred_username="Ada Lovelace@acme.example")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    (form,) = issuer.forms
    assert challenge_of(form["code_verifier"]) == sent["code_challenge"]
    assert (form["code"], form["redirect_uri"]) == ("c0de", sent["redirect_uri"])
    assert issuer.headers[0]["Authorization"].startswith("Basic ")
    assert visitor.get("/api/1/me").json()["name"] == "ada-lovelace"
    visitor.cookies.clear()
    again = come_back(visitor, issuer, sent_away(visitor), preferred_username="another")
    assert again.status_code == 303
    assert visitor.get("/api/1/me").json()["name"] == "ada-lovelace"
    with federated.database.begin() as db:
        assert db.scalar(select(func.count()).select_from(OpenidRequest)) == 0


def test_a_name_that_is_taken_stays_its_owners(
    visitor: Client, federated: Server, issuer: LocalIssuer
) -> None:
    token_for(federated, "ada")
    come_back(visitor, issuer, sent_away(visitor), preferred_username="ada")
    assert visitor.get("/api/1/me").json()["name"] == "ada-2"


def test_only_the_browser_that_was_sent_away_comes_back_and_once(
    visitor: Client, federated: Server, issuer: LocalIssuer
) -> None:
    sent = sent_away(visitor)
    kept = dict(visitor.cookies)
    visitor.cookies.clear()
    assert come_back(visitor, issuer, sent).status_code == 403
    visitor.cookies.update(kept)
    assert come_back(visitor, issuer, {**sent, "state": "x" * 43}).status_code == 403
    assert come_back(visitor, issuer, sent).status_code == 303
    visitor.cookies.update(kept)
    assert come_back(visitor, issuer, sent).status_code == 403
    assert len(issuer.forms) == 1
    assert visitor.get("/login/openid/9").status_code == 404 or visitor.cookies


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "others"},
        {"aud": ["models", "others"]},
        {"azp": "others"},
        {"sub": None},
        {"sub": "x" * 300},
        {"exp": 1},
        {"iss": "https://accounts.example"},
    ],
)
def test_tokens_that_were_not_made_for_this_login_are_refused(
    visitor: Client, issuer: LocalIssuer, claims: dict[str, Any]
) -> None:
    answer = come_back(visitor, issuer, sent_away(visitor), **claims)
    assert answer.status_code == 403
    assert visitor.get("/api/1/me").json()["name"] == ""


def test_a_forged_token_and_a_closed_issuer(
    visitor: Client, federated: Server, issuer: LocalIssuer
) -> None:
    sent = sent_away(visitor)
    claims = {"aud": "models", "sub": "7", "nonce": sent["nonce"]}
    issuer.id_token = issuer.signed(claims, key=new_key())
    params = {"state": sent["state"], "code": "c0de"}
    assert visitor.get(BACK, params=params).status_code == 403
    (login,) = federated.settings.login_issuers
    federated.settings = replace(
        federated.settings, login_issuers=(replace(login, registers=False),)
    )
    refused = come_back(visitor, issuer, sent_away(visitor))
    assert refused.status_code == 403
    assert "invitation" in refused.text
    with federated.database.begin() as db:
        assert db.scalar(select(func.count()).select_from(Account)) == 0
