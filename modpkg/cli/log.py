"""``log``."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.module_names import known_names
from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import bad, faint, good, print_json, say, strong, tell
from modpkg.community.lineage.lineage import RELATIONS, TreeLine, read_lineage, tree_lines
from modpkg.community.lineage.svg import lineage_svg
from modpkg.core.files import shown, write_atomically
from modpkg.core.names import module_name
from modpkg.environment.workspace import Workspace


@click.command("log")
@click.argument("name", shell_complete=known_names)
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the lineage to a file as a graph.",
)
@project_options
@with_workspace
def log_command(workspace: Workspace, name: str, svg: Path | None, as_json: bool) -> None:
    """Show the releases of a module, newest first, and what each was made from."""
    chosen = module_name(name)
    lineage = read_lineage(chosen, workspace.registries.of)
    if not lineage.releases:
        raise workspace.registries.of(chosen).not_found(chosen, "any")
    if svg is not None:
        write_atomically(svg, lineage_svg(lineage).encode())
    if as_json:
        print_json(lineage)
        return
    for line in tree_lines(lineage):
        say(_shown(line))
    if lineage.cut:
        say(faint(f"Only the first {len(lineage.ancestors)} releases are shown."))
    if svg is not None:
        tell(f"\n{good('Wrote')} {shown(svg)}.")


def _shown(line: TreeLine) -> str:
    node = line.ancestor
    lead = "".join("    " if last else "│   " for last in line.last[:-1])
    if line.last:
        lead += "└── " if line.last[-1] else "├── "
    how = "" if line.relation is None else f"{RELATIONS[line.relation]} "
    text = f"{lead}{faint(how)}{strong(node.name)} {node.version}"
    if line.relation is None and node.published:
        text += f"  {node.published[:10]}"
    text += faint(f"  {node.release[7:19]}")
    if node.missing:
        text += f"  {bad('missing')}: {node.missing}"
    if node.yanked is not None:
        text += f"  {bad('yanked')}{f': {node.yanked}' if node.yanked else ''}"
    if node.breaking:
        text += f"  breaks: {node.breaking}"
    if line.repeated:
        text += faint("  (shown above)")
    return text
