"""``yank``."""

from __future__ import annotations

import click

from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import good, print_json, say
from modpkg.core.errors import PublishError, UsageError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.names import module_name, parse_version
from modpkg.registry.location import writable_folder
from modpkg.registry.writer import RegistryWriter


@click.command("yank")
@click.argument("release", metavar="NAME==VERSION")
@click.option("--reason", default="", help="Why, for those who have it locked.")
@click.option("--undo", is_flag=True, help="Take the yank back.")
@registry_option
@json_option
def yank_command(
    release: str, reason: str, undo: bool, registry: str | None, as_json: bool
) -> None:
    """Take a release out of new resolutions; whoever has it locked or pinned keeps it."""
    name, separator, version = release.partition("==")
    if not separator:
        name, separator, version = release.partition("@")
    if not separator:
        raise UsageError("M901", message=f"Name the version too: modpkg yank {name}==1.0.0")
    folder = writable_folder(None, registry)
    if not (folder / REGISTRY_INFO).exists():
        raise PublishError("M309", url=folder, reason="there is no registry")
    line = RegistryWriter(folder).yank(
        module_name(name), str(parse_version(version)), None if undo else reason
    )
    if as_json:
        print_json(line)
    elif undo:
        say(f"{good('Took back')} the yank of {line.name} {line.version}.")
    else:
        say(f"{good('Yanked')} {line.name} {line.version}.")
