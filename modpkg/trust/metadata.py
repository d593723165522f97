"""Metadata of The Update Framework (TUF), as a registry publishes it over its index.

The files are those of version 1.0 of its specification (https://theupdateframework.io): JSON,
signed in its canonical form. They are read and written here by msgspec, since importing the
reference implementation alone takes longer than verifying may take in a whole install; tests have
it read what is written here.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from modpkg.core import bounds
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ModpkgError, TrustError
from modpkg.trust.bundle import Signer
from modpkg.trust.private_key import public_key_of
from modpkg.trust.public_key import PublicKey

SPEC_VERSION = "1.0.31"
EXPECTED = datetime.timedelta(days=1)
"""For how long readers take what was announced and is not settled."""
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"
_MOMENT_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
Counter = Annotated[int, Meta(ge=1, le=1 << 53)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 53)]


class MetadataKey(Struct, frozen=True):
    """A public key, as TUF writes it."""

    keytype: str
    scheme: str
    keyval: dict[str, str]


class RoleKeys(Struct, frozen=True):
    """Who has to sign for a role: so many of these keys."""

    keyids: list[str]
    threshold: Counter


class BinKeys(Struct, frozen=True):
    """Who has to sign for bins, of which there are ``2 ** bit_length``."""

    keyids: list[str]
    threshold: Counter
    bit_length: Annotated[int, Meta(ge=1, le=12)]
    name_prefix: Literal["index"] = "index"

    def name(self, path: str) -> str:
        """Return the role of the bin that a file is in, by the first bits of its path's sha256.

        >>> BinKeys([], 1, 8).name("index/words.jsonl")
        'index-22'
        """
        first = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
        return self._name(first >> (32 - self.bit_length))

    def names(self) -> list[str]:
        """Return the roles of all bins."""
        return [self._name(number) for number in range(1 << self.bit_length)]

    def _name(self, number: int) -> str:
        return f"{self.name_prefix}-{number:0{len(f'{(1 << self.bit_length) - 1:x}')}x}"


class Delegations(Struct, frozen=True):
    """Whom the targets role leaves files to."""

    keys: dict[str, MetadataKey]
    succinct_roles: BinKeys


class MetadataFile(Struct, frozen=True, omit_defaults=True):
    """A file of metadata that another one names."""

    version: Counter
    length: Bytes | None = None
    hashes: dict[str, str] | None = None


class Announced(Struct, frozen=True, omit_defaults=True):
    """What modpkg adds to a target of TUF."""

    coming: dict[str, str] = {}
    """Digests of what the file is being replaced by, and since when."""
    new: bool = False
    """Whether it is the first content, so that the file may still be missing."""


class SignedFile(Struct, frozen=True, omit_defaults=True):
    """A file of the registry: a target, in TUF's words."""

    length: Bytes
    hashes: dict[str, str]
    custom: Announced = Announced()

    @property
    def digests(self) -> set[str]:
        """The digests that it may have, however long ago they were announced."""
        return {f"sha256:{self.hashes.get('sha256')}", *self.custom.coming}

    def is_settled_as(self, digest: str) -> bool:
        """Return whether it has a digest, and no other one is announced."""
        announced = self.custom.new or self.custom.coming
        return not announced and digest == f"sha256:{self.hashes.get('sha256')}"

    def digests_at(self, now: datetime.datetime) -> set[str]:
        """Return the digests that it may have at a time, to who reads it."""
        young = {one for one, since in self.custom.coming.items() if _is_young(since, now)}
        return young if self.custom.new else young | {f"sha256:{self.hashes.get('sha256')}"}


class _Metadata(Struct, frozen=True, kw_only=True):
    """What all roles have."""

    spec_version: str = SPEC_VERSION
    version: Counter
    expires: str

    @property
    def until(self) -> datetime.datetime:
        return _moment(self.expires)


class RootMetadata(_Metadata, frozen=True, kw_only=True):
    """Who signs what: signed by people, whose keys are not on a server."""

    type: Literal["root"] = msgspec.field(name="_type", default="root")
    consistent_snapshot: bool = True
    keys: dict[str, MetadataKey]
    roles: dict[str, RoleKeys]


class TimestampMetadata(_Metadata, frozen=True, kw_only=True):
    """What is current: signed again all the time."""

    type: Literal["timestamp"] = msgspec.field(name="_type", default="timestamp")
    meta: dict[str, MetadataFile]


class SnapshotMetadata(_Metadata, frozen=True, kw_only=True):
    """The versions of all other files of metadata that belong together."""

    type: Literal["snapshot"] = msgspec.field(name="_type", default="snapshot")
    meta: dict[str, MetadataFile]


class TargetsMetadata(_Metadata, frozen=True, kw_only=True):
    """Files of the registry with their digests, or who signs for them."""

    type: Literal["targets"] = msgspec.field(name="_type", default="targets")
    targets: dict[str, Any] = {}
    """Each a `SignedFile`, or its JSON, which is read when it is asked for: a bin has hundreds."""
    delegations: Delegations | UnsetType = UNSET

    def file(self, path: str, registry: str = "") -> SignedFile | None:
        """Return what is signed of a file; None if it is not listed.

        ``registry`` is whose it is, for messages.

        Raises:
            TrustError: It is malformed.
        """
        found = self.targets.get(path)
        if found is None or isinstance(found, SignedFile):
            return found
        try:
            with _MEETING:
                return _FILE.decode(found)
        except msgspec.MsgspecError as error:
            what = f"what {registry or 'the registry'} has signed of {path}"
            raise _unusable(what, decoding_reason(error)) from None

    def files(self) -> dict[str, SignedFile]:
        """Return what is signed of all files.

        Raises:
            TrustError: One is malformed.
        """
        return {path: file for path in self.targets if (file := self.file(path)) is not None}


class MetadataSignature(Struct, frozen=True):
    """A signature by one key."""

    keyid: str
    sig: str


class _Envelope(Struct, frozen=True):
    signatures: Annotated[list[MetadataSignature], Meta(max_length=bounds.TUF_SIGNATURES)]
    signed: msgspec.Raw


class _Typed(Struct, frozen=True):
    type: str = msgspec.field(name="_type")


class _ReadTargets(TargetsMetadata, frozen=True, kw_only=True):
    """The same as it is read."""

    targets: dict[str, msgspec.Raw] = {}


Metadata = TypeVar(
    "Metadata", RootMetadata, TimestampMetadata, SnapshotMetadata, TargetsMetadata, Struct
)
_DECODER = msgspec.json.Decoder(_Envelope)
_TYPED = msgspec.json.Decoder(_Typed)
_FILE = msgspec.json.Decoder(SignedFile)
_READ: dict[type[Struct], type[Struct]] = {TargetsMetadata: _ReadTargets}
_KINDS: dict[type[Struct], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(_READ.get(kind, kind))
    for kind in (RootMetadata, TimestampMetadata, SnapshotMetadata, TargetsMetadata)
}
_MEETING = threading.Lock()
"""msgspec may crash where several threads use a class of records for the first time."""


class ReadMetadata(Struct, frozen=True):
    """A file of metadata that was read, and whose signatures are not verified yet."""

    signed: Any
    data: bytes
    """What is signed, as it was read: mostly, it is in canonical form."""
    signatures: list[MetadataSignature]

    def messages(self) -> Iterator[bytes]:
        """Yield what may be signed: the bytes as they are, else their canonical form, if any."""
        yield self.data
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            if (message := canonical(msgspec.json.decode(self.data))) != self.data:
                yield message


def read_metadata(data: bytes, kind: type[Struct], what: str) -> ReadMetadata:
    """Return a file of metadata of a kind; `TargetsMetadata` are bins too.

    Raises:
        TrustError: It is malformed; ``what`` names it.
    """
    values = bounds.TUF_BIN_VALUES if kind is TargetsMetadata else bounds.TUF_VALUES
    if data.count(b",") > values:
        raise _unusable(what, f"it has over {values:,} values")
    try:
        with _MEETING:
            envelope = _DECODER.decode(data)
            _TYPED.decode(envelope.signed)  # a record's own would do
            signed = _KINDS[kind].decode(envelope.signed)
        _moment(signed.expires)
    except msgspec.MsgspecError as error:
        raise _unusable(what, decoding_reason(error)) from None
    except (UnicodeError, RecursionError, ValueError):
        raise _unusable(what, "it is no JSON of its form") from None
    most = bounds.TUF_SIGNATURES if kind is RootMetadata else bounds.TUF_ONLINE_SIGNATURES
    if len(envelope.signatures) > most:
        raise _unusable(what, f"it has over {most} signatures")
    if signed.spec_version.partition(".")[0] != "1":
        raise _unusable(what, "it follows another version of TUF; update modpkg")
    if len({one.keyid for one in envelope.signatures}) < len(envelope.signatures):
        raise _unusable(what, "a key has signed it twice")
    return ReadMetadata(signed, bytes(envelope.signed), envelope.signatures)


def check_signed(
    read: ReadMetadata, role: RoleKeys | BinKeys, keys: Mapping[str, MetadataKey], what: str
) -> None:
    """Check that as many keys of a role have signed metadata as have to.

    Raises:
        TrustError: They have not.
    """
    count = len(holding_keys(read, role.keyids, keys, role.threshold))
    if count < role.threshold:
        raise TrustError("M560", what=what, count=count, threshold=role.threshold)


def holding_keys(
    read: ReadMetadata,
    wanted: Collection[str],
    keys: Mapping[str, MetadataKey],
    enough: int | None = None,
) -> dict[str, PublicKey]:
    """Return the wanted keys whose signatures hold, by their ids: each key once.

    With ``enough``, others are left out once so many do.
    """
    left = [
        (one.keyid, opened, one.sig)
        for one in read.signatures
        if one.keyid in wanted
        and (key := keys.get(one.keyid)) is not None
        and (opened := _opened(key)) is not None
    ]
    found: dict[str, PublicKey] = {}
    for message in read.messages():  # each is made once, however many have signed
        for keyid, opened, made in left:
            if opened not in found.values() and _holds(opened, made, message):
                found[keyid] = opened
        if len(found) >= (len(left) if enough is None else enough):
            break
    return found


def _holds(key: PublicKey, made: str, message: bytes) -> bool:
    try:
        return key.verifies(bytes.fromhex(made), message)
    except (ValueError, ModpkgError):
        return False


def signed_metadata(signed: Struct, signers: Iterable[tuple[str, Signer]]) -> bytes:
    """Return the file of metadata, signed by keys, each with its id."""
    document = msgspec.to_builtins(signed)
    message = canonical(document)
    signatures = [{"keyid": keyid, "sig": key.sign(message).hex()} for keyid, key in signers]
    whole = {"signatures": signatures, "signed": document}
    return msgspec.json.encode(whole, order="sorted") + b"\n"


_ESCAPE = re.compile(rb"\\(u[0-9a-f]{4}|[^u])")


def canonical(document: Any) -> bytes:
    """Return a document in canonical JSON as TUF means it, which is what is signed.

    Of JSON's escapes two stay, so that a text of several lines makes it no JSON.

    >>> canonical({"b": "a\\nb", "a": 1}) == b'{"a":1,"b":"a\\nb"}'
    True
    """
    data = msgspec.json.encode(document, order="sorted")
    return _ESCAPE.sub(_unescaped, data) if b"\\" in data else data


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code in (b'"', b"\\"):
        return match[0]
    if code[:1] == b"u":
        return chr(int(code[1:], 16)).encode()
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}[code]


def metadata_key(key: PublicKey) -> tuple[str, MetadataKey]:
    """Return a key as TUF writes it, with its id."""
    if key.algorithm == "ed25519":
        made = MetadataKey("ed25519", "ed25519", {"public": key.data.hex()})
    else:
        public = key.pem().decode()
        made = MetadataKey("ecdsa", "ecdsa-sha2-nistp256", {"public": public})
    return digest_bytes(canonical(msgspec.to_builtins(made))).partition(":")[2], made


def _opened(key: MetadataKey) -> PublicKey | None:
    """Return a key; None if it is of a kind that modpkg does not know, and counts for nothing."""
    public = key.keyval.get("public", "")
    try:
        if (key.keytype, key.scheme) == ("ed25519", "ed25519"):
            data = bytes.fromhex(public)
            return PublicKey("ed25519", data) if len(data) == 32 else None
        if key.scheme == "ecdsa-sha2-nistp256":
            return _of_pem(public.encode())
    except (ValueError, ModpkgError):
        pass
    return None


def _of_pem(text: bytes) -> PublicKey | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # slow to import

    try:
        found = public_key_of(load_pem_public_key(text))
    except UnsupportedAlgorithm:
        return None
    return found if found.algorithm == "ecdsa-p256" else None


def key_of(key: MetadataKey) -> str:
    """Return a key as modpkg writes signers; the kind of one that it does not know."""
    opened = _opened(key)
    return f"a key of the kind {key.keytype}"[:100] if opened is None else str(opened)


def moment_text(moment: datetime.datetime) -> str:
    """Return a moment as metadata has it: in UTC and whole seconds."""
    return moment.astimezone(datetime.timezone.utc).strftime(_MOMENT)


def _is_young(since: str, now: datetime.datetime) -> bool:
    with suppress(ValueError):
        return now - _moment(since) < EXPECTED
    return False


def _moment(text: str) -> datetime.datetime:
    if _MOMENT_FORM.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is no moment")
    return datetime.datetime.fromisoformat(f"{text[:-1]}+00:00")


def _unusable(what: str, reason: str) -> TrustError:
    return TrustError("M565", what=what, reason=reason.rstrip("."))


class _Versioned(Struct, frozen=True):
    version: int


class _SignedVersion(Struct, frozen=True):
    signed: _Versioned


_VERSION = msgspec.json.Decoder(_SignedVersion)


def version_of(data: bytes) -> int:
    """Return the version of a file of metadata that nobody verifies; 0 of one that is damaged."""
    try:
        return _VERSION.decode(data).signed.version
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return 0
