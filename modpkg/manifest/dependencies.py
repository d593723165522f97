"""``[dependencies]``, ``[suites]``, ``[extras]`` and ``[registries]``."""

from __future__ import annotations

from typing import cast

from modpkg.core.digests import parse_digest
from modpkg.core.names import ModuleName, Requirement, module_name
from modpkg.manifest.hub_model import check_bases, read_hub_model
from modpkg.manifest.keys import DEPENDENCY_KEYS, HUB_KEYS, SOURCE_KEYS
from modpkg.manifest.schema import ComposeAt, Dependency
from modpkg.manifest.values import (
    address,
    manifest_requirement,
    manifest_specifier,
    parse_alias,
)
from modpkg.toml.node import Node, hint

COMPOSE_AT = ("install", "load")
DEFAULT = "default"
"""The alias of the default registry; a dependency names it where another one has its name too."""


def read_registries(node: Node | None) -> tuple[dict[str, str], dict[str, str]]:
    """Return address by alias, and the digest of the first root of those that have to be signed."""
    registries, roots = dict[str, str](), dict[str, str]()
    for entry in node.entries().values() if node is not None else ():
        alias, place = entry.key_parsed(parse_alias), entry
        if isinstance(entry.value, dict):
            table = entry.table(SOURCE_KEYS)
            place = table.need("url", 'url = "https://models.example"')
            if (root := table.get("root")) is not None:
                roots[alias] = root.parsed(parse_digest)
        registries[alias] = address(place)
    return registries, roots


def read_dependencies(
    node: Node | None, registries: dict[str, str], owner: ModuleName | None
) -> tuple[Dependency, ...]:
    """Return the dependencies in their order; ``owner`` is the module they belong to.

    Those of an app may have a ``compose-at``.
    """
    if node is None:
        return ()
    if node.source.is_record:
        entries = [(entry, _listed(entry, registries, owner)) for entry in node.items()]
    else:
        entries = [(entry, _keyed(entry, registries, owner)) for entry in node.entries().values()]
    found = _distinct(entries, owner)
    check_bases(entries)
    return found


def read_suites(
    node: Node | None, registries: dict[str, str], owner: ModuleName | None
) -> tuple[Dependency, ...]:
    """Return the suites in order; they are written like dependencies, without extras."""
    suites = read_dependencies(node, registries, owner)
    for suite in suites:
        if node is not None and suite.requirement.extras:
            raise node.fail(
                f"requests extras of {suite.name}, but suites have no extras; remove them"
            )
    return suites


def read_extras(
    node: Node | None, owner: ModuleName | None
) -> dict[ModuleName, tuple[Dependency, ...]]:
    """Return the optional dependencies by the name of their extra."""
    extras: dict[ModuleName, tuple[Dependency, ...]] = {}
    if node is None:
        return extras
    for entry in node.entries().values():
        name = entry.key_parsed(module_name)
        if name in extras:
            raise entry.fail(f"is the same name as an extra before it ({name}); keep one of them")
        entries = [
            (item, Dependency(item.parsed(manifest_requirement), where=item.where))
            for item in entry.items()
        ]
        extras[name] = _distinct(entries, owner)
    return extras


def read_compose_at(node: Node | None, owner: ModuleName | None = None) -> ComposeAt | None:
    """Return the value of a ``compose-at``, which only apps may have."""
    if node is None:
        return None
    if owner is not None:
        raise node.fail("belongs to an app: whoever installs a module decides; remove it")
    return cast(ComposeAt, node.choice(COMPOSE_AT, "moment"))


def _keyed(entry: Node, registries: dict[str, str], owner: ModuleName | None) -> Dependency:
    name = entry.key_parsed(module_name)
    if entry.value == "":
        raise entry.fail('is empty; write "*" for any version')
    if isinstance(entry.value, str):
        requirement = Requirement(name, (), entry.parsed(manifest_specifier))
        return Dependency(requirement, where=entry.where)
    if not isinstance(entry.value, dict):
        raise entry.wrong_type('a version specifier like ">=1.0", or a table')
    table = entry.table(DEPENDENCY_KEYS)
    if (hub := read_hub_model(entry, owner)) is not None:
        moment = read_compose_at(table.get("compose-at"))
        requirement = Requirement(name, (), manifest_specifier("*"))
        return Dependency(requirement, where=entry.where, compose_at=moment, hub=hub)
    version, extras = table.get("version"), table.get("extras")
    requirement = Requirement(
        name,
        {extra.parsed(module_name) for extra in extras.items()} if extras else set(),
        (version or entry.child("version", "*")).parsed(manifest_specifier),
    )
    named = table.get("registry")
    registry = _registry(named, registries)
    compose_at = read_compose_at(table.get("compose-at"), owner)
    from_default = named is not None and registry is None
    return Dependency(
        requirement, registry, entry.where, compose_at=compose_at, from_default=from_default
    )


def _listed(entry: Node, registries: dict[str, str], owner: ModuleName | None) -> Dependency:
    """Return a dependency of a release record, which lists them to keep their order."""
    if isinstance(entry.value, str):
        return Dependency(entry.parsed(manifest_requirement), where=entry.where)
    table = entry.table(("requirement", "registry", "compose-at", *HUB_KEYS))
    requirement = table.need("requirement", "summarizer>=2.1").parsed(manifest_requirement)
    named = table.get("registry")
    registry = _registry(named, registries)
    compose_at = read_compose_at(table.get("compose-at"), owner)
    from_default = named is not None and registry is None
    return Dependency(
        requirement,
        registry,
        entry.where,
        compose_at=compose_at,
        from_default=from_default,
        hub=read_hub_model(entry, owner, ("requirement",)),
    )


def _registry(node: Node | None, registries: dict[str, str]) -> str | None:
    if node is None:
        return None
    name = node.parsed(parse_alias)
    if name == DEFAULT:
        return None
    if name not in registries:
        near = hint(name, registries) or f'; add it there, like: {name} = "https://…"'
        raise node.fail(f"is {name!r}, which is not defined under [registries]{near}")
    return name


def _distinct(
    entries: list[tuple[Node, Dependency]], owner: ModuleName | None
) -> tuple[Dependency, ...]:
    seen: dict[ModuleName, Node] = {}
    for node, dependency in entries:
        name = dependency.name
        if name == owner:
            raise node.fail(f"makes {name!r} depend on itself; remove it")
        if name in seen:
            other = seen[name].dotted
            raise node.fail(f"is the same module as {other} ({name}); keep one of them")
        seen[name] = node
    return tuple(dependency for _, dependency in entries)
