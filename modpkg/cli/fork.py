"""``fork``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, good, print_json, say, strong
from modpkg.core.errors import UsageError
from modpkg.core.files import shown
from modpkg.core.home import store_folder
from modpkg.core.names import ModuleName, module_name
from modpkg.environment.project import find_project
from modpkg.environment.registries import Registries
from modpkg.store.store import Store


@click.command("fork")
@click.argument("origin", metavar="NAME[==VERSION]")
@click.argument("name", metavar="NEWNAME")
@click.option("--out", type=click.Path(path_type=Path), help="Its folder. [default: NEWNAME]")
@project_options
def fork_command(
    origin: str,
    name: str,
    out: Path | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Begin a module of your own from a release: the same tensors and files, and its lineage.

    Publishing the fork moves no weights: it refers to those of its origin until they differ.
    """
    from modpkg.community.lineage.fork import fork
    from modpkg.community.semver.releases import newest_or_named
    from modpkg.environment.releases import fetch_release

    chosen, store = module_name(name), Store(store_folder())
    with TerminalProgress() as progress:
        registries = Registries(
            find_project(user=user).parse(),
            store.blobs,
            default=registry,
            offline=offline,
            warn=progress.warn,
        )
        line = newest_or_named(origin, registries)
        if line.name == chosen:
            raise UsageError("M901", message=f"A fork needs a name of its own, not {chosen}.")
        release = ModuleName(line.name)
        module = fetch_release(release, line.version, registries, store, progress)
        progress.stage(f"Writing {chosen}")
        with store.lock():
            found = fork(module, chosen, out if out is not None else Path(chosen))
    if as_json:
        print_json({**msgspec.structs.asdict(found), "folder": str(found.folder)})
        return
    say(
        f"{good('Forked')} {found.origin} as {strong(found.name)} {found.version} in "
        f"{shown(found.folder)}/ ({found.tensors} tensors, all shared with it)."
    )
    say(f"Change what you like, then: modpkg build {shown(found.folder)}")
