"""``licenses``: the licences of locked modules, and how ``[licenses]`` judges them."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import print_json, table
from modpkg.environment.licences import ModuleLicense, check_licences
from modpkg.environment.up_to_date import check_lock
from modpkg.environment.workspace import Workspace
from modpkg.transfer.plan import plan_transfer


class LicencesDocument(Struct, frozen=True):
    """The licences of locked modules."""

    modules: tuple[ModuleLicense, ...]


@click.command("licenses")
@project_options
@with_workspace
def licenses_command(workspace: Workspace, as_json: bool) -> int:
    """List the licences of locked modules, and whether [licenses] of the manifest accepts them.

    Exit status 1: it refuses one.
    """
    manifest = workspace.manifest
    lock = check_lock(workspace)
    by_name = workspace.registries.by_name(lock)
    records = plan_transfer(lock.module, by_name, workspace.store).records
    modules = check_licences(manifest.licenses, records)
    if as_json:
        print_json(LicencesDocument(modules))
    else:
        rows = [
            [m.name, m.version, m.license, f"{m.verdict} ({m.reason})" if m.reason else m.verdict]
            for m in modules
        ]
        table(rows, ["Module", "Version", "Licence", "Policy"])
    return int(any(module.verdict == "refused" for module in modules))
