"""Logging in by an issuer of OpenID Connect ("code flow", with PKCE, state and nonce).

The browser is sent to the issuer with a state that only its own cookie fits, comes back with a
code, and the server exchanges the code for a token that says who it is. An account belongs to
issuer and subject; the name that the issuer gives is only what a new account is called.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import secrets
from hmac import compare_digest
from urllib.parse import urlencode

from litestar.datastructures import Cookie
from msgspec import Struct
from sqlalchemy import delete
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused, InvalidValue, NotFound
from modpkg.server.accounts import NAME_CHARACTERS, add_account
from modpkg.server.callers import Caller, secret_digest
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.issuers import VerifiedToken, refused_token
from modpkg.server.linked_logins import link_login
from modpkg.server.settings import LoginIssuer
from modpkg.server.state import Server
from modpkg.server.tables import Account, Identity, OpenidRequest
from modpkg.server.web_logins import Connection, local_path

SECONDS = 600
"""How long somebody may take at the issuer."""
BACK = "/login/openid/finish"
"""The path that the issuer sends a browser back to."""
_NAMES = 50
"""How many names are tried for a new account."""


class SentAway(Struct, frozen=True):
    """Where a browser is sent to, and the cookie by which it is known when it comes back."""

    url: str
    cookie: Cookie


class OpenidArrival(Struct, frozen=True):
    """Who came back from an issuer."""

    account: Account
    next: str
    """The path of the page to show."""
    is_linked: bool
    """Whether he was logged in before, and has linked the issuer's login to his account."""


def login_issuer(server: Server, url: str) -> LoginIssuer:
    """Return an issuer of the operator's list.

    Raises:
        NotFound: There is no such issuer.
    """
    for issuer in server.settings.login_issuers:
        if issuer.url == url:
            return issuer
    raise NotFound("M439", what="login of", name=url)


def begin_openid(
    server: Server, issuer: LoginIssuer, next_page: str | None, login: str = ""
) -> SentAway:
    """Send a browser to an issuer, to log in.

    Args:
        server: The server.
        issuer: The issuer.
        next_page: The path of the page that is shown afterwards; of others, the front page.
        login: The digest of the browser's login, to whose account the issuer's is to be linked.
            The issuer is asked to have the person log in again: he may be logged in there as
            somebody else, whom a stranger has put there.

    Raises:
        RegistryUnreachable: It cannot be asked where people log in.
    """
    endpoint = server.issuers.document(issuer.url).authorization_endpoint
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    with server.database.begin() as db:
        db.execute(delete(OpenidRequest).where(OpenidRequest.expires <= now()))
        row = OpenidRequest(
            state=secret_digest(state),
            issuer=issuer.url,
            nonce=nonce,
            verifier=verifier,
            next=local_path(next_page),
            login=login,
            expires=now() + datetime.timedelta(seconds=SECONDS),
        )
        db.add(row)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
    sent = {
        "response_type": "code",
        "client_id": issuer.client_id,
        "redirect_uri": f"{server.settings.url}{BACK}",
        "scope": "openid profile",
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge.decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    if login:
        sent["prompt"] = "login"
    joint = "&" if "?" in endpoint else "?"
    return SentAway(f"{endpoint}{joint}{urlencode(sent)}", _cookie(server, state, SECONDS))


def finish_openid(
    server: Server, connection: Connection, caller: Caller, state: str, code: str
) -> OpenidArrival:
    """Return the account of who comes back from an issuer; a new one, if need be.

    Or else link the issuer's login to the account of the browser's, where it was sent for that.

    Raises:
        AccessRefused: It is not the browser that was sent there, or the issuer's token is not
            valid, or nobody gets an account by it; or the browser's login is not that which began
            to link.
        PublishError: The issuer's login is another account's.
        RegistryUnreachable: The issuer does not exchange the code.
    """
    kept = connection.cookies.get(_cookie_name(server), "")
    if not state or not compare_digest(kept.encode(), state.encode()):
        raise AccessRefused("M446")
    with server.database.begin() as db:
        row = db.get(OpenidRequest, secret_digest(state), with_for_update=True)
        if row is None or row.expires <= now():
            raise AccessRefused("M446")
        db.delete(row)  # each is good for one answer
    issuer = next((one for one in server.settings.login_issuers if one.url == row.issuer), None)
    if issuer is None or (row.login and row.login != caller.login):
        raise AccessRefused("M446")
    token = _token(server, issuer, row, code)
    with server.database.begin() as db:
        if row.login:
            link_login(db, caller, issuer, token.text("sub"))
            account = db.get_one(Account, caller.account_id)
        else:
            account = _account(db, issuer, token)
    return OpenidArrival(account, row.next, bool(row.login))


def forgotten_cookie(server: Server) -> Cookie:
    """Return what removes the cookie of a browser that has come back."""
    return _cookie(server, "", 0)


def _token(server: Server, issuer: LoginIssuer, row: OpenidRequest, code: str) -> VerifiedToken:
    form = {
        "grant_type": "authorization_code",
        "code": code[:4000],
        "redirect_uri": f"{server.settings.url}{BACK}",
        "client_id": issuer.client_id,
        "code_verifier": row.verifier,
    }
    secret = issuer.client_secret
    basic = None if secret is None else (issuer.client_id, secret)
    text = server.issuers.exchange(issuer.url, form, basic)
    token = server.issuers.verified(issuer.url, text, issuer.client_id)
    if not compare_digest(token.text("nonce").encode(), row.nonce.encode()):
        raise refused_token(issuer.url, "it was made for another login")
    several = isinstance(token.claims.get("aud"), list) and len(token.claims["aud"]) > 1
    if token.claims.get("azp", issuer.client_id) != issuer.client_id or (
        several and "azp" not in token.claims
    ):
        raise refused_token(issuer.url, "it was made for another server")
    if not 0 < len(token.text("sub")) <= 255:
        raise refused_token(issuer.url, "it does not say of whom it is")
    return token


def _account(db: Session, issuer: LoginIssuer, token: VerifiedToken) -> Account:
    subject = token.text("sub")
    known = db.get(Identity, (issuer.url, subject))
    if known is not None:
        account = db.get_one(Account, known.account_id)
        if account.disabled is not None:
            raise AccessRefused("M433")
        return account
    if not issuer.registers:
        raise AccessRefused("M437", reason=f"Nobody here has that login of {issuer.title}")
    account = _new_account(db, token)
    log_event(db, account.name, "account.register", issuer=issuer.url)
    db.add(Identity(issuer=issuer.url, subject=subject, account_id=account.id))
    db.flush()
    return account


def _new_account(db: Session, token: VerifiedToken) -> Account:
    """Make an account with the first free name, by what the issuer calls the person."""
    wanted = token.text("preferred_username") or token.text("nickname") or token.text("name")
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.partition("@")[0].lower()).strip("-")
    plain = plain[: NAME_CHARACTERS - 8].strip("-") or "somebody"
    for number in range(1, _NAMES):
        name = plain if number == 1 else f"{plain}-{number}"
        try:
            return add_account(db, name, None)
        except InvalidValue:
            continue
    return add_account(db, f"{plain}-{secrets.token_hex(3)}", None)


def _cookie_name(server: Server) -> str:
    return f"{server.cookie}-openid"


def _cookie(server: Server, value: str, seconds: int) -> Cookie:
    return Cookie(
        _cookie_name(server),
        value=value,
        max_age=seconds,
        secure=server.settings.is_secure,
        httponly=True,
        samesite="lax",
    )
