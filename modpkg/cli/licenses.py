"""``licenses``: what the modules of a lock ask of those who use them."""

from __future__ import annotations

import click

from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, bad, good, print_json, say, table


@click.command("licenses")
@project_options
def licenses_command(registry: str | None, offline: bool, user: bool, as_json: bool) -> int:
    """List the licences of what modpkg.lock names, and which do not go together in one model.

    Facts on licences come from a small table, and are no legal advice. What the manifest accepts,
    [licenses] says. Exit status 1: it refuses some.
    """
    from modpkg.core.home import store_folder
    from modpkg.environment.licences import licences_of
    from modpkg.environment.locking import current_lock
    from modpkg.environment.models import recipes
    from modpkg.environment.project import find_project
    from modpkg.environment.registries import Registries
    from modpkg.resolve.lock import read_lock
    from modpkg.store.store import Store
    from modpkg.transfer.plan import plan_transfer

    project, store = find_project(user=user), Store(store_folder())
    manifest = project.parse()
    with TerminalProgress() as progress:
        lock = current_lock(project, manifest, read_lock(project.lock_path))
        registries = Registries(
            manifest, store.blobs, default=registry, offline=offline, warn=progress.warn
        )
        by_name = {module.name: registries.of(module.name) for module in lock.module}
        records = plan_transfer(lock.module, by_name, store).records
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
