"""``why-not``."""

from __future__ import annotations

import click

from modpkg.cli.install import show_changes
from modpkg.cli.options import project_options
from modpkg.cli.outdated import open_trial
from modpkg.cli.output import TerminalProgress, good, print_json, say, strong
from modpkg.core.errors import UsageError


@click.command("why-not")
@click.argument("requirement", metavar="NAME==VERSION")
@project_options
def why_not_command(
    requirement: str, registry: str | None, offline: bool, user: bool, as_json: bool
) -> None:
    """Say what forbids a version that is not chosen, or which command takes it.

    The version is tried: everything is resolved once more with it, and nothing is changed.
    """
    from packaging.version import Version

    from modpkg.core.names import ModuleName, parse_requirement
    from modpkg.environment.why_not import why_not

    asked = parse_requirement(requirement)
    exact = [item for item in asked.specifier if item.operator == "=="]
    if len(exact) != 1 or len(asked.specifier) != 1 or exact[0].version.endswith(".*"):
        raise UsageError("M901", message=f'Name one version: modpkg why-not "{asked.name}==1.0.0"')
    with TerminalProgress() as progress:
        trial = open_trial(progress, registry, offline, user)
        progress.stage("Resolving")
        answer = why_not(trial, ModuleName(asked.name), Version(exact[0].version))
    if as_json:
        print_json(answer)
        return
    this = f"{strong(answer.name)} {answer.version}"
    if answer.verdict == "chosen":
        say(f"{this} is what is chosen.")
    elif answer.verdict == "forbidden":
        say(f"{this} cannot be chosen:")
        say(answer.explanation)
        if answer.command is not None:
            say(f"What {trial.manifest.path.name} asks of {answer.name} is all that forbids it.")
    else:
        say(f"Nothing forbids {this}. {answer.explanation}")
    if answer.command is not None:
        say(f"This takes it: {good(answer.command)}")
        show_changes(answer.changes)
