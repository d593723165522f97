"""``archive``."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.module_names import known_names
from modpkg.cli.options import check_reason_option, json_option, registry_option
from modpkg.cli.output import good, print_json, tell
from modpkg.core.errors import UsageError
from modpkg.core.names import module_name
from modpkg.registry.opening import existing_registry
from modpkg.registry.server_writer import ServerWriter


class ArchivedModule(Struct, frozen=True):
    """A module of which nothing more is published, or is again."""

    name: str
    archived: bool


@click.command("archive")
@click.argument("name", shell_complete=known_names)
@click.option("--reason", default="", help="Why nothing more is published of it.")
@click.option("--undo", is_flag=True, help="Undo it.")
@registry_option
@json_option
def archive_command(
    name: str, reason: str, undo: bool, registry: str | None, as_json: bool
) -> None:
    """Archive a module of a served registry: nothing more is published of it.

    Its releases stay as they are; 'modpkg deprecate' advises against them.
    """
    check_reason_option(reason)
    writer, module = existing_registry(registry), module_name(name)
    if not isinstance(writer, ServerWriter):
        raise UsageError(
            "M901",
            message=f"{writer.url} is not served by 'modpkg registry serve', and anybody who can "
            "write to it can publish.",
        )
    writer.archive(module, None if undo else reason)
    if as_json:
        print_json(ArchivedModule(module, not undo))
    else:
        tell(f"{good('Not archived any more:' if undo else 'Archived')} {module}.")
