"""What is inside of what is locked: a bill of materials in CycloneDX's form.

Each module is a component: its version, digest, licence and signer, the datasets that its card
names, and as its pedigree the releases that it was made from, and those that these were made from.
The same lock gives the same document: it has no time, and its serial number is made of the lock.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from modpkg.community.lineage.lineage import Ancestor, read_ancestors
from modpkg.core.digests import digest_bytes
from modpkg.core.extras import require_extra
from modpkg.core.names import parse_requirement
from modpkg.core.records import BuiltFrom, ReleaseRecord
from modpkg.core.version import __version__
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule, format_lock

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:modpkg:sbom")
_MOST = 500
"""Ancestors that are listed of one module."""
_PROPERTY = "modpkg:"
"""What the names of properties begin with that CycloneDX has no field for."""


def bill_of_materials(
    lock: Lock,
    records: Mapping[str, ReleaseRecord],
    registry_of: Callable[[str], Registry],
    app: str,
) -> str:
    """Return the bill of materials of a lock, as JSON of CycloneDX 1.6.

    Args:
        lock: The lock.
        records: The records of its releases, by name.
        registry_of: Returns the registry of a name, of which ancestors are read.
        app: What the bill is of.

    Raises:
        MissingExtra: ``cyclonedx-python-lib`` is not installed.
    """
    require_extra(
        "cyclonedx", what="A bill of materials", extra="sbom", package="cyclonedx-python-lib"
    )
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    origins = [origin for record in records.values() for origin in record.provenance.built_from]
    ancestors, cut = read_ancestors(origins, registry_of)
    root = Component(name=app, type=ComponentType.APPLICATION, bom_ref="app")
    tool = Component(name="modpkg", version=__version__, type=ComponentType.APPLICATION)
    bom = Bom(
        serial_number=uuid.uuid5(_SPACE, digest_bytes(format_lock(lock).encode())),
        metadata=BomMetaData(component=root),
        properties=_properties({"ancestors": "incomplete" if cut else ""}),
    )
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.metadata.tools.components.add(tool)
    components = {
        module.name: _component(module, records[module.name], ancestors) for module in lock.module
    }
    for component in components.values():
        bom.components.add(component)
    _add_dependencies(bom, root, lock, components)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _component(
    module: LockedModule, record: ReleaseRecord, ancestors: Mapping[str, Ancestor]
) -> Component:
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    card = record.manifest.get("card", {})
    datasets = [
        Component(name=str(name), type=ComponentType.DATA, bom_ref=f"{module.name}:{name}")
        for name in card.get("datasets", [])
    ]
    made_from = [*_ancestors_of(record.provenance.built_from, ancestors)]
    return Component(
        name=module.name,
        version=module.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_ref(module.release),
        description=record.summary or None,
        purl=_purl(module.name, module.version),
        hashes=_hashes(module.release),
        licenses=_licences(record.license),
        components=datasets,
        pedigree=Pedigree(ancestors=made_from) if made_from else None,
        properties=_properties(
            {
                "kind": record.kind,
                "registry": module.registry,
                "signer": module.signer,
                "built-with": record.provenance.built_with,
                "imported-from": record.manifest.get("provenance", {}).get("imported-from", ""),
                "bytes": str(
                    sum(record.packs.values()) + sum(f.size for f in record.files.values())
                ),
            }
        ),
    )


def _ancestors_of(
    origins: Iterable[BuiltFrom], ancestors: Mapping[str, Ancestor]
) -> Iterator[Component]:
    """Yield all that a release was made from, the nearest first, each once and at most `_MOST`."""
    from cyclonedx.model.component import Component, ComponentType

    pending = deque((one.release, one.relation or "built") for one in origins)
    seen: set[str] = set()
    while pending and len(seen) < _MOST:
        release, relation = pending.popleft()
        known = ancestors.get(release)
        if release in seen or known is None:
            continue
        seen.add(release)
        pending += [(one.release, one.relation) for one in known.parents]
        yield Component(
            name=known.name,
            version=known.version,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            purl=_purl(known.name, known.version),
            hashes=_hashes(release),
            licenses=_licences(known.license),
            properties=_properties({"relation": relation, "missing": known.missing}),
        )


def _add_dependencies(
    bom: Bom, root: Component, lock: Lock, components: Mapping[str, Component]
) -> None:
    roots = {parse_requirement(text.partition(" @ ")[0]).name for text in lock.requirements}
    bom.register_dependency(root, [components[name] for name in sorted(roots & set(components))])
    for module in lock.module:
        needed = {parse_requirement(text).name for text in module.requires}
        bom.register_dependency(
            components[module.name], [components[name] for name in sorted(needed & set(components))]
        )


def _ref(release: str) -> str:
    return f"modpkg:{release}"


def _purl(name: str, version: str) -> PackageURL:
    from packageurl import PackageURL

    return PackageURL(type="modpkg", name=name, version=version)


def _hashes(release: str) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=release.removeprefix("sha256:"))]


def _licences(expression: str) -> list[LicenseExpression]:
    from cyclonedx.model.license import LicenseExpression

    return [LicenseExpression(expression)] if expression else []


def _properties(values: Mapping[str, str]) -> list[Property]:
    """Return what CycloneDX has no field for, without what is empty."""
    from cyclonedx.model import Property

    return [
        Property(name=f"{_PROPERTY}{name}", value=value) for name, value in values.items() if value
    ]
