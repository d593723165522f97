"""``search``."""

from __future__ import annotations

from textwrap import shorten

import click

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import counted, faint, print_json, say, table
from modpkg.core.records import KINDS
from modpkg.environment.search import FoundModule, search
from modpkg.environment.workspace import Workspace

_MOST_SUMMARY = 80
"""Letters of a summary in the table."""


@click.command("search")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@click.option("--kind", type=click.Choice(KINDS), help="Only modules of this kind.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Show at most N modules.",
)
@project_options
@with_workspace
def search_command(
    workspace: Workspace, words: tuple[str, ...], kind: str | None, limit: int, as_json: bool
) -> None:
    """Search registries for modules; without WORD, list them.

    Every WORD has to be in a module's name, summary, kind, task, licence or bases. The registries
    of the project and of config.toml are searched, or only what --registry names.
    """
    result = search(workspace, words, kind=kind, most=limit)
    if as_json:
        print_json(result)
        return
    if not result.modules:
        say("No module was found.")
        return
    several = len({module.registry for module in result.modules}) > 1
    rows = [
        [
            module.name,
            module.version,
            module.kind,
            _standing(module) + shorten(module.summary, _MOST_SUMMARY, placeholder=" …"),
            *([module.registry] if several else []),
        ]
        for module in result.modules
    ]
    table(rows, ["Name", "Version", "Kind", "Summary", *(["Registry"] if several else [])])
    if (left := result.total - len(result.modules)) > 0:
        say(faint(f"\n{counted(left, 'more module')}; --limit shows more."))


def _standing(module: FoundModule) -> str:
    if module.yanked is not None:
        return "(yanked) "
    if module.deprecated is None:
        return ""
    return f"(deprecated{f', use {module.successor}' if module.successor else ''}) "
