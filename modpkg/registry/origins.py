"""Resolves ``[provenance]``: the releases that a module was made from."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from modpkg.core.errors import NotFound, ReleaseError
from modpkg.core.records import BuiltFrom
from modpkg.manifest.schema import Manifest
from modpkg.registry.reader import Registry


def find_origins(manifest: Manifest, registry_of: Callable[[str], Registry]) -> list[BuiltFrom]:
    """Return the releases that ``[provenance]`` of a module names, each with its digest.

    ``registry_of`` returns the registry that a name comes from.

    Raises:
        ReleaseError: A release does not exist; the error has the line of the manifest.
    """
    origins = []
    for origin in manifest.origins:
        name, version = str(origin.name), str(origin.version)
        try:
            line = registry_of(name).line(name, version)
        except NotFound as error:
            if error.code != "M312":
                raise
            raise ReleaseError(
                "M760",
                where=origin.where,
                name=name,
                version=version,
                registry=error.values["registry"],
                hint=error.values["hint"],
            ) from None
        relation = UNSET if origin.relation == "built" else origin.relation
        origins.append(BuiltFrom(name, line.version, line.release, relation))
    return origins
