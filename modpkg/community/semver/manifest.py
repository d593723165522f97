"""Facts about manifests: dependencies and their ranges, extras, composition, task, licence."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.semver.levels import Fact, Level, lowest_version
from modpkg.core.names import Requirement, specifier_text
from modpkg.core.records import ACTING_KINDS
from modpkg.manifest.schema import Compose, Dependency, Manifest, Step
from modpkg.manifest.spdx import parse_expression, permits_all_of


def manifest_facts(
    before: Manifest,
    after: Manifest,
    *,
    published: Callable[[str], Iterable[Version]],
    tests_hold: bool,
) -> list[Fact]:
    """Return what changed between two manifests of one module.

    Args:
        before: The earlier manifest.
        after: The later one.
        published: Returns the published versions of a dependency.
        tests_hold: Whether tests of both were compared and none got worse.
    """
    one, two = before.module, after.module
    if one is None or two is None:
        raise AssertionError("a check is of modules")
    facts = []
    if one.kind != two.kind:
        facts.append(Fact("kind", f"it was {one.kind} and is {two.kind}", "major"))
    facts += _license(one.license, two.license)
    if before.requires_modpkg != after.requires_modpkg:
        text = f"it needs modpkg {after.requires_modpkg or 'of any version'}"
        facts.append(Fact("requires-modpkg", text, "minor"))
    facts += _dependencies(before, after, two.kind, published)
    facts += _extras(before, after)
    facts += _compose(before.compose, after.compose, "minor" if tests_hold else "major")
    facts += _task(before, after)
    return facts


def _license(old: str, new: str) -> list[Fact]:
    if old == new:
        return []
    more = permits_all_of(parse_expression(new), parse_expression(old))
    text = f"it was {old} and is {new}"
    if more:
        return [Fact("licence", f"{text}: everything that was permitted still is", "patch")]
    return [Fact("licence", f"{text}: not everything that was permitted still is", "major")]


def _dependencies(
    before: Manifest, after: Manifest, kind: str, published: Callable[[str], Iterable[Version]]
) -> list[Fact]:
    old = {str(d.name): d.requirement for d in before.dependencies}
    new = {str(d.name): d.requirement for d in after.dependencies}
    facts = []
    for name in sorted(old.keys() - new.keys()):
        level: Level = "major" if kind in (*ACTING_KINDS, "collection") else "minor"
        facts.append(Fact("dependencies", f"{name} was removed", level))
    facts += [
        Fact("dependencies", f"{name} ({_range(new[name])}) was added", "minor")
        for name in sorted(new.keys() - old.keys())
    ]
    for name in sorted(old.keys() & new.keys()):
        facts += _range_facts(name, old[name], new[name], kind, published(name))
    return facts


def _range_facts(
    name: str, old: Requirement, new: Requirement, kind: str, published: Iterable[Version]
) -> list[Fact]:
    facts = []
    if old.extras != new.extras:
        changed = ", ".join(sorted(old.extras ^ new.extras))
        facts.append(Fact("dependencies", f"the extras of {name} changed: {changed}", "minor"))
    if old.specifier == new.specifier:
        return facts
    versions = sorted({*probe_versions(old.specifier, new.specifier), *published})
    had, has = allowed_versions(old.specifier, versions), allowed_versions(new.specifier, versions)
    gained, dropped = sorted({*has} - {*had}), sorted({*had} - {*has})
    text = f"{name} was {_range(old)} and is {_range(new)}"
    if not gained and not dropped:
        return [*facts, Fact("dependencies", f"{text}, an equivalent range", "patch")]
    if kind in ACTING_KINDS:
        if dropped:
            facts.append(Fact("dependencies", f"{text}: it works on fewer bases", "major"))
        elif gained:
            facts.append(Fact("dependencies", f"{text}: it works on more bases", "minor"))
        return facts
    lines = {breaking_line(version) for version in had}
    if any(breaking_line(version) not in lines for version in gained):
        fact = Fact("dependencies", f"{text}: a new major version is allowed", "major")
    elif dropped:
        fact = Fact("dependencies", f"{text}: fewer versions are allowed", "minor")
    else:
        fact = Fact("dependencies", f"{text}: more versions are allowed", "patch")
    return [*facts, fact]


def _range(requirement: Requirement) -> str:
    return specifier_text(requirement.specifier) or "any version"


def _extras(before: Manifest, after: Manifest) -> list[Fact]:
    facts = []
    for name in sorted(before.extras.keys() | after.extras.keys()):
        old, new = before.extras.get(name), after.extras.get(name)
        if old is None:
            facts.append(Fact("extras", f"extra {name!r} was added", "minor"))
        elif new is None:
            facts.append(Fact("extras", f"extra {name!r} was removed", "major"))
        elif _texts(old) != _texts(new):
            facts.append(Fact("extras", f"extra {name!r} has other modules", "minor"))
    return facts


def _texts(group: tuple[Dependency, ...]) -> list[str]:
    return sorted(f"{d.name} {sorted(d.requirement.extras)} {_range(d.requirement)}" for d in group)


def _compose(old: Compose | None, new: Compose | None, tuned: Level) -> list[Fact]:
    """Return what changed in a composition; ``tuned`` is the level of a change of its numbers."""
    if old == new:
        return []
    if old is None or new is None:
        return [Fact("compose", "it became an assembly of modules, or stopped being one", "major")]
    facts = [
        Fact("compose", f"the {what} changed", "major")
        for what in (
            "base",
            "dtype",
            "layers",
            "tokenizer",
            "vocabulary",
            "chat_template",
            "tie_word_embeddings",
        )
        if getattr(old, what) != getattr(new, what)
    ]
    had, has = ([(step.op, str(step.module)) for step in c.steps] for c in (old, new))
    for op, module in sorted({*had} - {*has}):
        facts.append(Fact("compose", f"step {op!r} of {module} was removed", "major"))
    for op, module in sorted({*has} - {*had}):
        facts.append(Fact("compose", f"step {op!r} of {module} was added", "minor"))
    reason = "tests hold" if tuned == "minor" else "no tests show the effect"
    if (old.method, old.parameters) != (new.method, new.parameters):
        facts.append(Fact("compose", f"the method or its parameters changed; {reason}", tuned))
    kept = {*had} & {*has}
    if _steps(old, kept) != _steps(new, kept):
        text = f"the scale, order or parameters of steps changed; {reason}"
        facts.append(Fact("compose", text, tuned))
    return facts


def _steps(compose: Compose, kept: set[tuple[str, str]]) -> list[Step]:
    return [step for step in compose.steps if (step.op, str(step.module)) in kept]


def _task(before: Manifest, after: Manifest) -> list[Fact]:
    old, new = before.task, after.task
    if old == new:
        return []
    if old is None or new is None:
        level: Level = "minor" if old is None else "major"
        return [Fact("task", "it was added" if new else "it was removed", level)]
    if old.kind != new.kind:
        return [Fact("task", f"it was {old.kind} and is {new.kind}", "major")]
    keys = [key for key in old.__struct_fields__ if getattr(old, key) != getattr(new, key)]
    return [Fact("task", f"{', '.join(keys)} changed", "minor")]


def probe_versions(*specifiers: SpecifierSet) -> list[Version]:
    """Return final versions that show every disagreement between these specifiers.

    What a specifier allows changes only at the versions it names and at the ends of ranges
    (``~=2.1``, ``==1.*``). So these versions, one right after each, the next breaking one after
    each, and one before all of them are enough. Pre-releases are left out: the resolver has
    its own rules for them.
    """
    named = {Version("0")}
    for clause in (clause for specifier in specifiers for clause in specifier):
        text = clause.version.removesuffix(".*")
        version = Version(Version(text).base_version)
        named |= {version, Version(text)}
        release = version.release
        if clause.operator == "~=":
            release = release[:-1]
        if clause.operator == "~=" or clause.version.endswith(".*"):
            epoch = f"{version.epoch}!" if version.epoch else ""
            upper = (*release[:-1], release[-1] + 1)
            named.add(Version(epoch + ".".join(map(str, upper))))
    after = {_after(version) for version in named}
    after |= {lowest_version(version, "major") for version in named}
    return sorted(version for version in named | after if not version.is_prerelease)


def _after(version: Version) -> Version:
    """Return a final version right after this one, before any other that people use."""
    release = (*version.release, *(0 for _ in range(4 - len(version.release))), 1)
    epoch = f"{version.epoch}!" if version.epoch else ""
    return Version(epoch + ".".join(map(str, release)))


def allowed_versions(specifier: SpecifierSet, versions: Iterable[Version]) -> list[Version]:
    """Return the versions that a specifier allows."""
    return [v for v in versions if specifier.contains(v, prereleases=True)]


def breaking_line(version: Version) -> tuple[int, ...]:
    """Return what the compatible versions of a version have in common."""
    upper = lowest_version(version, "major")
    return (version.epoch, *upper.release)
