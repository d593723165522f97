"""Logins of browsers: a cookie, and the secret of its forms.

A cookie's value is new with each login, so that nobody can have a person log in under a value that
he knows; of forms of those who are not logged in, the secret is in a cookie of its own.
"""

from __future__ import annotations

import datetime
import secrets
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from sqlalchemy import delete
from sqlalchemy.orm import Session

from modpkg.core.errors import AccessRefused
from modpkg.server.callers import Caller, secret_digest
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, WebLogin

Connection = ASGIConnection[Any, Any, Any, Any]
FORM_SECONDS = 24 * 60 * 60


def begin_login(db: Session, settings: ServerSettings, account: Account, before: Caller) -> str:
    """Begin a login of a browser, in place of the one that it had, and return its cookie's value.

    Only for somebody who has just proved to be that account.
    """
    if before.login:
        db.execute(delete(WebLogin).where(WebLogin.digest == before.login))
    db.execute(delete(WebLogin).where(WebLogin.expires <= now()))
    value = secrets.token_urlsafe(32)
    row = WebLogin(
        digest=secret_digest(value),
        account_id=account.id,
        csrf=secrets.token_urlsafe(32),
        created=now(),
        expires=now() + datetime.timedelta(days=settings.limits.login_days),
    )
    db.add(row)
    log_event(db, account.name, "account.login")
    return value


def end_login(db: Session, caller: Caller) -> None:
    """End the login that a caller's browser has."""
    db.execute(delete(WebLogin).where(WebLogin.digest == caller.login))


def login_cookie(server: Server, value: str) -> Cookie:
    """Return the cookie of a login."""
    return _cookie(server, server.cookie, value, server.settings.limits.login_days * 86400)


def ended_cookie(server: Server) -> Cookie:
    """Return what removes the cookie of a login."""
    return _cookie(server, server.cookie, "", 0)


def form_secret(server: Server, connection: Connection, caller: Caller) -> tuple[str, list[Cookie]]:
    """Return what a form has to send back as ``csrf``, and the cookies of the page that has it."""
    if caller.csrf:
        return caller.csrf, []
    value = connection.cookies.get(f"{server.cookie}-form", "")
    if len(value) >= 32:
        return value, []
    value = secrets.token_urlsafe(32)
    return value, [_cookie(server, f"{server.cookie}-form", value, FORM_SECONDS)]


def check_form(server: Server, connection: Connection, caller: Caller, sent: str) -> None:
    """Check that a form was sent by a page of this server, of the login that it is sent with.

    Args:
        server: The server.
        connection: The request.
        caller: Who sent it.
        sent: The form's field ``csrf``.

    Raises:
        AccessRefused: It was not.
    """
    check_origin(server.settings, connection)
    secret = caller.csrf or connection.cookies.get(f"{server.cookie}-form", "")
    if len(secret) < 32 or not compare_digest(sent.encode(), secret.encode()):
        raise AccessRefused("M446")


def check_origin(settings: ServerSettings, connection: Connection) -> None:
    """Check that a browser sends a request from a page of this server, if it says from where.

    Raises:
        AccessRefused: It is of another site.
    """
    sent = connection.headers.get("origin")
    if sent is not None and sent != "null":
        same = urlsplit(sent)[:2] == urlsplit(settings.url)[:2]
    else:
        # "null" is sent where the page asks for no referrer; such a page may be of any site.
        site = connection.headers.get("sec-fetch-site", "none" if sent is None else "unknown")
        same = site in ("same-origin", "none")
    if not same:
        raise AccessRefused("M446")


def local_path(text: str | None) -> str:
    """Return the path of a page of this server that a browser may be sent to; ``/`` for others.

    >>> local_path("/modules/words?page=2")
    '/modules/words?page=2'
    >>> [local_path(text) for text in ("//evil.example", "https://evil.example", "/\\\\evil", None)]
    ['/', '/', '/', '/']
    """
    if not text or len(text) > 2000 or not text.startswith("/") or not text.isascii():
        return "/"
    if text.startswith("//") or "\\" in text or any(ord(c) <= 32 or ord(c) == 127 for c in text):
        return "/"
    return text


def _cookie(server: Server, name: str, value: str, seconds: int) -> Cookie:
    return Cookie(
        name,
        value=value,
        max_age=seconds,
        secure=server.settings.is_secure,
        httponly=True,
        samesite="lax",
    )
