"""``changelog``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from modpkg.cli.check import check_document
from modpkg.cli.options import project_options
from modpkg.cli.output import (
    TerminalProgress,
    print_json,
    say,
)
from modpkg.core.errors import UsageError

if TYPE_CHECKING:
    from modpkg.community.semver.changelog import Changes


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
