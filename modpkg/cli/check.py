"""``check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modpkg.cli.options import (
    accept_named_option,
    json_option,
    offline_option,
    registry_option,
    with_workspace,
)
from modpkg.cli.output import bad, faint, good, print_json, say, strong, table
from modpkg.community.modules.project import module_project
from modpkg.environment.workspace import Workspace

if TYPE_CHECKING:
    from modpkg.community.semver.check import Check


@click.command("check")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option(
    "--against",
    metavar="NAME==VERSION",
    help="Compare with this release. [default: the last]",
)
@accept_named_option
@registry_option
@offline_option
@json_option
@with_workspace
def check_command(workspace: Workspace, folder: Path, against: str | None, as_json: bool) -> int:
    """Compute the version bump (patch, minor or major) that the changes in FOLDER require.

    A patch keeps tensors, dtypes, shapes, inputs and outputs, and most values; a minor version
    adds to them; anything else is a major one. Exit status 1: the version in modpkg.toml is lower
    than the changes require.
    """
    from modpkg.community.semver.releases import check_project

    result = check_project(module_project(folder, workspace), against)
    if as_json:
        print_json(result)
    else:
        show_check(result)
    return 0 if result.legal else 1


def show_check(result: Check) -> None:
    """Print a check: the facts, the tests and the verdict."""
    if result.against is not None:
        say(f"{strong(result.name)} {result.against} to {result.version}")
        if (weights := result.weights) is not None and (weights.values or weights.added):
            say(f"  tensors  {weight_line(result)}")
        if result.facts:
            say()
            order = sorted(result.facts, key=lambda fact: -_RANK[fact.level])
            table(
                [[fact.level, fact.about, fact.text] for fact in order],
                ["Level", "Of", "Change"],
            )
            say()
        if result.tests is not None and result.tests.note:
            say(faint(f"{result.tests.note[0].upper()}{result.tests.note[1:]}"))
        elif result.tests is not None:
            held = result.tests.compared - len(result.tests.worse)
            say(f"  tests    {result.tests.compared} compared, {held} hold")
    say((good if result.legal else bad)(result.sentence))


_RANK = {"none": 0, "patch": 1, "minor": 2, "major": 3}


def weight_line(result: Check) -> str:
    """Return what changed in the weights, as a line."""
    weights = result.weights
    if weights is None:
        return ""
    groups = [
        (weights.same, "same"),
        (weights.changed, "changed"),
        (weights.grown, "with appended rows"),
        (weights.other, "with another type"),
        (weights.added, "added"),
        (weights.removed, "removed"),
    ]
    return ", ".join(f"{len(names)} {what}" for names, what in groups if names)
