"""``info``."""

from __future__ import annotations

import click
from msgspec import UNSET

from modpkg.cli.module_names import known_names
from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import bad, faint, print_json, say, strong
from modpkg.core.files import human_bytes
from modpkg.core.names import listed
from modpkg.environment.module_info import ModuleInfo, module_info
from modpkg.environment.workspace import Workspace
from modpkg.registry.standing import deprecation_note

_MOST_VERSIONS = 20
"""Releases that are shown without ``--json``."""


@click.command("info")
@click.argument("requirement", metavar="NAME[==VERSION]", shell_complete=known_names)
@project_options
@with_workspace
def info_command(workspace: Workspace, requirement: str, as_json: bool) -> None:
    """Show what a registry has of a module: versions, requirements, sizes, fit and origins.

    Nothing is installed. 'modpkg show' is for what is installed; 'modpkg log' shows the origins of
    all releases.
    """
    info = module_info(workspace, requirement)
    if as_json:
        print_json(info)
    else:
        _show(info)


def _show(info: ModuleInfo) -> None:
    yanked = ""
    if info.yanked is not None:
        yanked = f"  {bad('yanked')}" + (f": {info.yanked}" if info.yanked else "")
    if info.deprecated is not None:
        note = deprecation_note(info.deprecated, info.successor)
        yanked += f"  {bad('deprecated')}{note}"
    say(f"{strong(info.name)} {info.version}{yanked}")
    say(info.summary or faint("(no summary)"))
    fields = [
        ("Kind", info.kind + (f", {info.task}" if info.task else "")),
        ("Licence", info.license),
        ("Registry", info.registry + (f" ({info.origin})" if info.origin else "")),
        ("Published", info.published),
        ("Release", info.release),
        ("Size", _size(info)),
        ("Requires", ", ".join(info.requires) or "nothing"),
        ("Extras", "; ".join(f"{name}: {', '.join(of)}" for name, of in info.extras.items())),
        ("modpkg", info.requires_modpkg or ""),
        ("Tests", listed(info.tests, 5)),
        ("Locked", _locked(info)),
        ("Breaks", info.breaking),
    ]
    fields += [("Fit", f"{fit.base} {fit.version}: {fit.fit}") for fit in info.fits]
    for origin in info.built_from:
        how = "built against" if origin.relation in (UNSET, "built") else f"{origin.relation} from"
        fields.append(("Origin", f"{how} {origin.name} {origin.version}"))
    for label, text in fields:
        if text:
            say(f"  {label + ':':<11}{text}")
    _show_versions(info)


def _locked(info: ModuleInfo) -> str:
    return (info.locked or "") + (f" ({info.replaced})" if info.replaced else "")


def _size(info: ModuleInfo) -> str:
    weights = ""
    if info.tensors:
        weights = f", {info.tensors} tensors with {info.parameters:,} parameters"
    return f"{human_bytes(info.size)} in {info.files} files and packs{weights}"


def _show_versions(info: ModuleInfo) -> None:
    say(f"\n{strong('Versions')}")
    for release in info.versions[:_MOST_VERSIONS]:
        text = f"  {release.version:<12} {release.published[:10]:<12}"
        text += f"{human_bytes(release.size):>10}"
        if release.removed is not None:
            text += f"  {bad('removed')}{f': {release.removed}' if release.removed else ''}"
        elif release.yanked is not None:
            text += f"  {bad('yanked')}{f': {release.yanked}' if release.yanked else ''}"
        if release.deprecated is not None:
            note = deprecation_note(release.deprecated, release.successor)
            text += f"  {bad('deprecated')}{note}"
        say(text)
    if (left := len(info.versions) - _MOST_VERSIONS) > 0:
        say(faint(f"  and {left} more"))
