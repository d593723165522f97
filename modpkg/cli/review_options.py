"""What the commands about a candidate have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from modpkg.cli.module_names import known_names
from modpkg.cli.options import json_option, registry_option
from modpkg.community.modules.reference import parse_candidate
from modpkg.community.review.desk import ReviewDesk, desk_at
from modpkg.core.errors import NotFound
from modpkg.core.names import ModuleName
from modpkg.environment.workspace import Workspace
from modpkg.registry.opening import open_place
from modpkg.registry.place import is_registry

Command = TypeVar("Command", bound=Callable[..., Any])


def candidate_argument(command: Command) -> Command:
    """Add the argument ``NAME#7``, and the options of commands about a candidate."""
    named = click.argument("candidate", metavar="NAME#N", shell_complete=known_names)
    return named(registry_option(json_option(command)))


def desk_of(workspace: Workspace, candidate: str) -> tuple[ReviewDesk, ModuleName, int]:
    """Return where a candidate is discussed and decided, with its name and number.

    Raises:
        UsageError: The text is not ``NAME#7``.
        NotFound: There is no registry.
        PublishError: Nothing can be written there.
    """
    name, number = parse_candidate(candidate)
    registry = workspace.registries.of(name)
    place = open_place(registry.source.url, workspace.settings)
    if not is_registry(place):
        raise NotFound("M301", url=place.url, remedy="check the address")
    return desk_at(place), name, number
