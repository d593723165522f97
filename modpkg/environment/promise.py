"""What a lock promises: a version that it keeps is the same release, of the same registry.

A registry can replace a line of its index, and another registry can take the place of one. Neither
changes what a project has locked without a word (as in cargo and uv): it is refused, and named.
"""

from __future__ import annotations

from collections.abc import Collection

from modpkg.core.errors import LockError
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.lock import Lock, LockedModule


def check_promise(before: Lock, after: Lock, accepted: Collection[str]) -> None:
    """Check that a new lock keeps what the one before it promised.

    Args:
        before: The project's lock.
        after: What it would be replaced by.
        accepted: Modules that may be other ones.

    Raises:
        LockError: A kept version is another release, or a module is of another registry, although
            the manifest asks for it as before.
    """
    changes = {}
    for module in after.module:
        was = before.find(module.name)
        if was is None or module.name in accepted or _reassigned(module.name, before, after):
            continue
        if was.registry != module.registry:
            changes[module.name] = (
                f"{_named(module)} is now of the registry {module.registry!r}, and was locked from "
                f"{was.registry!r}"
            )
        elif was.version == module.version and was.release != module.release:
            changes[module.name] = (
                f"the registry {module.registry!r} now has another release as {_named(module)} "
                f"({module.release[7:19]}…) than the locked one ({was.release[7:19]}…)"
            )
    if changes:
        options = " ".join(f"--accept-changed {name}" for name in changes)
        raise LockError("M416", changes="; ".join(changes.values()), options=options)


def vanished(before: Lock, after: Lock, catalog: Catalog) -> list[str]:
    """Return a warning for each locked version that its registry does not have any more."""
    warnings = []
    for module in after.module:
        was = before.find(module.name)
        if was is None or (was.version, was.registry) == (module.version, module.registry):
            continue
        if all(release.line.version != was.version for release in catalog.releases(module.name)):
            warnings.append(
                f"{_named(was)} was locked, and the registry {was.registry!r} does not have it any "
                f"more; {module.version} takes its place"
            )
    return warnings


def _named(module: LockedModule) -> str:
    return f"{module.name} {module.version}"


def _reassigned(name: str, before: Lock, after: Lock) -> bool:
    """Return whether the manifest asks for a module that it did not name, or elsewhere."""
    return _asked(name, before) != _asked(name, after)


def _asked(name: str, lock: Lock) -> str | None:
    """Return the alias that the manifest's requirement names, or ""; None without requirement."""
    for text in lock.requirements:
        requirement, _, alias = text.partition(" @ ")
        if requirement.startswith(name) and not requirement[len(name) :][:1].isalnum():
            return alias
    return None
