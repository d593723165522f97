"""``comment``."""

from __future__ import annotations

import click

from modpkg.cli.options import with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.cli.review_options import candidate_argument, desk_of
from modpkg.core.errors import UsageError
from modpkg.environment.workspace import Workspace


@click.command("comment")
@candidate_argument
@click.argument("text", metavar="TEXT")
@with_workspace
def comment_command(workspace: Workspace, candidate: str, text: str, as_json: bool) -> None:
    """Comment on a release candidate; everybody can read it."""
    if not text.strip():
        raise UsageError("M901", message="A comment says something.")
    desk, name, number = desk_of(workspace, candidate)
    entry = desk.say(name, number, "comment", text)
    if as_json:
        print_json(entry)
    else:
        tell(f"{good('Commented')} on {name}#{number}.")
