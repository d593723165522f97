"""``rollback``."""

from __future__ import annotations

import click

from modpkg.cli.options import (
    json_option,
    user_option,
)
from modpkg.cli.output import (
    good,
    note,
    print_json,
    say,
)
from modpkg.environment.generations import Environment
from modpkg.environment.project import Project, find_project


@click.command("rollback")
@click.option("--to", type=int, metavar="N", help="Number of the generation. [default: the last]")
@click.option("--list", "listing", is_flag=True, help="List the generations there are.")
@user_option
@json_option
def rollback_command(to: int | None, listing: bool, user: bool, as_json: bool) -> None:
    """Return the environment, and its lock, to an earlier generation."""
    from modpkg.environment.install import roll_back

    project = find_project(user=user)
    if listing:
        _list_generations(project, as_json)
        return
    generation, manifest_too = roll_back(project, to)
    if as_json:
        print_json({"generation": generation.number, "models": generation.models})
        return
    say(f"{good('Returned')} to generation {generation.number} of {generation.created}.")
    for module in generation.modules:
        say(f"  {module.name} {module.version}")
    if not manifest_too:
        note(
            f"{project.manifest_path.name} was edited since and was left alone; "
            "'modpkg install' follows it again."
        )


def _list_generations(project: Project, json_wanted: bool) -> None:
    environment = Environment(project.environment)
    current = environment.current_number()
    rows = [environment.generation(number) for number in environment.numbers()]
    if json_wanted:
        print_json(
            [
                {"generation": row.number, "created": row.created, "current": row.number == current}
                for row in rows
            ]
        )
        return
    for row in rows:
        mark = "*" if row.number == current else " "
        modules = ", ".join(f"{module.name} {module.version}" for module in row.modules)
        say(f"{mark} {row.number}  {row.created}  {modules}")
