"""``list``."""

from __future__ import annotations

import click

from modpkg.cli.installed import find_installed
from modpkg.cli.options import json_option, user_option
from modpkg.cli.output import print_json, say, table
from modpkg.core.files import human_bytes


@click.command("list")
@user_option
@json_option
def list_command(user: bool, as_json: bool) -> None:
    """List what is installed: modules, and the models that run."""
    _, generation = find_installed(user)
    if as_json:
        print_json(generation)
        return
    rows = [[m.name, m.version, m.kind, human_bytes(m.size), m.summary] for m in generation.modules]
    table(rows, ["Name", "Version", "Kind", "Size", "Summary"])
    say(f"\nModels: {', '.join(generation.models) or 'none'}")
