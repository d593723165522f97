"""``yank``."""

from __future__ import annotations

import click

from modpkg.cli.module_names import known_names
from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import good, print_json, tell
from modpkg.cli.registry_address import warn_if_unsigned
from modpkg.community.modules.reference import parse_release
from modpkg.core.errors import UsageError
from modpkg.core.printable import one_line
from modpkg.registry.opening import existing_registry


@click.command("yank")
@click.argument("release", metavar="NAME==VERSION", shell_complete=known_names)
@click.option("--reason", default="", help="Why, for those who have it locked.")
@click.option("--undo", is_flag=True, help="Undo the yank.")
@registry_option
@json_option
def yank_command(
    release: str, reason: str, undo: bool, registry: str | None, as_json: bool
) -> None:
    """Exclude a release from new resolutions; existing locks and pins keep it."""
    if one_line(reason) != reason:
        raise UsageError("M901", message="--reason is one line of text.")
    name, version = parse_release(release)
    writer = existing_registry(registry)
    line = writer.yank(name, version, None if undo else reason)
    warn_if_unsigned(writer.place)
    if as_json:
        print_json(line)
    elif undo:
        tell(f"{good('Unyanked')} {line.name} {line.version}.")
    else:
        tell(f"{good('Yanked')} {line.name} {line.version}.")
