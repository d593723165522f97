"""``withdraw``."""

from __future__ import annotations

import click

from modpkg.cli.options import with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.cli.review_options import candidate_argument, desk_of
from modpkg.environment.workspace import Workspace


@click.command("withdraw")
@candidate_argument
@click.option("--reason", default="", help="Why.")
@with_workspace
def withdraw_command(workspace: Workspace, candidate: str, reason: str, as_json: bool) -> None:
    """Take back a release candidate that you have submitted."""
    desk, name, number = desk_of(workspace, candidate)
    decided = desk.reject(name, number, reason=reason, status="withdrawn")
    if as_json:
        print_json(decided)
    else:
        tell(f"{good('Withdrew')} {decided.label}.")
