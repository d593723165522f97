"""``sbom``: the bill of materials of what is locked."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.options import offline_option, registry_option, user_option, with_workspace
from modpkg.cli.output import counted, good, say, tell
from modpkg.community.lineage.bill_of_materials import bill_of_materials
from modpkg.core.files import shown, write_atomically
from modpkg.environment.up_to_date import check_lock
from modpkg.environment.workspace import Workspace
from modpkg.transfer.plan import plan_transfer


@click.command("sbom")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to a file.",
)
@registry_option
@offline_option
@user_option
@with_workspace
def sbom_command(workspace: Workspace, output: Path | None) -> None:
    """Print the bill of materials of the locked modules: JSON of CycloneDX 1.6.

    It has each module's version, digest, licence, signer, datasets, and the releases that it was
    made from, back to the first. The same lock gives the same bytes.
    """
    manifest, lock = workspace.manifest, check_lock(workspace)
    by_name = workspace.registries.by_name(lock)
    records = plan_transfer(lock.module, by_name, workspace.store).records
    workspace.progress.stage("Reading what modules were made from")
    app = manifest.app or (str(manifest.module.name) if manifest.module else "modpkg")
    text = bill_of_materials(lock, records, workspace.registries.of, app)
    if output is None:
        say(text)
        return
    write_atomically(output, f"{text}\n".encode())
    tell(f"{good('Wrote')} {shown(output)}: {counted(len(lock.module), 'module')}.")
