"""``logout``."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import json_option
from modpkg.cli.output import good, print_json, tell
from modpkg.manifest.config import read_settings
from modpkg.manifest.normal_address import origin_text
from modpkg.registry.account_client import log_out
from modpkg.registry.location import default_location


class LoggedOut(Struct, frozen=True):
    """A login that is forgotten."""

    registry: str
    """The origin that it was for."""
    name: str
    """Whose it was; empty if there was none."""


@click.command("logout")
@click.argument("registry", metavar="[URL]", required=False)
@json_option
def logout_command(registry: str | None, as_json: bool) -> None:
    """Forget the login to the registry at URL; a token that 'modpkg login' made is revoked."""
    settings = read_settings()
    address = default_location(None, registry, lambda: settings).address
    gone = log_out(address, settings)
    origin = origin_text(address)
    if as_json:
        print_json(LoggedOut(origin, "" if gone is None else gone.name))
    elif gone is None:
        tell(f"Nobody was logged in to {origin}.")
    else:
        tell(f"{good('Logged out')} of {origin}, where you were {gone.name}.")
