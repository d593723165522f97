"""``audit``."""

from __future__ import annotations

import click

from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import counted, faint, print_json, say, table
from modpkg.core.printable import one_line
from modpkg.environment.audit import audit
from modpkg.environment.up_to_date import check_lock
from modpkg.environment.workspace import Workspace


@click.command("audit")
@click.option(
    "--ignore", multiple=True, metavar="ID", help="Leave out an advisory; may be given often."
)
@project_options
@with_workspace
def audit_command(workspace: Workspace, ignore: tuple[str, ...], as_json: bool) -> int:
    """Check locked modules against the advisories that their registries publish.

    What a registry has yanked or removed since, or decided about a candidate, is a warning.
    Exit status 1: an advisory concerns a locked version, or what is said of one is not signed.
    """
    lock = check_lock(workspace)
    result = audit(lock, workspace.registries.by_name(lock), ignore, workspace.manifest.trust)
    known = {text for one in result.ignored for text in (one.id, *one.aliases)}
    for text in ignore:
        if text not in known:
            workspace.progress.warn(f"--ignore {text}: no advisory of that name concerns the lock")
    for note in result.notes:
        workspace.progress.warn(note)
    for left_out in result.left_out:
        workspace.progress.warn(
            f"whether {left_out.name} was yanked is not known: {left_out.reason}"
        )
    status = int(bool(result.findings or result.left_out))
    if as_json:
        print_json(result)
        return status
    if result.findings:
        rows = [
            [
                one.name,
                one.version,
                one.id,
                one.severity or "-",
                ", ".join(one.fixed_in) or "(not fixed)",
                one_line(one.summary),
            ]
            for one in result.findings
        ]
        table(rows, ["Name", "Version", "Advisory", "Severity", "Fixed in", "Summary"])
        for one in result.findings:
            if one.url:
                say(faint(f"{one.id}: {one_line(one.url)}"))
    without = [one.address for one in result.registries if not one.advisories]
    for address in without:
        say(faint(f"{address} publishes no advisories."))
    concerned = len({one.name for one in result.findings})
    ignored = f"; {len(result.ignored)} ignored" if result.ignored else ""
    say(
        f"{counted(len(result.findings), 'advisory', 'advisories')} for {concerned} of "
        f"{counted(result.modules, 'module')}{ignored}."
    )
    return status
