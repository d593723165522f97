"""``[provenance]``: the releases that a module was made from."""

from __future__ import annotations

from typing import cast

from packaging.version import Version

from modpkg.core.bounds import ADDRESS_CHARACTERS
from modpkg.core.hub_address import parse_hub_address
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.oci_address import is_oci_address, parse_oci_address
from modpkg.core.records import RELATIONS, Relation
from modpkg.manifest.keys import ORIGIN_KEYS, PROVENANCE_KEYS
from modpkg.manifest.schema import ModuleTable, Origin
from modpkg.toml.node import Node

_EXAMPLE = 'built-from = [{ name = "clamp", version = "1.0.0", relation = "merged" }]'


def read_origins(node: Node | None, owner: ModuleTable | None) -> tuple[Origin, ...]:
    """Return the entries of ``built-from``, in their order; ``owner`` is made from them.

    Their digests are not in the manifest: the build reads them from the registry.
    """
    if node is None:
        return ()
    origins: dict[tuple[ModuleName, Version], Origin] = {}
    tables = node.table(PROVENANCE_KEYS)
    built_from = tables.get("built-from")
    if not tables.entries:
        tables.need("built-from", _EXAMPLE)
    for item in built_from.items() if built_from is not None else ():
        table = item.table(ORIGIN_KEYS)
        relation = table.get("relation")
        origin = Origin(
            name=table.need("name", 'name = "clamp"').parsed(module_name),
            version=table.need("version", 'version = "1.0.0"').parsed(parse_version),
            relation=cast(Relation, relation.choice(RELATIONS, "relation"))
            if relation
            else "built",
            where=item.where,
        )
        release = (origin.name, origin.version)
        if owner is not None and release == (owner.name, owner.version):
            raise item.fail("makes the release its own ancestor; name an earlier version")
        if release in origins:
            raise item.fail(f"is {origin.name} {origin.version} again; keep one of them")
        origins[release] = origin
    return tuple(origins.values())


def read_imported_from(node: Node | None) -> str | None:
    """Return the address of what a module was imported from, pinned to a commit or a digest."""
    source = None if node is None else node.table(PROVENANCE_KEYS).get("imported-from")
    if source is None:
        return None
    text = source.text(ADDRESS_CHARACTERS)
    if is_oci_address(text):
        artifact = source.parse_text(parse_oci_address, text)
        if artifact.digest is None or artifact.tag is not None:
            raise source.fail("names no digest alone; write it like oci://HOST/REPO@sha256:DIGEST")
        return str(artifact)
    address = source.parse_text(parse_hub_address, text)
    if not address.pinned:
        raise source.fail("names no commit; write it like hf://ORG/NAME@COMMIT, with 40 digits")
    return str(address)
