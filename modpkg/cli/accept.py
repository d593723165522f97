"""``accept``."""

from __future__ import annotations

import click

from modpkg.cli.options import with_workspace
from modpkg.cli.output import good, print_json, strong, tell
from modpkg.cli.registry_address import warn_if_unsigned
from modpkg.cli.review_options import candidate_argument, desk_of
from modpkg.community.review.desk import PlaceDesk
from modpkg.environment.workspace import Workspace


@click.command("accept")
@candidate_argument
@click.option("--reason", default="", help="Why.")
@click.option(
    "--anyway", is_flag=True, help="Accept it although a report fails; --reason says why."
)
@with_workspace
def accept_command(
    workspace: Workspace, candidate: str, reason: str, anyway: bool, as_json: bool
) -> None:
    """Publish a release candidate, as it was reviewed."""
    desk, name, number = desk_of(workspace, candidate)
    decided = desk.accept(name, number, reason=reason, anyway=anyway)
    if isinstance(desk, PlaceDesk):
        warn_if_unsigned(desk.place)
    if as_json:
        print_json(decided)
    else:
        tell(
            f"{good('Accepted')} {decided.label}: {strong(decided.line.name)} "
            f"{decided.line.version} is released."
        )
