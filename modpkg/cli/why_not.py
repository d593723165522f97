"""``why-not``."""

from __future__ import annotations

import click
from packaging.version import Version

from modpkg.cli.install import show_changes
from modpkg.cli.module_names import known_names
from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import good, print_json, say, strong
from modpkg.core.errors import UsageError
from modpkg.core.names import ModuleName, Requirement, parse_requirement
from modpkg.environment.preview import open_preview
from modpkg.environment.why_not import WhyNot, why_not
from modpkg.environment.workspace import Workspace
from modpkg.registry.select import newest_release
from modpkg.resolve.catalog import Catalog


@click.command("why-not")
@click.argument("requirement", metavar="NAME==VERSION", shell_complete=known_names)
@project_options
@with_workspace
def why_not_command(workspace: Workspace, requirement: str, as_json: bool) -> None:
    """Explain why a version was not selected, and show a command that installs it.

    Everything is resolved once more with that version; nothing is changed.
    """
    parsed = parse_requirement(requirement)
    preview = open_preview(workspace)
    answer = why_not(preview, ModuleName(parsed.name), _exact_version(parsed, preview.catalog))
    if as_json:
        print_json(answer)
    else:
        _show(answer)


def _exact_version(requirement: Requirement, catalog: Catalog) -> Version:
    """Return the version of ``NAME==VERSION``.

    Raises:
        UsageError: The requirement is not of the form ``NAME==VERSION``.
        NotFound: Nor is there a module of that name.
    """
    specifiers = list(requirement.specifier)
    exact = [one for one in specifiers if one.operator == "==" and not one.version.endswith(".*")]
    if len(specifiers) != 1 or not exact or requirement.extras:
        name = requirement.name
        if (unknown := catalog.unknown(name)) is not None:
            raise unknown
        releases = catalog.releases(name)
        lines = [release.line for release in releases]
        meant = newest_release(lines, requirement.specifier, or_yanked=True)
        meant = meant or newest_release(lines, or_yanked=True)
        version = releases[0].version if meant is None else meant.version
        example = f"{name}=={version}"
        raise UsageError("M901", message=f'Name one version: modpkg why-not "{example}"')
    return Version(exact[0].version)


def _show(answer: WhyNot) -> None:
    this = f"{strong(answer.name)} {answer.version}"
    if answer.verdict == "chosen":
        say(f"{this} is selected.")
    elif answer.verdict == "forbidden":
        say(f"{this} cannot be selected:")
        say(answer.explanation)
    else:
        say(f"{this} could be selected. {answer.explanation}")
    if answer.command is not None:
        say(f"To install it: {good(answer.command)}")
        show_changes(answer.changes)
