"""``outdated``."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import print_json, say, table
from modpkg.environment.outdated import Outdated, outdated
from modpkg.environment.preview import open_preview
from modpkg.environment.workspace import Workspace
from modpkg.registry.standing import NO_REASON, deprecation_note


class OutdatedDocument(Struct, frozen=True):
    """Locked modules with newer versions, or of releases that are yanked, deprecated or gone."""

    modules: list[Outdated]


@click.command("outdated")
@project_options
@with_workspace
def outdated_command(workspace: Workspace, as_json: bool) -> None:
    """List locked modules with newer versions available, or that are yanked, deprecated or gone.

    Update is the version that 'modpkg update' would install, within what the manifest allows;
    Newest is the newest release.
    """
    rows = outdated(open_preview(workspace))
    if as_json:
        print_json(OutdatedDocument(rows))
    elif not rows:
        say("All locked modules are at their newest versions.")
    else:
        table(
            [
                [
                    row.name,
                    _locked(row),
                    row.update or ("(none)" if row.reason else "(not needed)"),
                    row.newest or "(all yanked)",
                    row.reason,
                ]
                for row in rows
            ],
            ["Name", "Locked", "Update", "Newest", "Why not the newest"],
        )


def _locked(row: Outdated) -> str:
    notes = [row.replaced] if row.replaced is not None else []
    if row.removed is not None:
        notes.append(f"removed: {row.removed or NO_REASON}")
    elif row.yanked is not None:
        by = {None: "", True: ", signed", False: ", not signed"}[row.yank_signed]
        notes.append(f"yanked{by}: {row.yanked}")
    if row.deprecated is not None:
        notes.append(f"deprecated{deprecation_note(row.deprecated, row.successor)}")
    return f"{row.locked} ({'; '.join(notes)})" if notes else row.locked
