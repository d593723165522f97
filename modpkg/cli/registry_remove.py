"""``registry remove``."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.module_names import known_names
from modpkg.cli.options import check_reason_option, json_option, registry_option, with_workspace
from modpkg.cli.output import counted, good, print_json, tell
from modpkg.cli.registry_address import warn_if_unsigned
from modpkg.community.modules.reference import parse_reference
from modpkg.core.files import human_bytes
from modpkg.core.records import IndexLine
from modpkg.environment.workspace import Workspace
from modpkg.registry.opening import existing_registry
from modpkg.registry.removing import remove_release


class RemovedDocument(Struct, frozen=True):
    """Releases that were removed from a registry for good."""

    lines: list[IndexLine]
    """What the index keeps of them."""
    files: int
    """Blobs that are gone."""
    freed: int
    """Their bytes."""
    shared: int
    """Blobs of them that other releases name, and that stay."""


@click.command("remove")
@click.argument("release", metavar="NAME[==VERSION]", shell_complete=known_names)
@click.option("--reason", required=True, help="Why, for those who have it locked.")
@registry_option
@json_option
@with_workspace
def remove_release_command(workspace: Workspace, release: str, reason: str, as_json: bool) -> None:
    """Remove a release from a registry for good, or all that a module has, and its name.

    For what must not be there any more; 'modpkg yank' is enough for what is merely bad. What only
    this release has is deleted. The index keeps its line, so that the version is never used again;
    if no other release of the module is left, neither is its name. Copies that are brought up to
    date with 'modpkg registry copy' follow.
    """
    check_reason_option(reason, required=True)
    reference = parse_reference(release)
    writer = existing_registry(workspace.options.registry)
    what = f"{reference.name} {reference.version or '(all releases)'}"
    done = remove_release(writer, reference.name, reference.version, reason, workspace.progress)
    warn_if_unsigned(writer.place)
    if as_json:
        print_json(RemovedDocument(done.lines, done.files, done.freed, done.shared))
        return
    shared = f"; {counted(done.shared, 'file')} of it others need" if done.shared else ""
    tell(
        f"{good('Removed')} {what}: {human_bytes(done.freed)} "
        f"({counted(done.files, 'file')}){shared}."
    )
