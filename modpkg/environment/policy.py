"""A manifest's policy: as the resolver takes it, and as the lock records it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from packaging.specifiers import SpecifierSet

from modpkg.core.errors import InvalidValue, LockError
from modpkg.core.names import parse_version, requirement_text
from modpkg.core.records import ReleaseRecord
from modpkg.core.version import __version__
from modpkg.manifest.cutoff import moment_text, parse_cutoff, parse_moment
from modpkg.manifest.schema import Dependency, Manifest, Strategy
from modpkg.registry.cool_down import cool_down_of
from modpkg.resolve.lock import Lock, LockedPolicy
from modpkg.resolve.policy import Policy, VersionRange
from modpkg.resolve.resolve import Resolution
from modpkg.trust.rules import rule_of


def with_flags(
    manifest: Manifest,
    *,
    strategy: Strategy | None = None,
    exclude_newer: str | None = None,
    strict: bool = False,
    require_signed: bool = False,
) -> Manifest:
    """Return a manifest whose policy is replaced by the command line's.

    ``strict`` and ``require_signed`` are the manifest's or the command line's.

    Raises:
        InvalidValue: ``exclude_newer`` is neither a date nor a time span.
    """
    resolution = manifest.resolution
    if strategy is not None:
        resolution = msgspec.structs.replace(resolution, strategy=strategy)
    if exclude_newer is not None:
        cutoff = parse_cutoff(exclude_newer)
        resolution = msgspec.structs.replace(resolution, exclude_newer=cutoff)
    if strict:
        resolution = msgspec.structs.replace(resolution, strict=True)
    if require_signed:
        resolution = msgspec.structs.replace(resolution, require_signed=True)
    return msgspec.structs.replace(manifest, resolution=resolution)


def policy_of(manifest: Manifest, now: datetime, lock: Lock | None = None) -> Policy:
    """Return the policy of a resolution at the moment ``now``; ``lock`` is the one so far."""
    resolution = manifest.resolution
    newer = resolution.exclude_newer
    return Policy(
        strategy=resolution.strategy,
        prereleases=frozenset(resolution.prereleases),
        fit=resolution.fit,
        strict=resolution.strict,
        constraints=bounds_of(manifest.constraints),
        cutoff=newer.at(now) if newer is not None else None,
        cutoffs={
            name: cutoff.at(now) if cutoff is not None else None
            for name, cutoff in resolution.exclude_newer_package.items()
        },
        now=now,
        taken={} if lock is None else {m.name: parse_version(m.version) for m in lock.module},
    )


def bounds_of(bounds: tuple[Dependency, ...]) -> dict[str, VersionRange]:
    """Return constraints or overrides as the resolver takes them."""
    return {bound.name: VersionRange(bound.requirement.specifier, bound.where) for bound in bounds}


def recorded(bounds: tuple[Dependency, ...]) -> list[str]:
    """Return constraints or overrides as the lock records them."""
    return [requirement_text(bound.name, set(), bound.requirement.specifier) for bound in bounds]


def cool_downs(policy: Policy, resolution: Resolution) -> list[str]:
    """Return the cool-downs of registries that counted for a resolution, as a lock has them."""
    spans = {
        release.registry.name: cool_down_of(release.registry)
        for release in (chosen.release for chosen in resolution.modules.values())
        if policy.cools_down(release.name)
    }
    return sorted(f"{name}={span.text}" for name, span in spans.items() if span is not None)


def locked_policy(
    manifest: Manifest, cutoff: datetime | None, cool_down: Sequence[str] = ()
) -> LockedPolicy:
    """Return the lock's record of a manifest's ``[resolution]``, and of registries' cool-downs."""
    resolution = manifest.resolution
    newer = resolution.exclude_newer
    return LockedPolicy(
        strategy=resolution.strategy,
        prereleases=list(resolution.prereleases),
        fit=resolution.fit,
        exclude_newer=newer.text if newer is not None else None,
        cutoff=moment_text(cutoff) if cutoff is not None else None,
        exclude_newer_package=[
            f"{name}={own.text if own is not None else 'false'}"
            for name, own in resolution.exclude_newer_package.items()
        ],
        cool_down=[*cool_down],
    )


def changed_policy(manifest: Manifest, lock: Lock) -> str | None:
    """Return how the policy differs from the lock's, as a clause; None if it does not."""
    for title, had, wanted in (
        ("constraints", lock.constraints, recorded(manifest.constraints)),
        ("overrides", lock.overrides, recorded(manifest.overrides)),
    ):
        changed = sorted(set(had) ^ set(wanted))
        if changed:
            return f"[{title}] changed: {', '.join(changed)}"
    now = locked_policy(manifest, None)
    for field in msgspec.structs.fields(LockedPolicy):
        if field.name in ("cutoff", "cool_down"):
            continue
        before, after = getattr(lock.resolution, field.name), getattr(now, field.name)
        if before != after:
            return f"{field.encode_name} was {_shown(before)} and is {_shown(after)}"
    for module in lock.module:
        rule = rule_of(manifest.trust, module.name)
        if rule is not None and module.signer not in rule.signers:
            return f"[trust] names another signer of {module.name} than the lock"
        if manifest.resolution.require_signed and not module.signer:
            return f"{module.name} is locked without a signer, and require-signed is set"
    return None


def waits_longer(manifest: Manifest, lock: Lock, name: str, published: str, now: datetime) -> bool:
    """Return whether the manifest itself keeps out a release that it let in for the lock.

    So it does if its cut-off is new, or earlier than it was: a cool-down of a registry is none of
    the manifest's. When a release was published only its index line says, so a later cut-off, or
    another setting, is no reason to believe that.

    Args:
        manifest: The manifest.
        lock: The lock so far, which has the release.
        name: Its module.
        published: When it was published, by its registry.
        now: From when spans are counted back.
    """
    wanted = _cutoff_in(locked_policy(manifest, None), name)
    before = _cutoff_in(lock.resolution, name)
    if wanted is None or wanted == before:
        return False
    if before is None:
        return True
    try:
        new, old = parse_cutoff(wanted), parse_cutoff(before)
        if new.span is not None and old.span is not None:
            return new.span > old.span
        moment = old.moment
        if before == lock.resolution.exclude_newer and lock.resolution.cutoff is not None:
            moment = parse_moment(lock.resolution.cutoff)
        return moment is None or (new.at(now) < moment and parse_moment(published) <= moment)
    except InvalidValue:
        return False


def _cutoff_in(policy: LockedPolicy, name: str) -> str | None:
    """Return what a manifest sets as the cut-off of a module; None if it has none."""
    own = dict(text.split("=", 1) for text in policy.exclude_newer_package if "=" in text)
    text = own.get(name, policy.exclude_newer)
    return None if text == "false" else text


def check_engine(records: Iterable[ReleaseRecord]) -> None:
    """Check that this version of modpkg can install these releases.

    Raises:
        LockError: A release requires another version of modpkg.
    """
    for record in records:
        text = record.requires_modpkg
        if text and not SpecifierSet(text).contains(__version__, prereleases=True):
            raise LockError(
                "M415",
                name=record.name,
                version=record.version,
                specifier=text,
                engine=__version__,
            )


def _shown(value: str | list[str] | None) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "empty"
    return value or "not set"
