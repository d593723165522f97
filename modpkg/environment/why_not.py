"""What forbids a version that is not chosen, or which command takes it."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.errors import NotFound, ResolutionImpossible
from modpkg.core.names import ModuleName
from modpkg.environment.plan import Change
from modpkg.environment.preview import Trial, versions_of
from modpkg.resolve.catalog import Release
from modpkg.resolve.need import Need
from modpkg.resolve.suggest import QUESTION


class WhyNot(Struct, frozen=True, kw_only=True):
    """The answer."""

    name: str
    version: str
    chosen: str | None
    """The version that is chosen; None where nothing needs the name."""
    verdict: Literal["chosen", "free", "forbidden"]
    explanation: str = ""
    """Why it cannot be, or why it is not chosen although it could."""
    command: str | None = None
    """What takes it; it was tried."""
    changes: tuple[Change, ...] = ()
    """What that command changes."""


def why_not(trial: Trial, name: ModuleName, version: Version) -> WhyNot:
    """Say what forbids one version of a name: resolve with it, and see.

    Raises:
        NotFound: there is no such release.
    """
    release = _release(trial, name, version)
    chosen = trial.chosen()
    answer = WhyNot(
        name=name,
        version=str(version),
        chosen=str(chosen[name]) if name in chosen else None,
        verdict="chosen",
    )
    if chosen.get(name) == version:
        return answer
    pin = Need(name, None, SpecifierSet(f"=={version}"), where=QUESTION)
    install = f'modpkg install "{name}=={version}"'
    try:
        found = versions_of(trial.resolve([*trial.roots, pin], upgrade=[name]))
    except ResolutionImpossible as error:
        answer = msgspec.structs.replace(
            answer, verdict="forbidden", explanation=str(error.values["explanation"])
        )
        instead = _instead(trial, pin)
        if instead is None:
            return answer
        return msgspec.structs.replace(answer, command=install, changes=_changes(chosen, instead))
    return msgspec.structs.replace(
        answer,
        verdict="free",
        explanation=_preference(trial, release, chosen.get(name)),
        command=f"modpkg update {name}" if _update_takes(trial, name, version) else install,
        changes=_changes(chosen, found),
    )


def _release(trial: Trial, name: ModuleName, version: Version) -> Release:
    unknown = trial.catalog.unknown(name)
    if unknown is not None:
        raise unknown
    releases = trial.catalog.releases(name)
    for release in releases:
        if release.version == version:
            return release
    raise NotFound(
        "M312",
        name=name,
        version=version,
        registry=trial.catalog.registry(name).url,
        hint=f" (it has {', '.join(str(release.version) for release in releases[:8])})",
    )


def _instead(trial: Trial, pin: Need) -> dict[str, Version] | None:
    """Return what comes of putting the pin in the place of the manifest's own requirement."""
    if pin.name in trial.catalog.overrides:
        return None
    roots = [
        msgspec.structs.replace(root, specifier=pin.specifier) if root.name == pin.name else root
        for root in trial.roots
    ]
    if all(root.name != pin.name for root in trial.roots):
        return None
    try:
        return versions_of(trial.resolve(roots, upgrade=[pin.name]))
    except ResolutionImpossible:
        return None


def _update_takes(trial: Trial, name: ModuleName, version: Version) -> bool:
    if trial.lock is None or trial.lock.find(name) is None:
        return False
    try:
        return versions_of(trial.resolve(upgrade=[name])).get(name) == version
    except ResolutionImpossible:
        return False


def _preference(trial: Trial, release: Release, chosen: Version | None) -> str:
    """Return why a release that could be chosen is not."""
    name = release.name
    refusal = trial.admission(upgrade=[name]).refusal(trial.catalog, release)
    if refusal is not None:
        return f"{name} {release.version} {refusal}."
    if chosen is None:
        return f"Nothing that is chosen needs {name}."
    if (release.version < chosen) != trial.admission().prefers_lowest(name):
        word = "older" if release.version < chosen else "newer"
        return f"{name} {release.version} is {word} than {chosen}, which is preferred."
    return f"The lock keeps {name} {chosen}, or what was chosen before it does."


def _changes(before: dict[str, Version], after: dict[str, Version]) -> tuple[Change, ...]:
    return tuple(
        Change(name, _text(before.get(name)), _text(after.get(name)))
        for name in [*after, *(name for name in before if name not in after)]
        if before.get(name) != after.get(name)
    )


def _text(version: Version | None) -> str | None:
    return None if version is None else str(version)
