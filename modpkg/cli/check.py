"""``check`` and ``changelog``: what changed, and which version that asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modpkg.cli.options import json_option, offline_option, project_options, registry_option
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
from modpkg.core.errors import UsageError

if TYPE_CHECKING:
    from modpkg.community.semver.changelog import Changes
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
    from modpkg.cli.publish import module_project
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


@click.command("changelog")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@project_options
def changelog_command(
    before: str, after: str, registry: str | None, offline: bool, user: bool, as_json: bool
) -> None:
    """Write what changed from A to B for people, in Markdown.

    A and B are two releases of a module (NAME==VERSION), or two lock files of an app.
    """
    from modpkg.community.semver.changelog import lock_markdown, release_markdown
    from modpkg.community.semver.releases import changes_between, lock_changelog, named_release
    from modpkg.core.home import store_folder
    from modpkg.environment.project import find_project
    from modpkg.environment.registries import Registries
    from modpkg.resolve.lock import read_lock
    from modpkg.store.store import Store

    with TerminalProgress() as progress:
        registries = Registries(
            find_project(user=user).parse(),
            Store(store_folder()).blobs,
            default=registry,
            offline=offline,
            warn=progress.warn,
        )
        if "==" in before or "==" in after:
            one, two = (named_release(text, registries) for text in (before, after))
            if one.name != two.name:
                raise UsageError(
                    "M901",
                    message=f"A changelog is of one module, not of {one.name} and {two.name}; "
                    f"'modpkg diff {before} {after}' compares their weights.",
                )
            found = changes_between(one, two, registries, progress, count=True)
            document: Any = _changes_document(found)
            text = release_markdown(found)
        else:
            locks = [read_lock(Path(name)) for name in (before, after)]
            if locks[0] is None or locks[1] is None:
                path = before if locks[0] is None else after
                raise UsageError(
                    "M901",
                    message=f"There is no lock file {path}; name two, or two releases as "
                    "NAME==VERSION.",
                )
            changed = lock_changelog(locks[0], locks[1], registries, progress)
            text = lock_markdown(changed)
            document = [
                {
                    "name": one.name,
                    "before": one.before,
                    "after": one.after,
                    "changes": None if one.changes is None else _changes_document(one.changes),
                }
                for one in changed
            ]
    if as_json:
        print_json(document)
    else:
        say(text.removesuffix("\n"))


def _changes_document(found: Changes) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(found)
    return document | {"check": check_document(found.check)}


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
