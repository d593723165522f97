"""Logging in by an issuer of OpenID Connect: a browser is sent there, and comes back."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect
from msgspec import Meta

from modpkg.core.errors import NotFound
from modpkg.server.callers import Caller
from modpkg.server.openid_login import BACK, begin_openid, finish_openid, forgotten_cookie
from modpkg.server.pages.site import ERRORS
from modpkg.server.state import Server
from modpkg.server.web_logins import begin_login, local_path, login_cookie

Sent = Annotated[FromQuery[str], Meta(max_length=4000)]


@get("/login/openid/{number:int}", sync_to_thread=True)
def go_to_issuer(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    number: FromPath[int],
    following: Sent = "",
) -> Response[Any]:
    """Send a browser to an issuer."""
    if caller.is_known:
        return Redirect(local_path(following), status_code=303)
    issuers = server.settings.login_issuers
    if not 0 <= number < len(issuers):
        raise NotFound("M439", what="login", name=str(number))
    away = begin_openid(server, issuers[number], following)
    return Redirect(away.url, status_code=303, cookies=[away.cookie])


@get(BACK, sync_to_thread=True)
def back_from_issuer(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Request[Any, Any, Any],
) -> Response[Any]:
    """Log a browser in that comes back from an issuer, or link the issuer's login to its own."""
    sent = request.query_params
    state, code = sent.get("state", ""), sent.get("code", "")
    arrival = finish_openid(server, request, caller, state, code)
    if arrival.is_linked:
        return Redirect(arrival.next, status_code=303, cookies=[forgotten_cookie(server)])
    with server.database.begin() as db:
        value = begin_login(db, server.settings, arrival.account, caller)
    cookies = [login_cookie(server, value), forgotten_cookie(server)]
    return Redirect(arrival.next, status_code=303, cookies=cookies)


OPENID = Router(
    "/",
    route_handlers=[go_to_issuer, back_from_issuer],
    exception_handlers=ERRORS,
    include_in_schema=False,
)
