"""``[licenses]``: which licences a project accepts. It acts only where it is written."""

from __future__ import annotations

from modpkg.core.names import ModuleName, module_name
from modpkg.manifest.keys import LICENSES_KEYS
from modpkg.manifest.schema import LicensePolicy
from modpkg.manifest.spdx import parse_expression
from modpkg.toml.node import Node, brief


def read_licenses(node: Node | None) -> LicensePolicy:
    """Return ``[licenses]``."""
    if node is None:
        return LicensePolicy()
    table = node.table(LICENSES_KEYS)
    allow, deny = table.get("allow"), table.get("deny")
    policy = LicensePolicy(
        allow=_licenses(allow) if allow else None,
        deny=_licenses(deny) if deny else (),
        exceptions=_exceptions(table.get("exceptions")),
        where=node.where,
    )
    if deny and (both := sorted({*policy.deny} & {*(policy.allow or ())})):
        raise deny.fail(f"has {both[0]}, and so has allow; remove it from one of them")
    return policy


def _licenses(node: Node) -> tuple[str, ...]:
    """Return single licences, sorted: each part of an expression is compared with them."""
    licenses = set()
    for item in node.items():
        tree = item.parsed(parse_expression)
        if not isinstance(tree, str):
            raise item.fail(f"is {brief(item.text())}; list single licences")
        licenses.add(tree)
    return tuple(sorted(licenses))


def _exceptions(node: Node | None) -> dict[ModuleName, tuple[str, ...]]:
    exceptions: dict[ModuleName, tuple[str, ...]] = {}
    for entry in node.entries().values() if node else ():
        name = entry.key_parsed(module_name)
        if name in exceptions:
            raise entry.fail(f"is the same module as one before it ({name}); keep one of them")
        exceptions[name] = _licenses(entry)
    return dict(sorted(exceptions.items()))
