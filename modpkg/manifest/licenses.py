"""``[licenses]``: which licences a project accepts. It acts only where it is written."""

from __future__ import annotations

from typing import cast, get_args

from modpkg.core.names import ModuleName, module_name
from modpkg.manifest.schema import LicensePolicy, Manner
from modpkg.manifest.spdx import Leaf, parse_expression
from modpkg.toml.node import Node, brief

_MANNERS: tuple[str, ...] = get_args(Manner)


def read_licenses(node: Node | None) -> LicensePolicy:
    """Return ``[licenses]``."""
    if node is None:
        return LicensePolicy()
    table = node.table(("allow", "deny", "unknown", "conflicts", "exceptions"))
    allow, deny = table.get("allow"), table.get("deny")
    unknown, conflicts = table.get("unknown"), table.get("conflicts")
    policy = LicensePolicy(
        allow=_licenses(allow) if allow else None,
        deny=_licenses(deny) if deny else (),
        unknown=_manner(unknown) if unknown else "warn",
        conflicts=_manner(conflicts) if conflicts else "warn",
        exceptions=_exceptions(table.get("exceptions")),
        where=node.where,
    )
    if deny and (both := sorted({*policy.deny} & {*(policy.allow or ())})):
        raise deny.fail(f"has {both[0]}, and so has allow; take it out of one of them")
    return policy


def _manner(node: Node) -> Manner:
    return cast(Manner, node.choice(_MANNERS, "way to deal with it"))


def _licenses(node: Node) -> tuple[str, ...]:
    """Return single licences, sorted: each expression is tried against them part by part."""
    found = set()
    for item in node.items():
        tree = item.parsed(parse_expression)
        if not isinstance(tree, Leaf):
            raise item.fail(f"is {brief(item.text())}; write its licences one by one")
        found.add(tree.license)
    return tuple(sorted(found))


def _exceptions(node: Node | None) -> dict[ModuleName, tuple[str, ...]]:
    found: dict[ModuleName, tuple[str, ...]] = {}
    for entry in node.entries().values() if node else ():
        name = entry.key_parsed(module_name)
        if name in found:
            raise entry.fail(f"is the same module as one before it ({name}); keep one of them")
        found[name] = _licenses(entry)
    return dict(sorted(found.items()))
