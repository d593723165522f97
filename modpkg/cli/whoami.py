"""``whoami``."""

from __future__ import annotations

import click

from modpkg.cli.options import json_option
from modpkg.cli.output import print_json, say, strong
from modpkg.registry.account_client import registry_api, who_am_i


@click.command("whoami")
@click.argument("registry", metavar="[URL]", required=False)
@json_option
def whoami_command(registry: str | None, as_json: bool) -> None:
    """Show whose login to the registry at URL it is, and what it is for."""
    api = registry_api(registry)
    me = who_am_i(api)
    if as_json:
        print_json(me)
        return
    say(f"{strong(me.name)} at {api.origin}")
    rows = {
        "for": ", ".join(me.actions),
        "modules": ", ".join(me.modules),
        "organisations": ", ".join(me.organisations),
        "until": me.expires,
        "rights": "administrator" if me.administrator else "",
    }
    for what, value in rows.items():
        if value:
            say(f"  {what}: {value}")
