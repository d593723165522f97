"""``account``: making, closing and opening accounts of a registry that is served."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import good, note, print_json, say, strong, tell
from modpkg.cli.typed_secrets import typed_password
from modpkg.core.errors import UsageError
from modpkg.core.names import module_name
from modpkg.core.printable import one_line
from modpkg.registry.account_client import (
    change_own_password,
    close_own_account,
    registry_api,
    set_account,
    sign_up,
    who_am_i,
    without_logins,
)
from modpkg.registry.api_records import AccountChange, NewInvitation, Registration


class ChangedAccount(Struct, frozen=True):
    """What is true of an account now."""

    name: str
    closed: bool | None = None
    """Whether nobody can log in to it; null if that was not changed."""
    password: bool = False
    """Whether it has another password."""


@click.group("account")
def account_command() -> None:
    """Make an account of a registry that is served, change its password, close it.

    Its administrators invite people, and close and open the accounts of others.
    """


@account_command.command("create")
@click.argument("name")
@click.option("--email", default="", help="Where to reach you; shown to nobody.")
@click.option("--invitation", metavar="CODE", help="Of an administrator, where they are needed.")
@registry_option
@json_option
def create_account(
    name: str, email: str, invitation: str | None, registry: str | None, as_json: bool
) -> None:
    """Make the account NAME.

    The password is asked for, or read from standard input if that is no terminal. 'modpkg login'
    logs in to it.
    """
    if one_line(email) != email:
        raise UsageError("M901", message="--email is one line of text.")
    api = registry_api(registry, settings=without_logins)
    password = typed_password(new=True)
    wanted = Registration(name=name, password=password, email=email, invitation=invitation)
    made = sign_up(api, wanted)
    if as_json:
        print_json(made)
    else:
        tell(f"{good('Made')} the account {strong(made.name)} at {api.origin}.")
        tell(f"Log in: modpkg login {api.registry} --name {made.name}")


@account_command.command("password")
@click.argument("name", required=False)
@registry_option
@json_option
def change_account_password(name: str | None, registry: str | None, as_json: bool) -> None:
    """Change your password; as an administrator, give NAME a new one.

    Yours is asked for first. Without a terminal both are read from standard input, a line each.
    Logins of browsers end; tokens stay valid.
    """
    api = registry_api(registry)
    api.check_login("change a password")
    if name is None:
        changed = change_own_password(
            api, typed_password("The one you have"), typed_password("The new one", new=True)
        )
    else:
        changed = name
        set_account(api, name, AccountChange(password=typed_password("The new one", new=True)))
    if as_json:
        print_json(ChangedAccount(changed, password=True))
    else:
        tell(f"{good('Changed')} the password of {changed}.")


@account_command.command("invite")
@registry_option
@json_option
def invite_person(registry: str | None, as_json: bool) -> None:
    """Make an invitation, with which one account can be made, and print its code.

    For administrators. It is shown this once; 'modpkg account create --invitation CODE' uses it.
    """
    api = registry_api(registry)
    api.check_login("invite somebody")
    made = api.request("POST", "invitations", NewInvitation)
    if as_json:
        print_json(made)
        return
    note(f"{good('Made')} an invitation, valid until {made.expires[:10]}:")
    say(made.code)


@account_command.command("close")
@click.argument("name")
@registry_option
@json_option
def close_account(name: str, registry: str | None, as_json: bool) -> None:
    """Close the account NAME: its tokens and logins end at once, and what it published stays.

    Yours needs your password, and another owner of all that you own alone ('modpkg owner
    transfer', 'modpkg organisation add'), who has accepted. Administrators close those of
    others; 'modpkg account open' opens one again.
    """
    api = registry_api(registry)
    if who_am_i(api).name == module_name(name):
        close_own_account(api, typed_password())
    else:
        set_account(api, name, AccountChange(disabled=True))
    _tell(name, as_json, closed=True)


@account_command.command("open")
@click.argument("name")
@registry_option
@json_option
def open_account(name: str, registry: str | None, as_json: bool) -> None:
    """Open the account NAME again, without the tokens that it had. For administrators."""
    api = registry_api(registry)
    api.check_login("open an account")
    set_account(api, name, AccountChange(disabled=False))
    _tell(name, as_json, closed=False)


def _tell(name: str, as_json: bool, *, closed: bool) -> None:
    if as_json:
        print_json(ChangedAccount(name, closed))
    else:
        tell(f"{good('Closed' if closed else 'Opened')} the account {name}.")
