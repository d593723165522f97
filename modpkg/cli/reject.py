"""``reject``."""

from __future__ import annotations

import click

from modpkg.cli.options import with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.cli.review_options import candidate_argument, desk_of
from modpkg.core.errors import UsageError
from modpkg.environment.workspace import Workspace


@click.command("reject")
@candidate_argument
@click.option("--reason", required=True, help="Why, for whoever submitted it.")
@with_workspace
def reject_command(workspace: Workspace, candidate: str, reason: str, as_json: bool) -> None:
    """Decide that a release candidate becomes no release.

    Its files are removed when the registry is next cleaned up ('modpkg registry gc').
    """
    if not reason.strip():
        raise UsageError("M901", message="--reason says why.")
    desk, name, number = desk_of(workspace, candidate)
    decided = desk.reject(name, number, reason=reason)
    if as_json:
        print_json(decided)
    else:
        tell(f"{good('Rejected')} {decided.label}.")
