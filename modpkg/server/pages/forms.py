"""The pages that change something: logging in and out, making an account, tokens.

Each form sends back the secret of its page's login, so that no other site can send it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, Response, Router, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.params import Body, FromPath, FromQuery
from litestar.response import Redirect
from msgspec import Meta, Struct

from modpkg.core.errors import ModpkgError
from modpkg.registry.api_records import Action, PasswordChange, Registration, TokenRequest
from modpkg.server.accounts import change_password, proved_account, register
from modpkg.server.addresses import address_of
from modpkg.server.answers import sentence_for_callers, status_of
from modpkg.server.api_tokens import create_token, revoke_token, tokens_of
from modpkg.server.callers import ACTIONS, Caller
from modpkg.server.closing import FRESH_MINUTES, close_own_account
from modpkg.server.linked_logins import logins_of, prove_again, unlink_login
from modpkg.server.openid_login import SentAway, begin_openid, login_issuer
from modpkg.server.organisations import accept_invitation, invitations_of, take_membership
from modpkg.server.owners import take_role
from modpkg.server.pages.rendering import frame_of, page
from modpkg.server.pages.site import ERRORS
from modpkg.server.passwords import SHORTEST
from modpkg.server.role_invitations import accept_role, role_offers_to
from modpkg.server.state import Server
from modpkg.server.tables import Account
from modpkg.server.web_logins import (
    begin_login,
    check_form,
    end_login,
    ended_cookie,
    form_secret,
    local_path,
    login_cookie,
)

Asking = Request[Any, Any, Any]
Field = Annotated[str, Meta(max_length=2000)]


class LoginForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form of ``/login`` sends."""

    csrf: Field = ""
    name: Field = ""
    password: Field = ""
    next: Field = ""


class RegisterForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form of ``/register`` sends."""

    csrf: Field = ""
    name: Field = ""
    password: Field = ""
    email: Field = ""
    invitation: Field = ""


class PlainForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a form sends that has a button alone."""

    csrf: Field = ""


class TokenForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form for a new token sends."""

    csrf: Field = ""
    name: Field = ""
    actions: Annotated[list[Action], Meta(max_length=10)] | Action | None = None
    modules: Field = "*"
    days: Literal["1", "30", "90", "365"] = "30"


class PasswordForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form for a new password sends."""

    csrf: Field = ""
    old: Field = ""
    new: Field = ""


class LinkForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form sends that links the login of an issuer, or takes one away."""

    csrf: Field = ""
    issuer: Field = ""
    password: Field = ""


class InvitationForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the buttons beside an invitation send: of an organisation, or to a role for a module."""

    csrf: Field = ""
    organisation: Field = ""
    module: Field = ""
    account: Field = ""
    answer: Literal["accept", "decline"] = "decline"


class CloseForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form sends that closes one's account."""

    csrf: Field = ""
    password: Field = ""
    sure: Literal["", "yes"] = ""


def _form() -> Any:
    return Body(media_type=RequestEncodingType.URL_ENCODED)


@get("/login", sync_to_thread=True)
def login_page(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    following: Annotated[FromQuery[str], Meta(max_length=2000)] = "",
) -> Response[Any]:
    """The form to log in."""
    if caller.is_known:
        return Redirect("/account", status_code=303)
    return _login_page(server, caller, request, local_path(following))


def _login_page(
    server: Server,
    caller: Caller,
    request: Asking,
    following: str,
    name: str = "",
    problem: ModpkgError | None = None,
) -> Response[str]:
    secret, cookies = form_secret(server, request, caller)
    return page(
        frame_of(server, caller, csrf=secret),
        "login.html",
        "Log in",
        status=200 if problem is None else status_of(problem),
        cookies=cookies,
        following=following,
        name=name,
        problem=_said(server, problem),
        may_register=server.settings.open_registration,
        issuers=[one.title for one in server.settings.login_issuers],
    )


@post("/login", sync_to_thread=True)
def log_in(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[LoginForm, _form()],
) -> Response[Any]:
    """Log in: the cookie is new, whatever the browser had."""
    check_form(server, request, caller, data.csrf)
    following = local_path(data.next)
    try:
        account = proved_account(
            server.database, data.name, data.password, address_of(server.settings, request)
        )
    except ModpkgError as error:
        return _login_page(server, caller, request, following, data.name, error)
    with server.database.begin() as db:
        value = begin_login(db, server.settings, account, caller)
    return _seen(following, login_cookie(server, value))


@post("/logout", sync_to_thread=True)
def log_out(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[PlainForm, _form()],
) -> Response[Any]:
    """Log out."""
    check_form(server, request, caller, data.csrf)
    with server.database.begin() as db:
        end_login(db, caller)
    return _seen("/", ended_cookie(server))


@get("/register", sync_to_thread=True)
def register_page(
    server: NamedDependency[Server], caller: NamedDependency[Caller], request: Asking
) -> Response[Any]:
    """The form to make an account."""
    if caller.is_known:
        return Redirect("/account", status_code=303)
    return _register_page(server, caller, request, RegisterForm())


def _register_page(
    server: Server,
    caller: Caller,
    request: Asking,
    sent: RegisterForm,
    problem: ModpkgError | None = None,
) -> Response[str]:
    secret, cookies = form_secret(server, request, caller)
    return page(
        frame_of(server, caller, csrf=secret),
        "register.html",
        "Make an account",
        status=200 if problem is None else status_of(problem),
        cookies=cookies,
        sent=sent,
        problem=_said(server, problem),
        needs_invitation=not server.settings.open_registration,
        shortest=SHORTEST,
    )


@post("/register", sync_to_thread=True)
def make_account(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[RegisterForm, _form()],
) -> Response[Any]:
    """Make an account, and log in."""
    check_form(server, request, caller, data.csrf)
    wanted = Registration(
        name=data.name,
        password=data.password,
        email=data.email,
        invitation=data.invitation or None,
    )
    try:
        account = register(
            server.database, server.settings, wanted, address_of(server.settings, request)
        )
    except ModpkgError as error:
        return _register_page(server, caller, request, data, error)
    with server.database.begin() as db:
        value = begin_login(db, server.settings, account, caller)
    return _seen("/account", login_cookie(server, value))


@get("/account", sync_to_thread=True)
def account_page(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> Response[Any]:
    """What one changes of one's own."""
    if not caller.is_known:
        return Redirect("/login?following=/account", status_code=303)
    return _account_page(server, caller)


def _account_page(
    server: Server,
    caller: Caller,
    made: str = "",
    problem: ModpkgError | None = None,
    said: str = "",
    away: SentAway | None = None,
) -> Response[str]:
    with server.database.begin() as db:
        tokens = tokens_of(db, caller)
        logins = logins_of(server, db, caller)
        invitations = invitations_of(db, caller)
        roles = role_offers_to(db, caller)
        has_password = db.get_one(Account, caller.account_id).password is not None
    return page(
        frame_of(server, caller),
        "account.html",
        f"Account of {caller.name}",
        status=200 if problem is None else status_of(problem),
        cookies=[] if away is None else [away.cookie],
        tokens=tokens,
        logins=logins,
        invitations=invitations,
        roles=roles,
        has_password=has_password,
        fresh_minutes=FRESH_MINUTES,
        away="" if away is None else away.url,
        actions=ACTIONS,
        made=made,
        said=said,
        problem=_said(server, problem),
        shortest=SHORTEST,
    )


@post("/account/tokens", sync_to_thread=True)
def make_api_token(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[TokenForm, _form()],
) -> Response[str]:
    """Make a token, which is shown on the page that answers, and never again."""
    check_form(server, request, caller, data.csrf)
    actions = [data.actions] if isinstance(data.actions, str) else data.actions or []
    wanted = TokenRequest(
        name=data.name.strip() or "token",
        actions=actions,
        modules=data.modules.split()[:100],
        days=int(data.days),
    )
    try:
        with server.database.begin() as db:
            made = create_token(db, caller, wanted)
    except ModpkgError as error:
        return _account_page(server, caller, problem=error)
    return _account_page(server, caller, made=made.token)


@post("/account/tokens/{token_id:int}/revoke", sync_to_thread=True)
def revoke_api_token(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    token_id: FromPath[int],
    data: Annotated[PlainForm, _form()],
) -> Response[Any]:
    """Revoke a token."""
    check_form(server, request, caller, data.csrf)
    with server.database.begin() as db:
        revoke_token(db, caller, token_id)
    return _seen("/account")


@post("/account/invitations", sync_to_thread=True)
def answer_invitation(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[InvitationForm, _form()],
) -> Response[Any]:
    """Join an organisation or take a role for a module, or decline the invitation."""
    check_form(server, request, caller, data.csrf)
    try:
        with server.database.begin() as db:
            if data.module:
                answer_role = accept_role if data.answer == "accept" else take_role
                answer_role(db, caller, data.module, data.account)
            elif data.answer == "accept":
                accept_invitation(db, caller, data.organisation)
            else:
                take_membership(db, caller, data.organisation, caller.name)
    except ModpkgError as error:
        return _account_page(server, caller, problem=error)
    return _seen("/account")


@post("/account/password", sync_to_thread=True)
def set_new_password(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[PasswordForm, _form()],
) -> Response[str]:
    """Change the password; other browsers have to log in again."""
    check_form(server, request, caller, data.csrf)
    try:
        change = PasswordChange(data.old, data.new)
        change_password(server.database, caller, change, address_of(server.settings, request))
    except ModpkgError as error:
        return _account_page(server, caller, problem=error)
    return _account_page(server, caller, said="The password is changed.")


@post("/account/logins", sync_to_thread=True)
def link_issuer(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[LinkForm, _form()],
) -> Response[str]:
    """Begin to link the login of an issuer: the page that answers leads there.

    It is a page, since no form leads to another site: the policy of all pages says so.
    """
    check_form(server, request, caller, data.csrf)
    try:
        issuer = login_issuer(server, data.issuer)
        prove_again(server, caller, data.password, address_of(server.settings, request))
        away = begin_openid(server, issuer, "/account", caller.login)
    except ModpkgError as error:
        return _account_page(server, caller, problem=error)
    return _account_page(server, caller, away=away)


@post("/account/logins/remove", sync_to_thread=True)
def unlink_issuer(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[LinkForm, _form()],
) -> Response[str]:
    """Take away that somebody can log in at an issuer; the password is left to log in with."""
    check_form(server, request, caller, data.csrf)
    try:
        prove_again(server, caller, data.password, address_of(server.settings, request))
        with server.database.begin() as db:
            unlink_login(db, caller, data.issuer)
    except ModpkgError as error:
        return _account_page(server, caller, problem=error)
    return _account_page(server, caller, said="That login is not yours here any more.")


@post("/account/close", sync_to_thread=True)
def close_account(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    request: Asking,
    data: Annotated[CloseForm, _form()],
) -> Response[Any]:
    """Close one's own account; its logins end with it."""
    check_form(server, request, caller, data.csrf)
    if not data.sure:
        return _account_page(server, caller)
    try:
        close_own_account(server, caller, data.password, address_of(server.settings, request))
    except ModpkgError as error:
        return _account_page(server, caller, problem=error)
    return _seen("/", ended_cookie(server))


def _said(server: Server, problem: ModpkgError | None) -> str:
    """Return what a page says of a problem, without a word of where the storage lies."""
    return "" if problem is None else sentence_for_callers(server, problem)


def _seen(address: str, *cookies: Cookie) -> Response[Any]:
    """Return the answer to a form: the browser goes on with a page, which it may load again."""
    return Redirect(address, status_code=303, cookies=[*cookies])


FORMS = Router(
    "/",
    route_handlers=[
        *(login_page, log_in, log_out, register_page, make_account, account_page),
        *(make_api_token, revoke_api_token, set_new_password, link_issuer, unlink_issuer),
        *(answer_invitation, close_account),
    ],
    exception_handlers=ERRORS,
    include_in_schema=False,
)
