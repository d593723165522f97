"""``token``: tokens of a registry that is served."""

from __future__ import annotations

from typing import get_args

import click
from msgspec import Struct

from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import good, note, print_json, say, table, tell
from modpkg.core.errors import UsageError
from modpkg.core.printable import one_line
from modpkg.registry.account_client import registry_api
from modpkg.registry.api_records import Action, NewToken, TokenList, TokenRequest
from modpkg.registry.server_api import api_path


class RevokedToken(Struct, frozen=True):
    """A token that is not valid any more."""

    id: int


@click.group("token")
def token_command() -> None:
    """List, make and revoke your tokens of a registry that is served."""


@token_command.command("list")
@registry_option
@json_option
def list_tokens(registry: str | None, as_json: bool) -> None:
    """List your tokens: what they are for, until when, and when they were used last."""
    api = registry_api(registry)
    api.check_login("list tokens")
    tokens = api.request("GET", "tokens", TokenList)
    if as_json:
        print_json(tokens)
        return
    rows = [
        [
            str(token.id),
            token.name,
            f"{token.beginning}…",
            ", ".join(token.actions),
            ", ".join(token.modules),
            token.expires[:10] or "-",
            token.used[:10] or "-",
        ]
        for token in tokens.tokens
    ]
    table(rows, ["Number", "Name", "Token", "For", "Modules", "Until", "Used"])


@token_command.command("create")
@click.argument("name", default="")
@click.option(
    "--for",
    "actions",
    multiple=True,
    type=click.Choice(get_args(Action)),
    help="What it may do; repeatable. [default: read, publish]",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="PATTERN",
    help="Which modules it is for, like 'acme-*'; repeatable. [default: all]",
)
@click.option("--days", type=click.IntRange(1, 3650), help="For how long.")
@registry_option
@json_option
def create_token(
    name: str,
    actions: tuple[Action, ...],
    modules: tuple[str, ...],
    days: int | None,
    registry: str | None,
    as_json: bool,
) -> None:
    """Make a token, called NAME, and print it; it is shown this once.

    CI takes it from the variable MODPKG_TOKEN, for the registry that MODPKG_REGISTRY names.
    """
    if one_line(name) != name:
        raise UsageError("M901", message="NAME is one line of text.")
    api = registry_api(registry)
    api.check_login("make a token")
    wanted = TokenRequest(
        name=name,
        actions=[*(actions or ("read", "publish"))],
        modules=[*(modules or ("*",))],
        days=days,
    )
    made = api.request("POST", "tokens", NewToken, wanted)
    if as_json:
        print_json(made)
        return
    until = f" until {made.info.expires[:10]}" if made.info.expires else ""
    note(f"{good('Made')} token {made.info.id} of {made.account}, valid{until}:")
    say(made.token)


@token_command.command("revoke")
@click.argument("number", metavar="NUMBER", type=click.IntRange(min=0))
@registry_option
@json_option
def revoke_token(number: int, registry: str | None, as_json: bool) -> None:
    """Revoke the token NUMBER of 'modpkg token list', and those that were made with it."""
    api = registry_api(registry)
    api.check_login("revoke a token")
    api.send("DELETE", api_path("tokens", number))
    if as_json:
        print_json(RevokedToken(number))
    else:
        tell(f"{good('Revoked')} token {number}.")
