"""``vendor``."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import counted, good, print_json, tell
from modpkg.core.files import human_bytes
from modpkg.core.hub_address import is_hub_address
from modpkg.environment.up_to_date import check_lock
from modpkg.environment.vendor import vendor
from modpkg.environment.workspace import Workspace
from modpkg.manifest.edit import toml_value


@click.command("vendor")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@project_options
@with_workspace
def vendor_command(workspace: Workspace, folder: Path, as_json: bool) -> None:
    """Copy all locked modules into FOLDER, a registry for offline use.

    On a machine without network access, install from it with the same lock.
    """
    lock = check_lock(workspace)
    done = vendor(lock, workspace.registries, folder, workspace.progress)
    if as_json:
        print_json(done)
        return
    modules = counted(done.modules, "module")
    tell(f"{good('Vendored')} {modules} into {folder}/ ({human_bytes(done.size)}).")
    of_hub = {m.registry for m in lock.module if is_hub_address(lock.source_of(m.name))}
    if of_hub:
        tell("Install from it with these lines in config.toml there:")
    for name in sorted(of_hub):
        place = done.folders[name].absolute().as_uri()
        tell(f'  [registry."hf://{name}"]\n  mirrors = {toml_value([place])}')
    if of_hub:
        for name in done.folders.keys() - of_hub:
            tell(f"  {name}: {done.folders[name]}")
    elif len(done.folders) == 1:
        tell(f"Install from it: modpkg install --frozen --offline --registry {folder}")
    else:
        for name, path in done.folders.items():
            tell(f"  {name}: {path}")
