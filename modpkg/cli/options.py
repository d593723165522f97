"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from modpkg.cli.output import TerminalProgress
from modpkg.environment.workspace import RegistryOptions, Workspace

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def user_option(command: Command) -> Command:
    return click.option(
        "--user", is_flag=True, help="Use your own environment, also inside a project."
    )(command)


def registry_option(command: Command) -> Command:
    return click.option(
        "--registry",
        metavar="URL",
        help="Registry to use: a folder or an address. [env: MODPKG_REGISTRY]",
    )(command)


def with_workspace(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a `Workspace` in place of ``--registry``, ``--offline`` and ``--user``.

    It comes first of the arguments, and shows progress on the terminal. The decorator stands right
    above the function, below those of its options.
    """

    @functools.wraps(command)
    def run(
        *arguments: Any,
        registry: str | None = None,
        offline: bool = False,
        user: bool = False,
        **values: Any,
    ) -> Any:
        with TerminalProgress() as progress:
            options = RegistryOptions(registry, offline)
            workspace = Workspace(user=user, options=options, progress=progress)
            return command(workspace, *arguments, **values)

    return run


def policy_options(command: Command) -> Command:
    """``--resolution`` and ``--exclude-newer``, which take the place of the manifest's."""
    newer = click.option(
        "--exclude-newer",
        metavar="WHEN",
        help="Leave out what was published later, this time: a date, or '7 days' before now.",
    )
    strategy = click.option(
        "--resolution",
        type=click.Choice(["highest", "lowest", "lowest-direct"]),
        help="Which versions to prefer, this time. [default: the manifest's, else highest]",
    )
    return strategy(newer(command))


def offline_option(command: Command) -> Command:
    return click.option("--offline", is_flag=True, help="Open no network connection.")(command)


def project_options(command: Command) -> Command:
    """What every command has that reads a project and its registries."""
    return registry_option(offline_option(user_option(json_option(command))))


def upgrade_options(command: Command) -> Command:
    """``--upgrade`` and ``--upgrade-package``: which locked versions are not kept."""
    one = click.option(
        "--upgrade-package", multiple=True, metavar="NAME", help="Like --upgrade, for one."
    )
    every = click.option(
        "--upgrade", is_flag=True, help="Take the newest versions, whatever the lock has."
    )
    return every(one(command))


def limit_option(command: Command) -> Command:
    """``--time-limit``: what a test may take."""
    return click.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        default=1800.0,
        show_default=True,
        metavar="SECONDS",
        help="What a test may take on one model before it is stopped.",
    )(command)


def trial_options(command: Command) -> Command:
    """How a command judges what is tried."""
    timeout = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Take a run that is not over by then as bad.",
    )
    repeat = click.option(
        "--repeat",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Run N times; good is what passes every time.",
    )
    fresh = click.option("--fresh", is_flag=True, help="Forget the runs made before.")
    return timeout(repeat(fresh(command)))
