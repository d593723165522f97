"""Logging in to a server, and out; the tokens of whoever does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.errors import AccessRefused, RegistryError
from modpkg.core.home import config_path
from modpkg.core.redacted import redacted
from modpkg.manifest.config import Settings, read_settings
from modpkg.manifest.logins import SentToken
from modpkg.manifest.normal_address import origin_text
from modpkg.manifest.schema import Manifest
from modpkg.manifest.stored_logins import StoredLogin, check_token, forget_login, store_login
from modpkg.registry.api_records import (
    AccountChange,
    AccountClosing,
    LoginRequest,
    Me,
    NewToken,
    PasswordChange,
    Registration,
)
from modpkg.registry.location import default_location
from modpkg.registry.object_store import is_private
from modpkg.registry.server_api import ServerApi, api_path, open_api


class LoggedIn(Struct, frozen=True):
    """A login that is kept."""

    registry: str
    """The origin that it is for."""
    name: str
    """Whose it is."""
    kept: str
    """Where its token is."""
    expires: str = ""
    """A UTC time; empty for one that does not expire."""


def registry_api(
    registry: str | None,
    manifest: Manifest | None = None,
    settings: Callable[[], Settings] = read_settings,
) -> ServerApi:
    """Return the API of the default registry; see `default_location`.

    Raises:
        RegistryError: It is none that is served, or names an API at another origin.
        NotFound, RegistryUnreachable: There is no registry, or it cannot be read.
    """
    address = default_location(manifest, registry, settings).address
    api = open_api(address, settings())
    if api is None:
        raise RegistryError("M525", url=redacted(address))
    return api


def without_logins() -> Settings:
    """Return the settings without what `modpkg login` keeps: it may not be valid any more."""
    return replace(read_settings(), logins={})


def log_in(api: ServerApi, name: str, password: str, days: int | None = None) -> LoggedIn:
    """Log in with a password, and keep the token that is given for it.

    Raises:
        RegistryError: The password would be sent in plain text.
        AccessRefused: It is wrong.
        InstallError: The token cannot be kept.
    """
    _check_private(api)
    wanted = LoginRequest(
        name=name, password=password, token_name=f"login on {socket.gethostname()[:80]}", days=days
    )
    made = api.with_login(None).request("POST", "login", NewToken, wanted)
    check_token(made.token)
    login = StoredLogin(made.account, expires=made.info.expires, made=made.info.id)
    kept = store_login(api.origin, made.token, login)
    return LoggedIn(api.origin, made.account, kept, made.info.expires)


def log_in_with(api: ServerApi, token: str) -> LoggedIn:
    """Keep a token, after asking the server whose it is.

    Raises:
        RegistryError: It would be sent in plain text.
        AccessRefused: It is not valid.
        UsageError: It cannot be a token.
        InstallError: It cannot be kept.
    """
    check_token(token)
    me = api.with_login(SentToken(token)).request("GET", "me", Me)
    if not me.name:
        raise AccessRefused("M430")
    kept = store_login(api.origin, token, StoredLogin(me.name, expires=me.expires))
    return LoggedIn(api.origin, me.name, kept, me.expires)


def log_out(address: str, settings: Settings) -> StoredLogin | None:
    """Forget the login for the origin of a registry, and revoke the token if it was made for it.

    Returns:
        What was kept; None if nothing was.

    Raises:
        ModpkgError: The token could not be revoked; the login is forgotten all the same.
    """
    gone = forget_login(origin_text(address))
    if gone is None:
        return None
    if gone.login.made is not None:
        with contextlib.suppress(AccessRefused):  # it had ended
            api = open_api(address, settings)
            if api is not None:
                api.with_login(gone).send("DELETE", "tokens/current")
    return gone.login


def who_am_i(api: ServerApi) -> Me:
    """Return whose login it is.

    Raises:
        AccessRefused: Nobody is logged in, or the token is not valid any more.
    """
    api.check_login("be known there")
    return api.request("GET", "me", Me)


def sign_up(api: ServerApi, wanted: Registration) -> Me:
    """Make an account.

    Raises:
        RegistryError: The password would be sent in plain text.
        InvalidValue: The name or the password cannot be used.
        AccessRefused: An invitation is needed, or is not valid.
    """
    _check_private(api)
    return api.with_login(None).request("POST", "register", Me, wanted)


def change_own_password(api: ServerApi, old: str, new: str) -> str:
    """Change the password of who is logged in, and return who that is.

    Raises:
        RegistryError: It would be sent in plain text.
        AccessRefused: The old one is wrong, or the login is not for everything.
        InvalidValue: The new one cannot be used.
    """
    _check_private(api)
    name = api.request("GET", "me", Me).name
    api.send("PUT", "me/password", PasswordChange(old, new))
    return name


def close_own_account(api: ServerApi, password: str) -> None:
    """Close the account of who is logged in, and forget the login, which has ended.

    Raises:
        RegistryError: The password would be sent in plain text.
        AccessRefused: It is wrong, or the login is not for everything.
        PublishError: He is the last owner of something, or the last administrator.
    """
    _check_private(api)
    api.send("POST", "me/close", AccountClosing(password))
    forget_login(api.origin)


def set_account(api: ServerApi, name: str, change: AccountChange) -> None:
    """Change somebody's account, as an administrator.

    Raises:
        RegistryError: A password would be sent in plain text.
        AccessRefused: Who is logged in is none.
        NotFound: There is no such account.
        PublishError: It is the last administrator's.
    """
    _check_private(api)
    api.send("PUT", api_path("accounts", name), change)


def _check_private(api: ServerApi) -> None:
    if not is_private(api.origin):
        raise RegistryError("M315", url=api.origin, config=config_path())
