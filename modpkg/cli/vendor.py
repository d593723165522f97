"""``vendor``."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import good, print_json, say
from modpkg.core.files import human_bytes
from modpkg.environment.workspace import Workspace


@click.command("vendor")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@project_options
@with_workspace
def vendor_command(workspace: Workspace, folder: Path, as_json: bool) -> None:
    """Write a registry into FOLDER that holds exactly what modpkg.lock names.

    Take it to a machine without a network, and install from it: the lock stays what it is.
    """
    from modpkg.environment.locking import check_lock
    from modpkg.environment.vendor import vendor

    lock = check_lock(workspace)
    done = vendor(lock, workspace.registries, folder, workspace.progress)
    if as_json:
        print_json(done)
        return
    say(f"{good('Vendored')} {done.modules} modules into {folder}/ ({human_bytes(done.size)}).")
    if len(done.folders) == 1:
        say(f"There: modpkg install --frozen --offline --registry {folder}")
    else:
        for name, path in done.folders.items():
            say(f"  {name}: {path}")
