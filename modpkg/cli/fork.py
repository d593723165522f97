"""``fork``."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.module_names import known_names
from modpkg.cli.options import accept_named_option, project_options, with_workspace
from modpkg.cli.output import good, print_json, strong, tell
from modpkg.community.lineage.fork import fork
from modpkg.core import system
from modpkg.core.files import shown
from modpkg.core.names import module_name
from modpkg.environment.workspace import Workspace


@click.command("fork")
@click.argument("origin", metavar="NAME[==VERSION]", shell_complete=known_names)
@click.argument("name", metavar="NEWNAME")
@click.option("--out", type=click.Path(path_type=Path), help="Its folder. [default: NEWNAME]")
@accept_named_option
@project_options
@with_workspace
def fork_command(
    workspace: Workspace, origin: str, name: str, out: Path | None, as_json: bool
) -> None:
    """Start a module of your own from a release: the same tensors and files, and its lineage.

    Publishing the fork uploads no weights: it refers to those of its origin until they differ.
    """
    chosen = module_name(name)
    forked = fork(origin, chosen, out if out is not None else Path(chosen), workspace)
    if as_json:
        print_json(forked)
        return
    tell(
        f"{good('Forked')} {forked.origin} as {strong(forked.name)} {forked.version} in "
        f"{shown(forked.folder)}/ ({forked.tensors} tensors, all shared with it)."
    )
    given = workspace.options.registry
    option = "" if given is None else f" --registry {system.shell_word(given)}"
    folder = system.shell_word(shown(forked.folder))
    tell(f"Make your changes, then: modpkg build {folder}{option}")
