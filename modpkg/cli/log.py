"""``log``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, bad, faint, good, print_json, say, strong
from modpkg.core.errors import NotFound
from modpkg.core.files import shown, write_atomically
from modpkg.core.home import store_folder
from modpkg.core.names import module_name
from modpkg.environment.project import find_project
from modpkg.environment.registries import Registries
from modpkg.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modpkg.community.lineage.lineage import Branch
    from modpkg.core.records import Relation


@click.command("log")
@click.argument("name")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw it.")
@project_options
def log_command(
    name: str,
    svg: Path | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Show the releases of a module, newest first, and what each was made from."""
    from modpkg.community.lineage.lineage import WORDS, branches, lineage
    from modpkg.community.lineage.svg import family_picture

    chosen, store = module_name(name), Store(store_folder())
    with TerminalProgress() as progress:
        registries = Registries(
            find_project(user=user).parse(),
            store.blobs,
            default=registry,
            offline=offline,
            warn=progress.warn,
        )
        found = lineage(chosen, registries.of)
    if not found.releases:
        raise NotFound("M304", name=chosen, registry=registries.of(chosen).url, hint="")
    if svg is not None:
        write_atomically(svg, family_picture(found).encode())
    if as_json:
        print_json(found)
        return
    for branch in branches(found):
        _show(branch, WORDS)
    if found.cut:
        say(faint(f"There are more than {len(found.ancestors)} releases; the rest was left out."))
    if svg is not None:
        say(f"\n{good('Wrote')} {shown(svg)}.")


def _show(branch: Branch, words: Mapping[Relation, str]) -> None:
    node = branch.ancestor
    lead = "".join("    " if last else "│   " for last in branch.last[:-1])
    if branch.last:
        lead += "└── " if branch.last[-1] else "├── "
    how = "" if branch.relation is None else f"{words[branch.relation]} "
    text = f"{lead}{faint(how)}{strong(node.name)} {node.version}"
    if branch.relation is None and node.published:
        text += f"  {node.published[:10]}"
    text += faint(f"  {node.release[7:19]}")
    if node.missing:
        text += f"  {bad('missing')}: {node.missing}"
    if node.yanked is not None:
        text += f"  {bad('yanked')}{f': {node.yanked}' if node.yanked else ''}"
    if node.breaking:
        text += f"  breaks: {node.breaking}"
    if branch.seen:
        text += faint("  (told elsewhere)")
    say(text)
