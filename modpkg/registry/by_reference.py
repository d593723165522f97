"""Publishing by reference: weights stay where they are, and the registry says where that is."""

from __future__ import annotations

from collections.abc import Callable

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.elsewhere import elsewhere_path, read_places
from modpkg.core.errors import ModpkgError, PublishError
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing


def kept_places(
    built: Registry,
    line: IndexLine,
    hosts: frozenset[str],
    warn: Callable[[str], None],
    *,
    must: bool,
) -> dict[Digest, list[str]]:
    """Return, by digest, the places of the packs of a build that need not be uploaded.

    Each place that the build names is asked whether it has these very bytes.

    Args:
        built: The built tree.
        line: The release in it.
        hosts: Those that the user allows, besides the hub's.
        warn: Told of a place that has them not: its pack is uploaded.
        must: Whether that is an error.

    Raises:
        PublishError: With ``must``, a pack has no place.
        IntegrityError, RegistryUnreachable, RegistryError: With ``must``, a place has it not.
    """
    record, found = built.record(line), dict[Digest, list[str]]()
    for pack in map(parse_digest, sorted(record.packs)):
        path = elsewhere_path(pack)
        try:
            places = read_places(built.source.read(path), f"{built.url}/{path}")
        except FileMissing:
            places = []
        kept = [
            place
            for place in places
            if _has(place, pack, record.packs[pack], line.name, hosts, warn, must=must)
        ]
        if kept:
            found[pack] = kept
        elif must:
            raise PublishError("M887", name=line.name, version=line.version)
    return found


def _has(
    place: str,
    pack: Digest,
    size: int,
    name: str,
    hosts: frozenset[str],
    warn: Callable[[str], None],
    *,
    must: bool,
) -> bool:
    from modpkg.registry.outside import Hosts, OutsideFile

    try:
        file = OutsideFile(place, pack, f"a pack of {name}", Hosts(hosts))
        if file.check() != size:
            raise file.changed()
    except ModpkgError as error:
        if must:
            raise
        warn(f"{error} So it is uploaded.")
        return False
    return True
