"""Verifying a release from outside before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from modpkg.core.all_cores import on_all_cores
from modpkg.core.bounds import (
    REPEATED_BYTES,
    REPEATED_TIMES,
    TENSOR_NAME_CHARACTERS,
    UNPACKED_BYTES,
)
from modpkg.core.digests import Digest, digest_file, parse_digest
from modpkg.core.errors import IntegrityError, ModpkgError, PackError, RecordError
from modpkg.core.files import human_bytes
from modpkg.core.names import module_name, parse_requirement, parse_version
from modpkg.core.packs import read_pack_header
from modpkg.core.records import RESTORE, SPEC, ReleaseRecord, TensorEntry
from modpkg.core.release_path import safe_path
from modpkg.core.tensors import byte_length, type_of
from modpkg.release.content import check_data, twin_problem
from modpkg.release.data_names import problem_of_name
from modpkg.release.places import entries_by_identity, labelled_entries, place_problem
from modpkg.release.tensors import TensorReader
from modpkg.release.unpacking import unbacked

Vouched = Callable[[TensorEntry], bool]


def check_record(record: ReleaseRecord) -> None:
    """Check a release record without its blobs.

    Names and versions are normal, paths stay inside, every file is data, every tensor is stored in
    a pack that the record names, inside its bounds, and can be decoded on what the record names.

    Raises:
        RecordError: A check fails; the message names the field.
    """
    what = f"the release record of {record.name} {record.version}"

    def refuse(reason: str) -> RecordError:
        return RecordError("M209", what=what, kind="release record", reason=reason, remedy=RESTORE)

    if record.spec > SPEC:
        newer = f"it follows spec version {record.spec}"
        raise RecordError(
            "M209", what=what, kind="release record", reason=newer, remedy="update modpkg"
        )
    try:
        if module_name(record.name) != record.name:
            raise refuse(f"{record.name!r} is not in normal form")
        parse_version(record.version)
        for requirement in [
            *record.requires,
            *(r for group in record.extras.values() for r in group),
        ]:
            parse_requirement(requirement)
        SpecifierSet(record.requires_modpkg or "")
        for extra in record.extras:
            module_name(extra)
        for origin in record.provenance.built_from:
            parse_version(origin.version)
            if module_name(origin.name) != origin.name:
                raise refuse(f"it was built from {origin.name!r}, which is not in normal form")
        for path in record.files:
            safe_path(path)
    except RecordError:
        raise
    except (ModpkgError, InvalidSpecifier) as error:
        raise refuse(str(error)) from None
    for path in record.files:
        if (what_it_is := problem_of_name(path)) is not None:
            raise refuse(f"{path} is {what_it_is}, and a module contains only data")
    if (problem := twin_problem(record.files)) is not None:
        raise refuse(problem)
    if (longest := max(map(len, record.tensors), default=0)) > TENSOR_NAME_CHARACTERS:
        raise refuse(f"a tensor has a name of {longest} characters")
    if (reason := place_problem(record)) is not None:
        raise refuse(reason)
    if (reason := _repeated(record)) is not None:
        raise refuse(reason)


def _repeated(record: ReleaseRecord) -> str | None:
    """Return how often equal tensors have names, if one on disk would become far more than it is.

    A folder that is written of a release has each of them; a record of a few MB could fill a disk.
    """
    sizes = {entry.digest: byte_length(entry) for entry in record.tensors.values()}
    stored = sum(sizes.values())
    named = sum(sizes[entry.digest] for entry in record.tensors.values())
    if named - stored <= REPEATED_BYTES or named <= REPEATED_TIMES * stored:
        return None
    return f"its {len(record.tensors)} tensors are {named} bytes, of which {stored} differ"


def check_pack(
    record: ReleaseRecord, pack: Digest, path: Path, vouched: Vouched = lambda entry: False
) -> None:
    """Check that every tensor the record places in ``pack`` is there, plain ones by their digest.

    The pack's own digest was verified before; this finds a record that does not match its packs.
    Entries for which ``vouched`` returns true are skipped.

    Raises:
        PackError: The pack is malformed.
        RecordError: A tensor is not at its position.
        IntegrityError: A tensor has another digest.
    """
    places = {(t.offset, t.length, t.dtype, t.shape) for t in read_pack_header(path).values()}
    plain: list[tuple[str, TensorEntry]] = []
    for what, entry in labelled_entries(record):
        if entry.pack != pack or vouched(entry):
            continue
        encoded = entry.encoding is not None
        kind = ("U8", (entry.length,)) if encoded else type_of(entry)
        if (entry.offset, entry.length, *kind) not in places:
            raise RecordError(
                "M209",
                what=f"the tensor table of {record.name} {record.version}",
                kind="release record",
                reason=f"{what} is not at the place it names in its pack",
                remedy=RESTORE,
            )
        if not encoded:
            plain.append((what, entry))

    def check_digest(item: tuple[str, TensorEntry]) -> None:
        what, entry = item
        actual = digest_file(path, entry.offset, entry.length)
        if actual != entry.digest:
            raise IntegrityError(
                "M305",
                what=f"{what} of {record.name}",
                expected=entry.digest,
                actual=actual,
                source=path,
            )

    on_all_cores(check_digest, plain, lambda item: item[1].length)


def check_encoded(
    record: ReleaseRecord,
    path_of: Callable[[Digest], Path],
    vouched: Vouched = lambda entry: False,
) -> None:
    """Check that every encoded tensor of a record decodes to its digest.

    Raises:
        IntegrityError: The decoded bytes have another digest; the message names the tensor.
        ReleaseError: The encoded bytes are malformed.
        PackError: A pack is too short.
        RecordError: They unpack to over `UNPACKED_BYTES` from next to nothing.
    """
    new = [entry for _, entry in labelled_entries(record) if not vouched(entry)]
    if (total := unbacked(new).total()) > UNPACKED_BYTES:
        raise RecordError(
            "M209",
            what=f"the release record of {record.name} {record.version}",
            kind="release record",
            reason=f"its tensors unpack to {human_bytes(total)} from next to nothing, more than "
            f"{human_bytes(UNPACKED_BYTES)}",
            remedy=RESTORE,
        )
    reader = TensorReader(path_of, entries_by_identity(record).__getitem__)
    for what, entry in labelled_entries(record):
        if entry.encoding is not None and not vouched(entry):
            reader.check(entry, f"{what} of {record.name}")


def check_files(record: ReleaseRecord, path_of: Callable[[Digest], Path]) -> None:
    """Check that every file of a record is there with its length, and is data.

    Raises:
        RecordError: A file has another length than in the record.
        ReleaseError: A file is code or a pickle.
    """
    for file, entry in sorted(record.files.items()):
        path = path_of(parse_digest(entry.digest))
        if not path.is_file() or path.stat().st_size != entry.size:
            raise RecordError(
                "M209",
                what=f"the release record of {record.name} {record.version}",
                kind="release record",
                reason=f"{file} is not there with {entry.size} bytes",
                remedy=RESTORE,
            )
        check_data(path, file)


def verify_release(
    record: ReleaseRecord,
    path_of: Callable[[Digest], Path],
    vouched: Vouched = lambda entry: False,
    remote: Mapping[str, int | None] = MappingProxyType({}),
) -> None:
    """Check a complete release whose blobs are on this machine, at the paths of ``path_of``.

    ``vouched`` returns true for a tensor or source that a verified release has at the same
    position: it is not hashed again. ``remote`` are the lengths of packs that are fetched when
    ``path_of`` is asked for them: it is not where all that is in one is vouched for.

    Raises:
        RecordError: The record is invalid or does not match the packs.
        ReleaseError: A file is not data, or encoded bytes are malformed.
        IntegrityError: A tensor has another digest.
        PackError: A pack is malformed.
    """
    check_record(record)
    check_files(record, path_of)
    entries = labelled_entries(record) if remote else ()
    doubtful = {entry.pack for _, entry in entries if not vouched(entry)}
    for pack in sorted(record.packs):
        if pack not in doubtful and remote.get(pack) == record.packs[pack]:
            continue
        path = path_of(parse_digest(pack))
        if not path.is_file() or path.stat().st_size != record.packs[pack]:
            raise PackError(
                "M201", path=path, reason=f"it is not there with {record.packs[pack]} bytes"
            )
        check_pack(record, parse_digest(pack), path, vouched)
    check_encoded(record, path_of, vouched)
