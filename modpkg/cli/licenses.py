"""``licenses``: what the modules of a lock ask of those who use them."""

from __future__ import annotations

import click

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import bad, good, print_json, say, table
from modpkg.environment.licences import licences_of
from modpkg.environment.locking import current_lock
from modpkg.environment.models import recipes
from modpkg.environment.workspace import Workspace
from modpkg.transfer.plan import plan_transfer


@click.command("licenses")
@project_options
@with_workspace
def licenses_command(workspace: Workspace, as_json: bool) -> int:
    """List the licences of what modpkg.lock names, and which do not go together in one model.

    Facts on licences come from a small table, and are no legal advice. What the manifest accepts,
    [licenses] says. Exit status 1: it refuses some.
    """
    manifest = workspace.manifest
    lock = current_lock(workspace.project, manifest, workspace.lock)
    by_name = {module.name: workspace.registries.of(module.name) for module in lock.module}
    records = plan_transfer(lock.module, by_name, workspace.store).records
    found = licences_of(manifest, records, recipes(manifest, lock, records))
    policy = manifest.licenses
    refused = any(module.verdict == "refused" for module in found.modules) or any(
        (policy.conflicts if one.status == "incompatible" else policy.unknown) == "refuse"
        for one in found.combinations
    )
    if as_json:
        print_json({"modules": found.modules, "combinations": found.combinations})
        return int(refused)
    rows = [
        [m.name, m.version, m.license, f"{m.verdict} ({m.reason})" if m.reason else m.verdict]
        for m in found.modules
    ]
    table(rows, ["Module", "Version", "Licence", "By the manifest"])
    say()
    for said in found.warnings():
        say(f"{bad('!')} {said}")
    if not found.combinations:
        say(good("Nothing is composed of licences that are known not to go together."))
    return int(refused)
