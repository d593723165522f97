"""``login``."""

from __future__ import annotations

import sys

import click

from modpkg.cli.options import json_option
from modpkg.cli.output import good, print_json, strong, tell
from modpkg.cli.typed_secrets import next_line, typed_password
from modpkg.core.errors import UsageError
from modpkg.registry.account_client import log_in, log_in_with, registry_api, without_logins


@click.command("login")
@click.argument("registry", metavar="[URL]", required=False)
@click.option("--name", metavar="NAME", help="Your account; asked for if it is missing.")
@click.option("--token", "by_token", is_flag=True, help="Read a token from standard input.")
@click.option(
    "--days", type=click.IntRange(1, 3650), help="For how long. [default: what the server gives]"
)
@json_option
def login_command(
    registry: str | None, name: str | None, by_token: bool, days: int | None, as_json: bool
) -> None:
    """Log in to the registry at URL (an alias, or by default the default registry).

    The password is asked for, or read from standard input if that is no terminal. What is kept is a
    token: in the system's keyring if the package 'keyring' has one that works, else in a file that
    only you can read. It is sent to this server and to no other.
    """
    if by_token and (name is not None or days is not None):
        raise UsageError("M901", message="--token takes neither --name nor --days.")
    api = registry_api(registry, settings=without_logins)
    if by_token:
        done = log_in_with(api, next_line())
    else:
        if name is None:
            name = click.prompt("Account", err=True) if sys.stdin.isatty() else None
        if not name:
            raise UsageError("M901", message="Say whose password it is with --name.")
        done = log_in(api, name, typed_password(), days)
    if as_json:
        print_json(done)
        return
    until = f", until {done.expires[:10]}" if done.expires else ""
    tell(f"{good('Logged in')} to {done.registry} as {strong(done.name)}{until}.")
    tell(f"The token is in {done.kept}.")
