"""The formats that cross a boundary, each defined once.

The JSON Schemas in ``registry_spec/`` are generated from these classes. Everything is
written as canonical JSON: keys sorted, no white space, UTF-8, no NaN.
"""

from __future__ import annotations

import functools
import threading
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from modpkg.core.bounds import BLOB_PLACES, RECORD_VALUES
from modpkg.core.decoding import LINE_CHARACTERS, decoding_reason
from modpkg.core.errors import RecordError
from modpkg.core.filenames import MEMORY, PATCH, REGISTRY_INFO
from modpkg.core.printable import ONE_LINE

SPEC = 1
"""The version of the registry spec that this code writes, and the newest it reads."""

Kind = Literal["base", "adapter", "head", "expert", "patch", "model", "suite", "collection"]
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]
ACTING_KINDS = ("adapter", "head", "expert", "patch")
"""Kinds of modules that act on a base."""

DigestText = Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$", max_length=71)]
RegistryName = Annotated[
    str, Meta(pattern=r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*)$", max_length=100)
]
SPAN = "^([0-9]{1,5}) ?(minute|hour|day|week)s?$"
"""A span of time, as people write it."""
Line = Annotated[str, Meta(pattern=ONE_LINE, max_length=LINE_CHARACTERS)]
"""Text that is shown to people: one line, without control characters."""
Size = Annotated[int, Meta(ge=0, le=2**62)]
Shape = Annotated[list[Size], Meta(max_length=16)]
Port = int | str


class LogInfo(Struct, frozen=True):
    """A registry's log: by what its checkpoints are known."""

    origin: Annotated[str, Meta(pattern=r"^[!-*,-~]+$", max_length=200)]
    """What they call the log, which never changes."""
    key: Annotated[str, Meta(pattern=r"^key:ed25519:[A-Za-z0-9+/]{43}=$", max_length=56)]
    """What they are signed with."""


class RegistryInfo(Struct, forbid_unknown_fields=False, omit_defaults=True):
    """``registry.json``: a registry's identity."""

    spec: int
    name: RegistryName
    """The registry's identity: lock files record it, so it never changes."""
    api: str | None = None
    """Address of the publishing API, when there is one."""
    cool_down: Annotated[str, Meta(pattern=SPAN, max_length=20)] | None = None
    """How old a release has to be before it is locked, such as ``7 days``, where the manifest says
    nothing else."""
    tuf: DigestText | None = None
    """Digest of the first root of its signed metadata, when there is some."""
    log: LogInfo | None = None
    """The log of what was released, when there is one."""


class IndexLine(Struct, kw_only=True, gc=False):
    """One line of ``index/<name>.jsonl``: what the resolver needs of one release."""

    name: str
    version: str
    kind: Kind
    requires: list[str] = []
    extras: dict[str, list[str]] = {}
    provides: DigestText | None = None
    """Interface that this release offers; see `Provides`."""
    expects: dict[str, DigestText] = {}
    """By name of a dependency, the interface that this release expects of it; see `Expects`."""
    release: DigestText
    size: Size = 0
    """Bytes that the release added to the registry when it was published."""
    published: Line = ""
    yanked: Line | None = None
    """Why the release was yanked; `None` when it was not."""
    requires_modpkg: str | UnsetType = UNSET
    """The versions of modpkg that the release needs, as a specifier; left out for any."""
    deprecated: Line | UnsetType = UNSET
    """Why it should not be used any more, which may be empty; left out while it may be."""
    successor: Line | UnsetType = UNSET
    """What to use instead of a deprecated release, as a requirement."""
    removed: Line | UnsetType = UNSET
    """Why its blobs were removed; left out while they are there. It is yanked too, for ever."""
    signed: bool | UnsetType = UNSET
    """Whether there are signatures beside the record; a hint, which nothing is believed for."""
    succeeded: bool | UnsetType = UNSET
    """Whether a signer of the module has named the one after it; a hint as well."""
    spec: int = SPEC


SHARED_FIELDS = (
    "name",
    "version",
    "kind",
    "requires",
    "extras",
    "provides",
    "expects",
    "requires_modpkg",
)
"""The fields that an index line shares with its release record."""


class ModuleLine(Struct, kw_only=True, omit_defaults=True, gc=False):
    """One line of ``modules.jsonl``: what a search needs of one module."""

    name: str
    version: str
    """The newest release that was not yanked; all of the line is about it."""
    kind: Kind
    summary: Line = ""
    license: Line = ""
    task: Line = ""
    """The kind of its task."""
    bases: list[Line] = []
    """What it acts on."""
    published: Line = ""
    yanked: Line | None = None
    """Why the release was yanked, if all were."""
    deprecated: Line | None = None
    """Why it should not be used any more, if it should not; may be empty."""
    successor: Line = ""
    """What to use instead of a deprecated release, as a requirement."""
    removed: Line | None = None
    """Why its blobs were removed, if those of all releases were."""
    index: DigestText | None = None
    """Of the module's index file; left out where it may be another."""
    changing: Line = ""
    """Which change of the index file somebody has begun, and has not ended yet."""
    registry: DigestText | None = None
    """In the first line: of ``registry.json``."""
    spec: int = SPEC


class Elsewhere(Struct, kw_only=True):
    """``elsewhere/<aa>/<hex>.json``: where else a blob can be read; no part of any release."""

    spec: int = SPEC
    places: Annotated[list[Line], Meta(max_length=BLOB_PLACES)]
    """``hf://ORG/NAME@COMMIT/FILE`` or an address of https, the best first."""


Method = Literal["sparse", "difference", "planes"]
METHODS: tuple[str, ...] = Method.__args__  # type: ignore[attr-defined]


class Encoding(Struct, frozen=True, omit_defaults=True):
    """How a tensor's bytes are encoded in its pack; left out for plain bytes."""

    method: Method
    base: DigestText | None = None
    """The earlier tensor that it is decoded on; `None` for ``planes``."""


class TensorEntry(Struct, frozen=True, omit_defaults=True):
    """Where one tensor of a release is stored."""

    dtype: str
    """The dtype's name in safetensors: ``F32``, ``BF16`` …"""
    shape: Shape
    digest: DigestText
    """sha256 of the tensor's bytes (C order, little endian)."""
    pack: DigestText
    offset: Size
    """First byte, counted from the beginning of the pack file."""
    length: Size
    """Bytes in the pack; the tensor's own when it has no encoding."""
    encoding: Encoding | None = None


class FileEntry(Struct, frozen=True):
    """One file of a release that is not weights."""

    digest: DigestText
    size: Size


Relation = Literal["built", "merged", "trained", "forked", "patched"]
RELATIONS: tuple[str, ...] = Relation.__args__  # type: ignore[attr-defined]


class BuiltFrom(Struct, frozen=True):
    """A release that this one was built against or made from."""

    name: Line
    version: Line
    release: DigestText
    relation: Relation | UnsetType = UNSET
    """How this release was made from it; left out for ``built`` (built against it)."""


class Provenance(Struct, omit_defaults=True):
    """What a release was made from."""

    built_with: Line
    built_from: list[BuiltFrom] = []
    breaking: Line | UnsetType = UNSET
    """Why it was published although its changes required a higher version (``check``)."""


class ReleaseRecord(Struct, kw_only=True):
    """A release: names everything in it by digest; its own digest is the release digest."""

    spec: int = SPEC
    name: str
    version: str
    kind: Kind
    license: Line
    summary: Line = ""
    requires: list[str] = []
    extras: dict[str, list[str]] = {}
    manifest: dict[str, Any]
    """The manifest in its normal form: defaults left out, names normalised."""
    files: dict[str, FileEntry] = {}
    packs: dict[DigestText, Size] = {}
    """Every pack that has a tensor or source of this release, with its size in bytes."""
    tensors: dict[str, TensorEntry] = {}
    sources: dict[DigestText, TensorEntry] | UnsetType = UNSET
    """By digest, earlier tensors without a name here that encoded tensors are decoded on."""
    provides: DigestText | None = None
    expects: dict[str, DigestText] = {}
    requires_modpkg: str | UnsetType = UNSET
    """The versions of modpkg that the release needs, as a specifier; left out for any."""
    provenance: Provenance


class TensorType(Struct, frozen=True):
    """A tensor's dtype and shape."""

    dtype: str
    shape: Shape


class TouchedTensor(Struct, frozen=True):
    """A tensor of a base that a module acts on, as it was when the module was built."""

    dtype: str
    shape: Shape
    digest: DigestText


class Provides(Struct, kw_only=True):
    """Interface document: what a release offers. Small, content-addressed, shared."""

    spec: int = SPEC
    tensors: dict[str, TensorType]
    """By name on disk."""
    ports: dict[str, Port]


class Expects(Struct, kw_only=True):
    """Interface document: the part of a base that a module touches."""

    spec: int = SPEC
    tensors: dict[str, TouchedTensor] = {}
    ports: dict[str, Port] = {}


class PatchedTensor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a patch makes one tensor."""

    digest: DigestText
    """Of the tensor that the patch makes."""
    was: DigestText | None = None
    """Of the base's tensor; `None` for one that the base does not have."""
    inputs: dict[str, str] = {}
    """By role, the patch's own tensors that it is computed from; the roles define how:

    ``whole``: the tensor itself. ``a``, ``b``: b · a is added. ``rows`` or ``columns``: each row
    (column) is multiplied by a number. ``gaps``, ``values``: values that stand at single places,
    alone or after one of the two before; see ``registry_spec/release.md``.
    """
    first: int | None = None
    """How many of the base's first rows are kept; there are no inputs then."""


class PatchRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``patch.json``: what a patch does to the one base release that it was made for."""

    spec: int = SPEC
    base: str
    """Name of the base."""
    version: str
    """Version of the base."""
    tensors: dict[str, PatchedTensor] = {}
    """By name, the tensors that are new or changed."""
    removed: dict[str, DigestText] = {}
    """Tensors of the base that the result does not have, with their digests."""
    removed_files: list[str] = []
    """Files of the base that the result does not have; new ones are under ``files/``."""


class MemoryPiece(Struct, frozen=True, omit_defaults=True):
    """Adjacent elements of a tensor on disk, in C order."""

    tensor: str
    start: Size = 0
    stop: Size | None = None
    """After the last one; `None` for the tensor's end."""


class MemoryTensor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A parameter of a model in memory, made from tensors on disk."""

    shape: Shape
    pieces: list[MemoryPiece] = []
    """In the order of its elements; none where its elements are rearranged in another way."""
    transposed: bool = False
    """Whether its last two dimensions are those of the one piece, exchanged."""


class UntiedRecord(Struct, frozen=True, kw_only=True):
    """How the tied tensors of a base become tensors of their own."""

    tensors: dict[str, str]
    """The tensors that are the same as one of the base's until something changes them, by name on
    disk, and the name of that one. The base has none of them, or has equal copies."""
    config: list[list[str]]
    """Where ``tie_word_embeddings`` of ``config.json`` becomes false: the keys that lead to the
    object that has it; no key for the whole config."""


class MemoryRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``memory.json``: the base of an adapter as transformers has it in memory."""

    spec: int = SPEC
    tensors: dict[str, MemoryTensor] = {}
    """By name in memory, the parameters that differ from a tensor of the same name on disk."""
    names: dict[str, str] = {}
    """Names in memory, by the name that the adapter has for them."""
    untied: UntiedRecord | None = None
    """Of an adapter that changes one of several tied tensors."""


Record = TypeVar(
    "Record",
    RegistryInfo,
    IndexLine,
    ReleaseRecord,
    Provides,
    Expects,
    PatchRecord,
    MemoryRecord,
    Elsewhere,
)

FORMATS: dict[str, type[Struct]] = {
    "registry": RegistryInfo,
    "index-line": IndexLine,
    "module-line": ModuleLine,
    "release": ReleaseRecord,
    "provides": Provides,
    "expects": Expects,
    "patch": PatchRecord,
    "memory": MemoryRecord,
    "elsewhere": Elsewhere,
}
"""The formats of the registry spec, by the name of their JSON Schema."""


def canonical_json(value: Any) -> bytes:
    """Return ``value`` as canonical JSON: equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted")


_MEETING = threading.Lock()
"""msgspec may crash where several threads use a class of records for the first time."""


@functools.cache
def _decoder(kind: type[Record]) -> msgspec.json.Decoder[Record]:
    return msgspec.json.Decoder(kind)


def record_decoder(kind: type[Record]) -> msgspec.json.Decoder[Record]:
    """Return what decodes a format, made when it is first needed."""
    with _MEETING:
        return _decoder(kind)


def decode_record(data: bytes, kind: type[Record], what: str) -> Record:
    """Return the record in ``data``, checked against its format.

    Raises:
        RecordError: `data` is not JSON or not such a record; `what` names the record.
    """
    if data.count(b",") > RECORD_VALUES:  # before each takes memory
        raise RecordError(
            "M209",
            what=what,
            kind=FORMAT_LABELS[kind.__name__],
            reason=f"it has over {RECORD_VALUES:,} values",
            remedy=_REPAIRED.get(kind.__name__, RESTORE),
        )
    try:
        record = record_decoder(kind).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(
            "M209",
            what=what,
            kind=FORMAT_LABELS[kind.__name__],
            reason=decoding_reason(error),
            remedy=_REPAIRED.get(kind.__name__, RESTORE),
        ) from None
    if record.spec > SPEC and kind is not RegistryInfo:
        raise RecordError(
            "M209",
            what=what,
            kind=FORMAT_LABELS[kind.__name__],
            reason=f"it follows spec version {record.spec}",
            remedy="update modpkg",
        )
    return record


RESTORE = "build it again, or ask the registry's owner to restore it"
"""What to do about a record that is malformed."""
CORRECT = "correct it, or write it again with the tool that made it"
"""What to do about a file of a module that is malformed."""
_REPAIRED = {
    "RegistryInfo": "ask the registry's owner to restore it",
    "IndexLine": "ask the registry's owner to restore it",
    "Elsewhere": "ask the registry's owner to restore it",
    "PatchRecord": "create the patch again with 'modpkg patch create'",
    "MemoryRecord": CORRECT,
}
FORMAT_LABELS = {
    "RegistryInfo": REGISTRY_INFO,
    "IndexLine": "index line",
    "Elsewhere": "list of places",
    "ReleaseRecord": "release record",
    "Provides": "interface",
    "Expects": "interface",
    "PatchRecord": PATCH,
    "MemoryRecord": MEMORY,
}
