"""``check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modpkg.cli.options import json_option, offline_option, registry_option
from modpkg.cli.output import (
    TerminalProgress,
    bad,
    faint,
    good,
    print_json,
    say,
    strong,
    table,
)

if TYPE_CHECKING:
    from modpkg.community.semver.check import Check


@click.command("check")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option(
    "--against", metavar="NAME==VERSION", help="Release to compare with. [default: the one before]"
)
@registry_option
@offline_option
@json_option
def check_command(
    folder: Path, against: str | None, registry: str | None, offline: bool, as_json: bool
) -> int:
    """Say which version the module in FOLDER may have, from what changed since the one before.

    A patch keeps tensors, dtypes, shapes, inputs and outputs, and most values; a minor version
    adds to them; anything else is a major one. Exit status 1: the version in modpkg.toml is lower
    than what changed asks for.
    """
    from modpkg.cli.build import module_project
    from modpkg.community.semver.releases import check_project

    manifest, module = module_project(folder)
    with TerminalProgress() as progress:
        found = check_project(
            manifest, module, progress, against=against, registry=registry, offline=offline
        )
    if as_json:
        print_json(check_document(found))
    else:
        show_check(found)
    return 0 if found.legal else 1


def show_check(found: Check) -> None:
    """Print a check: the facts, the tests and the verdict."""
    if found.against is not None:
        say(f"{strong(found.name)} {found.against} to {found.version}")
        if (weights := found.weights) is not None and (weights.values or weights.added):
            say(f"  tensors  {weight_line(found)}")
        if found.facts:
            say()
            order = sorted(found.facts, key=lambda fact: -_RANK[fact.level])
            table(
                [[fact.level, fact.about, fact.text] for fact in order], ["Asks for", "Of", "Fact"]
            )
            say()
        if found.tests is not None and found.tests.note:
            say(faint(f"{found.tests.note[0].upper()}{found.tests.note[1:]}"))
        elif found.tests is not None:
            held = found.tests.compared - len(found.tests.worse)
            say(f"  tests    {found.tests.compared} compared, {held} hold")
    say((good if found.legal else bad)(found.sentence))


_RANK = {"none": 0, "patch": 1, "minor": 2, "major": 3}


def weight_line(found: Check) -> str:
    """Return the weights of a check in a line."""
    weights = found.weights
    if weights is None:
        return ""
    groups = [
        (weights.same, "same"),
        (weights.changed, "changed"),
        (weights.grown, "longer"),
        (weights.other, "of another form"),
        (weights.added, "new"),
        (weights.removed, "gone"),
    ]
    return ", ".join(f"{len(names)} {what}" for names, what in groups if names)


def check_document(found: Check) -> dict[str, Any]:
    """Return a check as data for JSON."""
    document: dict[str, Any] = msgspec.to_builtins(found)
    return document | {"sentence": found.sentence}
