"""``advisories.jsonl`` of a registry: one advisory per line, sorted by ID."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from modpkg.core import bounds
from modpkg.core.errors import PublishError, RecordError, RegistryError
from modpkg.core.filenames import REGISTRY_ADVISORIES
from modpkg.core.names import module_name
from modpkg.core.records import canonical_json
from modpkg.registry.advisory import Advisory, malformed_reason, of_modules, parse_advisory
from modpkg.registry.place import Place, RegistryChange
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing
from modpkg.registry.written_files import check_length

_DECODER = msgspec.json.Decoder(Advisory)
_FEWER = "publish shorter documents of advisories that it has, under their IDs"


def read_advisories(registry: Registry, names: Collection[str]) -> list[Advisory] | None:
    """Return the advisories of a registry that are about any of the modules; None if it has none.

    A line that is malformed is skipped, with one warning for all.

    Raises:
        RegistryUnreachable, RegistryError, InstallError: The file cannot be read, or is too large.
    """
    try:
        data = registry.files.read(REGISTRY_ADVISORIES, bounds.ADVISORIES_BYTES)
    except FileMissing:
        return None
    _check_bounds(data, registry.url)
    found, skipped = [], 0
    for raw in filter(bytes.strip, data.splitlines()):
        advisory = _parsed(raw, names)
        skipped += advisory is None
        if advisory is not None and _is_about(advisory, names):
            found.append(advisory)
    if skipped and registry.warn is not None:
        lines = "1 line that is" if skipped == 1 else f"{skipped} lines that are"
        registry.warn(f"{registry.url}/{REGISTRY_ADVISORIES}: skipped {lines} malformed")
    return found


def _parsed(line: bytes, names: Collection[str] | None = None) -> Advisory | None:
    """Return an advisory; None if it is malformed.

    Of one that is not about any of the ``names``, it is not looked at which versions it affects.
    """
    try:
        if len(line) > bounds.ADVISORY_BYTES:
            return None
        advisory = _DECODER.decode(line)
        return advisory if names and not _is_about(advisory, names) else parse_advisory(line)
    except Exception:
        return None


def _is_about(advisory: Advisory, names: Collection[str]) -> bool:
    affected = of_modules(advisory)
    return any(one.package and module_name(one.package.name) in names for one in affected)


def check_advisory(data: bytes, what: str) -> Advisory:
    """Return an advisory that is to be published, checked; ``what`` names it in errors.

    Raises:
        RecordError: It is malformed, or about no module.
    """
    try:
        if len(data) > bounds.ADVISORY_BYTES:
            raise ValueError(f"it has more than {bounds.ADVISORY_BYTES:,} bytes")
        advisory = parse_advisory(data)
        if not of_modules(advisory):
            raise ValueError("its 'affected' has no package of the ecosystem 'modpkg'")
    except Exception as error:
        raise RecordError(
            "M209",
            what=what,
            kind="advisory",
            reason=malformed_reason(error),
            remedy="correct it; see https://ossf.github.io/osv-schema/",
        ) from None
    return advisory


def add_advisories(place: Place, documents: Iterable[tuple[str, bytes]]) -> list[Advisory]:
    """Add advisories, each in the place of an earlier one with its ID; return them.

    Args:
        place: A registry's.
        documents: What they are called in errors, and their JSON.

    Raises:
        RecordError: One is malformed.
        PublishError: An advisory was modified later than the new one, the file would have more
            than readers take, or nothing can be written.
    """
    checked = [(check_advisory(data, what), data) for what, data in documents]
    return _write(place, checked, keep_newer=False)


def copy_advisories(source: Registry, place: Place) -> int:
    """Add the advisories of another registry that are newer or not there; return how many.

    Raises:
        RegistryUnreachable, RegistryError, PublishError: They cannot be read or written.
    """
    try:
        data = source.source.read(REGISTRY_ADVISORIES, bounds.ADVISORIES_BYTES)
    except FileMissing:
        return 0
    _check_bounds(data, source.url)
    lines = [(_parsed(raw), raw) for raw in data.splitlines()]
    checked = [(advisory, raw) for advisory, raw in lines if advisory is not None]
    return len(_write(place, checked, keep_newer=True))


def _write(
    place: Place, new: Collection[tuple[Advisory, bytes]], *, keep_newer: bool
) -> list[Advisory]:
    def edit(change: RegistryChange) -> list[Advisory]:
        before = change.read(REGISTRY_ADVISORIES, bounds.ADVISORIES_BYTES) or b""
        lines = _by_id(before)
        written = []
        for advisory, data in new:
            there = lines.get(advisory.id)
            text = canonical_json(msgspec.json.decode(data))
            if there == text:
                continue
            if there is not None and _modified(there) > advisory.modified:
                if keep_newer:
                    continue
                raise PublishError("M483", id=advisory.id, modified=_modified(there), url=place.url)
            lines[advisory.id] = text
            written.append(advisory)
        after = b"".join(text + b"\n" for _, text in sorted(lines.items()))
        check_length(REGISTRY_ADVISORIES, after, bounds.ADVISORIES_BYTES, _FEWER)
        if after.count(b",") > bounds.ADVISORIES_VALUES:
            most = f"{bounds.ADVISORIES_VALUES:,} values"
            raise PublishError("M593", path=REGISTRY_ADVISORIES, most=most, remedy=_FEWER)
        if after != before:
            change.replace(REGISTRY_ADVISORIES, after)
        return written

    return place.change(edit)


def _by_id(data: bytes) -> dict[str, bytes]:
    """Return the lines of the file by ID; one that nobody can read is not kept."""
    lines = [(_parsed(raw), raw) for raw in data.splitlines()]
    return {advisory.id: raw for advisory, raw in lines if advisory is not None}


def _modified(line: bytes) -> str:
    return _DECODER.decode(line).modified


def _check_bounds(data: bytes, url: str) -> None:
    most = bounds.ADVISORIES_VALUES
    if data.count(b",") > most:
        raise RegistryError("M327", url=url, path=REGISTRY_ADVISORIES, most=f"{most:,} values")
