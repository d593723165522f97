"""``deprecate``."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.module_names import known_names
from modpkg.cli.options import check_reason_option, json_option, registry_option
from modpkg.cli.output import counted, good, print_json, tell
from modpkg.cli.registry_address import warn_if_unsigned
from modpkg.community.modules.reference import parse_reference
from modpkg.core.errors import UsageError
from modpkg.core.names import parse_requirement, requirement_text
from modpkg.core.records import IndexLine
from modpkg.registry.opening import existing_registry


class DeprecatedReleases(Struct, frozen=True):
    """Releases that were deprecated, or are not any more."""

    lines: list[IndexLine]


@click.command("deprecate")
@click.argument("release", metavar="NAME[==VERSION]", shell_complete=known_names)
@click.option("--reason", default="", help="Why it should not be used any more.")
@click.option("--successor", metavar="REQUIREMENT", help="What to use instead, like 'words>=2'.")
@click.option("--undo", is_flag=True, help="Undo it.")
@registry_option
@json_option
def deprecate_command(
    release: str,
    reason: str,
    successor: str | None,
    undo: bool,
    registry: str | None,
    as_json: bool,
) -> None:
    """Say that a release should not be used any more, or all releases that a module has.

    It is still chosen, and whoever installs it is warned once. 'modpkg yank' excludes a release.
    """
    check_reason_option(reason)
    if undo and (reason or successor):
        raise UsageError("M901", message="--undo takes neither --reason nor --successor.")
    reference = parse_reference(release)
    instead = "" if successor is None else _normal(successor)
    writer = existing_registry(registry)
    lines = writer.deprecate(reference.name, reference.version, None if undo else reason, instead)
    warn_if_unsigned(writer.place)
    if as_json:
        print_json(DeprecatedReleases(lines))
        return
    which = f" {lines[0].version}" if reference.version else f" ({counted(len(lines), 'release')})"
    verb = "Not deprecated any more:" if undo else "Deprecated"
    tell(f"{good(verb)} {reference.name}{which}.")


def _normal(text: str) -> str:
    """Return the normal spelling of a requirement."""
    wanted = parse_requirement(text)
    return requirement_text(wanted.name, {*wanted.extras}, wanted.specifier)
