"""``registry advisory``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.options import json_option, registry_option, with_workspace
from modpkg.cli.output import counted, good, print_json, tell
from modpkg.core import bounds
from modpkg.core.errors import UsageError
from modpkg.core.regular_file import OversizedFile, read_file
from modpkg.environment.workspace import Workspace
from modpkg.registry.advisories import add_advisories, check_advisory
from modpkg.registry.opening import existing_registry
from modpkg.registry.server_writer import ServerWriter


class AdvisoriesDocument(Struct, frozen=True):
    """Advisories that a registry publishes now, and did not before."""

    ids: list[str]


@click.command("advisory")
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@registry_option
@json_option
@with_workspace
def advisory_command(workspace: Workspace, files: tuple[Path, ...], as_json: bool) -> None:
    """Publish advisories, each a FILE with one document in OSV form, in a registry.

    An advisory takes the place of an earlier one with its ID. One with 'withdrawn' does not count
    any more. 'modpkg audit' tells people which of their modules are concerned.
    """
    writer = existing_registry(workspace.options.registry)
    documents = [(str(file), _read(file)) for file in files]
    if isinstance(writer, ServerWriter):
        for what, data in documents:
            check_advisory(data, what)
        ids = writer.publish_advisories([data.decode() for _, data in documents])
    else:
        ids = [one.id for one in add_advisories(writer.place, documents)]
    if as_json:
        print_json(AdvisoriesDocument(ids))
        return
    tell(f"{good('Published')} {counted(len(ids), 'advisory', 'advisories')} in {writer.url}.")


def _read(file: Path) -> bytes:
    try:
        return read_file(file, bounds.ADVISORY_BYTES)
    except OversizedFile:
        most = f"{bounds.ADVISORY_BYTES:,} bytes"
        raise UsageError("M901", message=f"{file} has more than {most}.") from None
