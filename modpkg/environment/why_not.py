"""Why a version was not selected, and which command installs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.errors import ResolutionImpossible, TrustError
from modpkg.core.names import ModuleName, parse_version, requirement_text
from modpkg.environment.plan import VersionChange, version_changes
from modpkg.environment.preview import Preview, versions_of
from modpkg.resolve.catalog import Release
from modpkg.resolve.explain import replacement
from modpkg.resolve.need import Need
from modpkg.resolve.resolve import Resolution
from modpkg.resolve.suggest import QUESTION


class WhyNot(Struct, frozen=True, kw_only=True):
    """The answer to ``modpkg why-not``."""

    name: str
    version: str
    chosen: str | None
    """The selected version; None if nothing needs the name."""
    verdict: Literal["chosen", "free", "forbidden"]
    explanation: str = ""
    """Why it cannot be selected, or why another is preferred."""
    command: str | None = None
    """A command that installs it; resolving it was tried."""
    changes: tuple[VersionChange, ...] = ()
    """The changes that the command makes."""


def why_not(preview: Preview, name: ModuleName, version: Version) -> WhyNot:
    """Explain why a version was not selected, by resolving with it.

    Raises:
        NotFound: There is no such release.
    """
    release = _release(preview, name, version)
    version = release.version  # 1.0 where it was asked for 1.0.0
    chosen = preview.chosen()
    answer = WhyNot(
        name=name,
        version=str(version),
        chosen=str(chosen[name]) if name in chosen else None,
        verdict="chosen",
    )
    if chosen.get(name) == version:
        return answer
    override = preview.catalog.overrides.get(name)
    if override is not None and not override.specifier.contains(version, prereleases=True):
        return msgspec.structs.replace(
            answer, verdict="forbidden", explanation=replacement(name, override)
        )
    pin = Need(name, None, SpecifierSet(f"=={version}"), where=QUESTION)
    conflict: list[str] = []
    try:
        selected: Resolution | None = preview.resolve([*preview.roots, pin], upgrade=[name])
    except ResolutionImpossible as error:
        conflict = [str(error.values["explanation"])]
        selected = _instead(preview, pin)
    refused = _refused(preview, release, selected)
    install = " ".join(
        [f'modpkg install "{name}=={version}"', *(f"--accept-changed {one}" for one in refused)]
    )
    if selected is None or conflict or refused:
        manifest = preview.manifest.path.name
        if conflict and selected is not None:
            only = "The" if refused else "Only the"
            conflict.append(f"{only} requirement of {name} in {manifest} rules it out.")
        may_accept = all(error.code == "M595" for error in refused.values())
        is_possible = selected is not None and may_accept  # else it is the manifest that forbids it
        return msgspec.structs.replace(
            answer,
            verdict="forbidden",
            explanation="\n".join([*conflict, *map(_sentence, refused.values())]),
            command=install if is_possible else None,
            changes=_changes(chosen, versions_of(selected)) if selected and is_possible else (),
        )
    changes = _changes(chosen, versions_of(selected))
    return msgspec.structs.replace(
        answer,
        verdict="free",
        explanation=_preference(preview, release, chosen.get(name)),
        command=f"modpkg update {name}" if _update_takes(preview, name, version) else install,
        changes=changes,
    )


def _release(preview: Preview, name: ModuleName, version: Version) -> Release:
    unknown = preview.catalog.unknown(name)
    if unknown is not None:
        raise unknown
    for release in preview.catalog.releases(name):
        if release.version == version:
            return release
    raise preview.catalog.registry(name).not_found(name, str(version))


def _instead(preview: Preview, pin: Need) -> Resolution | None:
    """Return what is selected with the pin in place of the manifest's own requirement."""
    if pin.name in preview.catalog.overrides:
        return None
    roots = [
        msgspec.structs.replace(root, specifier=pin.specifier) if root.name == pin.name else root
        for root in preview.roots
    ]
    if all(root.name != pin.name for root in preview.roots):
        return None
    try:
        return preview.resolve(roots, upgrade=[pin.name])
    except ResolutionImpossible:
        return None


def _refused(
    preview: Preview, release: Release, selected: Resolution | None
) -> dict[str, TrustError]:
    """Return by module why no lock takes a release, or what is selected with it and is new."""
    releases = {release.name: release}
    for name, module in () if selected is None else selected.modules.items():
        was = None if preview.lock is None else preview.lock.find(name)
        if was is None or was.release != module.release.line.release:
            releases[name] = module.release
    refused = {name: preview.refused(one) for name, one in releases.items()}
    return {name: error for name, error in refused.items() if error is not None}


def _sentence(refused: TrustError) -> str:
    return f"{refused.values['change']}." if refused.code == "M595" else str(refused)


def _update_takes(preview: Preview, name: ModuleName, version: Version) -> bool:
    if preview.lock is None or preview.lock.find(name) is None:
        return False
    try:
        return versions_of(preview.resolve(upgrade=[name])).get(name) == version
    except ResolutionImpossible:
        return False


def _preference(preview: Preview, release: Release, chosen: Version | None) -> str:
    """Return why another release is preferred to one that could be selected."""
    name = release.name
    refusal = preview.admission(upgrade=[name]).refusal(preview.catalog, release)
    if refusal is not None:
        return f"{name} {release.version} {refusal}."
    if chosen is None:
        return f"Nothing selected needs {name}."
    modules = [module.release for module in preview.resolve().modules.values()]
    passed_over = preview.passed_over(release, chosen, modules)
    if passed_over is not None:
        return f"{name} {release.version} {passed_over}."
    if (release.version < chosen) != preview.admission().prefers_lowest(name):
        word = "older" if release.version < chosen else "newer"
        return f"{name} {release.version} is {word} than {chosen}, which is preferred."
    for module in modules:
        for needed in module.requires:
            if needed.name == name and not needed.specifier.contains(
                release.version, prereleases=True
            ):
                what = requirement_text(name, set(), needed.specifier)
                return f"{module}, which is selected, needs {what}."
    locked = None if preview.lock is None else preview.lock.find(name)
    if locked is not None and parse_version(locked.version) == chosen:
        return f"{name} {chosen} is kept by the lock."
    return f"{name} {chosen} goes with the versions that were selected before it."


def _changes(
    before: Mapping[str, Version], after: Mapping[str, Version]
) -> tuple[VersionChange, ...]:
    return version_changes(
        {name: str(version) for name, version in before.items()},
        {name: str(version) for name, version in after.items()},
    )
