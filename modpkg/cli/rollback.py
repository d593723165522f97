"""``rollback``."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import good, note, print_json, say, tell
from modpkg.environment.generations import Environment
from modpkg.environment.install import roll_back
from modpkg.environment.workspace import Workspace


class RollbackDocument(Struct, frozen=True):
    """The generation that was restored."""

    generation: int
    models: dict[str, str]
    """Versions of its models, by name."""


class GenerationRow(Struct, frozen=True):
    """A generation of the environment."""

    generation: int
    created: str
    current: bool


class GenerationsDocument(Struct, frozen=True):
    """The generations of the environment (``--list``)."""

    generations: list[GenerationRow]


@click.command("rollback")
@click.option("--to", type=int, metavar="N", help="Generation to restore. [default: the previous]")
@click.option("--list", "listing", is_flag=True, help="List the generations instead.")
@user_option
@json_option
@with_workspace
def rollback_command(workspace: Workspace, to: int | None, listing: bool, as_json: bool) -> None:
    """Restore an earlier generation of the environment, with its lock."""
    if listing:
        _list_generations(workspace.environment, as_json)
        return
    generation, manifest_restored = roll_back(workspace.project, to)
    if as_json:
        print_json(RollbackDocument(generation.number, generation.models))
        return
    tell(f"{good('Restored')} generation {generation.number} of {generation.created}.")
    for module in generation.modules:
        tell(f"  {module.name} {module.version}")
    if not manifest_restored:
        note(
            f"{workspace.project.manifest_path.name} was edited since and is unchanged; "
            "'modpkg install' applies it again."
        )


def _list_generations(environment: Environment, as_json: bool) -> None:
    current = environment.current_number()
    rows = [environment.generation(number) for number in environment.numbers()]
    if as_json:
        listed = [GenerationRow(row.number, row.created, row.number == current) for row in rows]
        print_json(GenerationsDocument(listed))
        return
    for row in rows:
        mark = "*" if row.number == current else " "
        modules = ", ".join(f"{module.name} {module.version}" for module in row.modules)
        say(f"{mark} {row.number}  {row.created}  {modules}")
