"""What a module needs and how it is put together: dependencies, extras, composition, task."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from packaging.requirements import Requirement
from packaging.version import Version

from modpkg.community.semver.levels import Fact, Level
from modpkg.community.semver.ranges import allowed, breaking_line, probes
from modpkg.core.names import specifier_text
from modpkg.manifest.schema import Compose, Dependency, Manifest, Step
from modpkg.manifest.spdx import parse_expression, permits_all_of

ACTING = ("adapter", "head", "expert", "patch")
"""Kinds whose requirement says on which bases they work."""


def manifest_facts(
    before: Manifest,
    after: Manifest,
    *,
    published: Callable[[str], Iterable[Version]],
    tests_hold: bool,
) -> list[Fact]:
    """Return what changed between two manifests of one module.

    ``published`` gives the versions that there are of a dependency; ``tests_hold`` says that the
    tests of both were compared, and none got worse.
    """
    one, two = before.module, after.module
    if one is None or two is None:
        raise AssertionError("a check is of modules")
    found = []
    if one.kind != two.kind:
        found.append(Fact("kind", f"it was a module of kind {one.kind}, is {two.kind}", "major"))
    found += _license(one.license, two.license)
    if before.requires_modpkg != after.requires_modpkg:
        said = f"it needs modpkg {after.requires_modpkg or 'of any version'}"
        found.append(Fact("requires-modpkg", said, "minor"))
    found += _dependencies(before, after, two.kind, published)
    found += _extras(before, after)
    found += _compose(before.compose, after.compose, "minor" if tests_hold else "major")
    found += _task(before, after)
    return found


def _license(old: str, new: str) -> list[Fact]:
    if old == new:
        return []
    more = permits_all_of(parse_expression(new), parse_expression(old))
    said = f"it was {old} and is {new}"
    if more:
        return [Fact("licence", f"{said}: all that was permitted still is", "patch")]
    return [Fact("licence", f"{said}: not all that was permitted still is", "major")]


def _dependencies(
    before: Manifest, after: Manifest, kind: str, published: Callable[[str], Iterable[Version]]
) -> list[Fact]:
    old = {str(d.name): d.requirement for d in before.dependencies}
    new = {str(d.name): d.requirement for d in after.dependencies}
    found = []
    for name in sorted(old.keys() - new.keys()):
        level: Level = "major" if kind in (*ACTING, "collection") else "minor"
        found.append(Fact("dependencies", f"{name} is gone", level))
    found += [
        Fact("dependencies", f"{name} ({_range(new[name])}) is new", "minor")
        for name in sorted(new.keys() - old.keys())
    ]
    for name in sorted(old.keys() & new.keys()):
        found += _range_facts(name, old[name], new[name], kind, published(name))
    return found


def _range_facts(
    name: str, old: Requirement, new: Requirement, kind: str, published: Iterable[Version]
) -> list[Fact]:
    found = []
    if old.extras != new.extras:
        changed = ", ".join(sorted(old.extras ^ new.extras))
        found.append(Fact("dependencies", f"other extras of {name}: {changed}", "minor"))
    if old.specifier == new.specifier:
        return found
    versions = sorted({*probes(old.specifier, new.specifier), *published})
    had, has = allowed(old.specifier, versions), allowed(new.specifier, versions)
    gained, dropped = sorted({*has} - {*had}), sorted({*had} - {*has})
    said = f"{name} was {_range(old)} and is {_range(new)}"
    if not gained and not dropped:
        return [*found, Fact("dependencies", f"{said}, which means the same", "patch")]
    if kind in ACTING:
        if dropped:
            found.append(Fact("dependencies", f"{said}: it works on fewer bases", "major"))
        elif gained:
            found.append(Fact("dependencies", f"{said}: it works on more bases", "minor"))
        return found
    lines = {breaking_line(version) for version in had}
    if any(breaking_line(version) not in lines for version in gained):
        told = Fact("dependencies", f"{said}: it may bring a new major version", "major")
    elif dropped:
        told = Fact("dependencies", f"{said}: some versions will not do any more", "minor")
    else:
        told = Fact("dependencies", f"{said}: more versions will do", "patch")
    return [*found, told]


def _range(requirement: Requirement) -> str:
    return specifier_text(requirement.specifier) or "any version"


def _extras(before: Manifest, after: Manifest) -> list[Fact]:
    found = []
    for name in sorted(before.extras.keys() | after.extras.keys()):
        old, new = before.extras.get(name), after.extras.get(name)
        if old is None:
            found.append(Fact("extras", f"extra {name!r} is new", "minor"))
        elif new is None:
            found.append(Fact("extras", f"extra {name!r} is gone", "major"))
        elif _texts(old) != _texts(new):
            found.append(Fact("extras", f"extra {name!r} brings other modules", "minor"))
    return found


def _texts(group: tuple[Dependency, ...]) -> list[str]:
    return sorted(f"{d.name} {sorted(d.requirement.extras)} {_range(d.requirement)}" for d in group)


def _compose(old: Compose | None, new: Compose | None, tuned: Level) -> list[Fact]:
    """Return what changed in a composition; ``tuned`` is what another strength of it asks for."""
    if old == new:
        return []
    if old is None or new is None:
        return [Fact("compose", "it is composed of modules now, or no more", "major")]
    found = [
        Fact("compose", f"another {what}", "major")
        for what in ("base", "dtype", "layers")
        if getattr(old, what) != getattr(new, what)
    ]
    had, has = ([(step.op, str(step.module)) for step in c.steps] for c in (old, new))
    for op, module in sorted({*had} - {*has}):
        found.append(Fact("compose", f"step {op!r} of {module} is gone", "major"))
    for op, module in sorted({*has} - {*had}):
        found.append(Fact("compose", f"step {op!r} of {module} is new", "minor"))
    reason = "tests hold" if tuned == "minor" else "no tests tell what it does"
    if (old.method, old.parameters) != (new.method, new.parameters):
        found.append(Fact("compose", f"another method or parameters; {reason}", tuned))
    kept = {*had} & {*has}
    if _steps(old, kept) != _steps(new, kept):
        said = f"another scale, order or parameters of the same steps; {reason}"
        found.append(Fact("compose", said, tuned))
    return found


def _steps(compose: Compose, kept: set[tuple[str, str]]) -> list[Step]:
    return [step for step in compose.steps if (step.op, str(step.module)) in kept]


def _task(before: Manifest, after: Manifest) -> list[Fact]:
    old, new = before.task, after.task
    if old == new:
        return []
    if old is None or new is None:
        level: Level = "minor" if old is None else "major"
        return [Fact("task", "it says now what it is for" if new else "it is gone", level)]
    if old.kind != new.kind:
        return [Fact("task", f"it was {old.kind} and is {new.kind}", "major")]
    keys = [key for key in old.__struct_fields__ if getattr(old, key) != getattr(new, key)]
    return [Fact("task", f"another {', '.join(keys)}", "minor")]
