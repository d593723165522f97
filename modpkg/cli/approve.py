"""``approve``."""

from __future__ import annotations

import click

from modpkg.cli.options import with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.cli.review_options import candidate_argument, desk_of
from modpkg.environment.workspace import Workspace


@click.command("approve")
@candidate_argument
@click.option("--message", "-m", default="", help="What you have looked at.")
@with_workspace
def approve_command(workspace: Workspace, candidate: str, message: str, as_json: bool) -> None:
    """Say that a release candidate should be accepted.

    Of a module that has reviewers, a server accepts only what one of them has approved.
    """
    desk, name, number = desk_of(workspace, candidate)
    entry = desk.say(name, number, "approval", message)
    if as_json:
        print_json(entry)
    else:
        tell(f"{good('Approved')} {name}#{number}.")
