"""Checking one release of a registry in independent steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import msgspec
from msgspec import UNSET

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import PackError, RecordError
from modpkg.core.interface import drift_of, unfit_reason
from modpkg.core.names import parse_version, requirement_text
from modpkg.core.records import (
    RESTORE,
    SPEC,
    Expects,
    IndexLine,
    Provides,
    ReleaseRecord,
    TensorType,
    canonical_json,
    decode_record,
)
from modpkg.manifest.normal import from_normal_form, normal_form
from modpkg.registry.reader import Registry
from modpkg.release.content import check_data
from modpkg.release.places import labelled_entries
from modpkg.release.verify import check_encoded, check_pack, check_record

Files = Callable[[Digest, str], AbstractContextManager[Path]]
"""Returns a blob as a file with a verified digest."""
Step = Callable[[], None]


def check_release(registry: Registry, line: IndexLine, files: Files) -> Iterator[Step]:
    """Yield the steps of a check; a step raises `ModpkgError` if it finds a problem."""
    held: list[ReleaseRecord] = []

    def read() -> None:
        what = f"the release record of {line.name} {line.version}"
        with files(parse_digest(line.release), what) as path:
            _canonical(path.read_bytes(), what)
        record = registry.record(line)
        check_record(record)
        held.append(record)

    yield read
    if not held:
        return
    record = held[0]
    yield lambda: _manifest(record)
    for path, entry in record.files.items():
        yield lambda path=path, entry=entry: _file(record, path, entry.digest, entry.size, files)  # type: ignore[misc]
    for pack, size in record.packs.items():
        yield lambda pack=pack, size=size: _pack(record, pack, size, files)  # type: ignore[misc]
    if any(entry.encoding is not None for _, entry in labelled_entries(record)):
        yield lambda: _encoded(record, files)
    if record.provides is not None:
        digest = record.provides
        yield lambda: _provides(record, digest, files)
    for base, digest in record.expects.items():
        yield lambda base=base, digest=digest: _expects(registry, record, base, digest, files)  # type: ignore[misc]


def _canonical(data: bytes, what: str) -> None:
    try:
        again = canonical_json(msgspec.json.decode(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(
            "M209", what=what, kind="JSON document", reason=str(error), remedy=RESTORE
        ) from None
    if again != data:
        raise RecordError(
            "M209",
            what=what,
            kind="JSON document",
            reason="it is not canonical JSON",
            remedy=RESTORE,
        )


def _refuse(record: ReleaseRecord, reason: str) -> RecordError:
    what = f"the release record of {record.name} {record.version}"
    return RecordError("M209", what=what, kind="release record", reason=reason, remedy=RESTORE)


def _manifest(record: ReleaseRecord) -> None:
    """Check that the manifest is valid, in normal form, and agrees with the record."""
    where = f"the manifest of {record.name} {record.version}"
    manifest = from_normal_form(record.manifest, where)
    module = manifest.module
    if module is None:
        raise _refuse(record, "its manifest is an app's")
    if normal_form(manifest) != record.manifest:
        raise _refuse(record, "its manifest is not in normal form")

    made = {(b.name, parse_version(b.version)): b for b in record.provenance.built_from}
    for origin in manifest.origins:
        listed = made.get((origin.name, origin.version))
        if listed is None or (listed.relation or "built") != origin.relation:
            raise _refuse(
                record,
                f"its manifest says {origin.relation} from {origin.name} {origin.version}, "
                "and its provenance does not",
            )

    def texts(group: object) -> list[str]:
        return [
            requirement_text(d.requirement.name, d.requirement.extras, d.requirement.specifier)
            for d in group  # type: ignore[attr-defined]
        ]

    expected = {
        "name": module.name,
        "version": str(module.version),
        "kind": module.kind,
        "license": module.license,
        "summary": module.summary,
        "requires": texts(manifest.dependencies),
        "requires_modpkg": manifest.requires_modpkg or UNSET,
        "extras": {extra: texts(group) for extra, group in manifest.extras.items()},
    }
    for key, value in expected.items():
        if getattr(record, key) != value:
            raise _refuse(
                record, f"its {key} is {getattr(record, key)!r}, its manifest's {value!r}"
            )


def _file(record: ReleaseRecord, path: str, digest: str, size: int, files: Files) -> None:
    with files(parse_digest(digest), f"{path} of {record.name}") as file:
        if file.stat().st_size != size:
            raise _refuse(record, f"{path} has {file.stat().st_size} bytes, not {size}")
        check_data(file, path)


def _pack(record: ReleaseRecord, pack: str, size: int, files: Files) -> None:
    with files(parse_digest(pack), f"a pack of {record.name}") as file:
        if file.stat().st_size != size:
            raise PackError("M201", path=file, reason=f"it does not have {size} bytes")
        check_pack(record, parse_digest(pack), file)


def _encoded(record: ReleaseRecord, files: Files) -> None:
    """Decode every encoded tensor; a chain may cross all packs, so all are given at once."""
    with ExitStack() as stack:
        paths = {
            parse_digest(pack): stack.enter_context(
                files(parse_digest(pack), f"a pack of {record.name}")
            )
            for pack in record.packs
        }
        check_encoded(record, paths.__getitem__)


def _provides(record: ReleaseRecord, digest: str, files: Files) -> None:
    what = f"what {record.name} {record.version} provides"
    with files(parse_digest(digest), what) as file:
        data = file.read_bytes()
    _canonical(data, what)
    provides = decode_record(data, Provides, what)
    if provides.spec > SPEC:
        raise _refuse(record, f"its interface follows spec version {provides.spec}")
    types = {name: TensorType(t.dtype, t.shape) for name, t in record.tensors.items()}
    if provides.tensors != types:
        raise _refuse(record, "its interface is not that of its tensor table")


def _expects(
    registry: Registry, record: ReleaseRecord, base: str, digest: str, files: Files
) -> None:
    """Check an expected interface, against the base if the registry has it."""
    what = f"what {record.name} {record.version} expects of {base}"
    with files(parse_digest(digest), what) as file:
        data = file.read_bytes()
    _canonical(data, what)
    expects = decode_record(data, Expects, what)
    if expects.spec > SPEC:
        raise _refuse(record, f"its interface follows spec version {expects.spec}")
    origin = next((b for b in record.provenance.built_from if b.name == base), None)
    if origin is None:
        raise _refuse(record, f"it expects something of {base}, but was not built from it")
    for line in registry.index(base):
        if line.release == origin.release:
            made_for = registry.record(line)
            provides = registry.provides(made_for.provides or "")
            reason = unfit_reason(expects, provides)
            if reason is None and not drift_of(expects, provides, made_for.tensors).exact:
                reason = "its tensors or ports are others"
            if reason is not None:
                raise _refuse(record, f"it was not made for {base} {line.version}: {reason}")
