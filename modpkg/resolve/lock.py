"""The lock file, ``modpkg.lock``: every release of a resolution with its digest.

It is deterministic TOML with digests, and with each registry's name and own address, never that of
a mirror, so that mirrors do not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import tomli
from msgspec import Meta, Struct

from modpkg.core.bounds import CANDIDATES, LOCK_ADDRESS, LOCK_BYTES, LOCK_SIGNER, LOG_ENTRIES
from modpkg.core.errors import LockError, ModpkgError
from modpkg.core.names import module_name, parse_version, read_requirement
from modpkg.core.oidc_identity import PATTERN as OIDC_PATTERN
from modpkg.core.printable import os_reason
from modpkg.core.records import DigestText, Kind
from modpkg.core.regular_file import OversizedFile, read_text
from modpkg.manifest.schema import FitPolicy, Strategy

if TYPE_CHECKING:
    from modpkg.registry.reader import Registry
    from modpkg.resolve.resolve import Resolution

LOCK_SPEC = 1
_DIGEST_OR_NONE = "^(sha256:[0-9a-f]{64})?$"
_SIGNER_OR_NONE = f"^(key:[a-z0-9-]+:[A-Za-z0-9+/=]+|{OIDC_PATTERN})?$"
_LOG_KEY_OR_NONE = "^(key:ed25519:[A-Za-z0-9+/]{43}=)?$"
_MOMENT = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"


class LockedModule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[module]]``: a release of the resolution."""

    name: str
    version: str
    kind: Kind
    registry: str
    """The ``name`` in the registry's registry.json."""
    address: Annotated[str, Meta(max_length=LOCK_ADDRESS)] = ""
    """Where the registry is (`modpkg.registry.recorded_address`); empty in locks of old."""
    release: DigestText
    listing: Annotated[str, Meta(pattern=_DIGEST_OR_NONE, max_length=71)] = ""
    """Of a model of a hub, the digest of what the hub lists at its commit; else empty."""
    signer: Annotated[str, Meta(pattern=_SIGNER_OR_NONE, max_length=LOCK_SIGNER)] = ""
    """Who signed the release: a key as `modpkg.trust.public_key` writes it, or an identity as
    `modpkg.core.oidc_identity` does; empty if nobody has."""
    candidate: Annotated[int, Meta(ge=0, le=CANDIDATES)] = 0
    """The number of the candidate that it is; 0 for a release."""
    unlogged: bool = False
    """Whether it was locked offline, so that the log of its registry has to be asked for it yet."""
    extras: list[str] = []
    requires: list[str] = []


class LockedRegistry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One ``[[registry]]``: how far a registry had come that has a signed index or a log."""

    address: Annotated[str, Meta(max_length=LOCK_ADDRESS)]
    """Where it is, as modules have it."""
    root: Annotated[str, Meta(pattern=_DIGEST_OR_NONE, max_length=71)] = ""
    """Digest of its first root, which says which registry it is; empty if it is not signed."""
    root_version: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    """Version of its root."""
    snapshot: Annotated[int, Meta(ge=0, le=1 << 53)] = 0
    """Version of its snapshot."""
    log: Annotated[str, Meta(pattern="^[!-*,-~]*$", max_length=200)] = ""
    """What its log calls itself; empty if it has none."""
    log_key: Annotated[str, Meta(pattern=_LOG_KEY_OR_NONE, max_length=56)] = ""
    """What its log was signed with."""
    log_size: Annotated[int, Meta(ge=0, le=LOG_ENTRIES)] = 0
    """How many entries its log had."""
    log_root: Annotated[str, Meta(pattern=_DIGEST_OR_NONE, max_length=71)] = ""
    """The root of the tree of these entries."""

    @property
    def is_whole(self) -> bool:
        """Whether it has all of a signed index and of a log, or nothing of it."""
        signed = {bool(self.root), bool(self.root_version), bool(self.snapshot)}
        return len(signed) == len({bool(self.log), bool(self.log_key), bool(self.log_root)}) == 1


class LockedPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """``[resolution]``: the settings that the lock was resolved with, as in the manifest."""

    strategy: Strategy = "highest"
    prereleases: list[str] = []
    fit: FitPolicy = "exact-first"
    exclude_newer: str | None = None
    """The cut-off in normal form: a time, or a span before the time of locking."""
    cutoff: Annotated[str, Meta(pattern=_MOMENT)] | None = None
    """The time that `exclude-newer` stood for when the lock was made."""
    exclude_newer_package: list[str] = []
    """Each ``name=TIME``, or ``name=false`` for no cut-off."""
    cool_down: list[str] = []
    """Each ``REGISTRY=SPAN``: the cool-downs of registries that counted, as no manifest has them.
    """


class LockedResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[composed]]``: the result of a composition when the lock was written."""

    model: str
    engine: str
    """Version of the composing engine."""
    inputs: DigestText
    """Digest of everything that determines the result."""
    result: DigestText


class Lock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """A lock file."""

    spec: int = LOCK_SPEC
    requirements: list[str]
    """The manifest's requirements that were resolved, to detect an outdated lock."""
    constraints: list[str] = []
    """The manifest's constraints in normal form, sorted by name."""
    overrides: list[str] = []
    """The manifest's overrides in normal form, sorted by name."""
    resolution: LockedPolicy = LockedPolicy()
    module: list[LockedModule] = []
    """Breadth first from the requirements."""
    registry: list[LockedRegistry] = []
    """Registries that have a signed index or a log, by their addresses."""
    composed: list[LockedResult] = []

    def find(self, name: str) -> LockedModule | None:
        """Return a module by its normal name."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, LockedModule]:
        """Thousands of modules are asked for one by one."""
        return {module.name: module for module in self.module}

    def source_of(self, name: str) -> str:
        """Return what the manifest's requirement of a module names; "" without one.

        It is the alias of a registry, or the address of a model of a hub.
        """
        for text in self.requirements:
            requirement, _, source = text.partition(" @ ")
            with suppress(ModpkgError):  # a lock that was edited is resolved again
                if read_requirement(requirement).name == name:
                    return source
        return ""


def parse_lock(text: str, path: Path) -> Lock:
    """Parse and check the text of a lock file.

    Raises:
        LockError: `text` is not TOML, not a valid lock, or has a newer spec version.
    """
    try:
        raw = tomli.loads(text)
        spec = raw.get("spec")
        if isinstance(spec, int) and spec > LOCK_SPEC:
            raise LockError(
                "M410", path=path, reason=f"it has lock spec version {spec}; update modpkg"
            )
        lock = msgspec.convert(raw, Lock)
        names = [module_name(module.name) for module in lock.module]
        for module in lock.module:
            parse_version(module.version)
        for one in lock.registry:
            if not one.is_whole:
                reason = f"of the registry {one.address} it has only a part"
                raise LockError("M410", path=path, reason=reason)
        if names != [module.name for module in lock.module] or len(set(names)) != len(names):
            raise LockError(
                "M410", path=path, reason="a name is there twice, or not in normal form"
            )
    except LockError:
        raise
    except (ValueError, ModpkgError, RecursionError) as error:  # a number of 5,000 digits, too
        raise LockError("M410", path=path, reason=str(error)) from None
    return lock


def read_lock(path: Path) -> Lock | None:
    """Return the lock in a file; None if the file does not exist.

    Raises:
        LockError: The file is not a valid lock, or cannot be read.
    """
    try:
        return parse_lock(read_text(path, LOCK_BYTES, follow=False), path)
    except FileNotFoundError:
        return None
    except OversizedFile:
        reason = f"it is larger than {LOCK_BYTES >> 20} MiB"
        raise LockError("M410", path=path, reason=reason) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise LockError("M410", path=path, reason=os_reason(error)) from None


def format_lock(lock: Lock) -> str:
    """Return the text of a lock; equal locks give equal bytes.

    Raises:
        LockError: It is larger than a lock that is read may be.
    """
    lines = [
        "# Written by modpkg: exactly what is installed. Commit it; do not edit it.",
        f"spec = {lock.spec}",
        f"requirements = {_array(lock.requirements)}",
    ]
    for key, bounds in (("constraints", lock.constraints), ("overrides", lock.overrides)):
        if bounds:
            lines.append(f"{key} = {_array(bounds)}")
    if lock.resolution != LockedPolicy():
        lines += ["", "[resolution]", *_fields(lock.resolution)]
    for module in lock.module:
        lines += ["", "[[module]]", *_fields(module)]
    for registry in lock.registry:
        lines += ["", "[[registry]]", *_fields(registry)]
    for result in lock.composed:
        lines += ["", "[[composed]]", *_fields(result)]
    text = "\n".join(lines) + "\n"
    if (size := len(text.encode())) > LOCK_BYTES:  # what is written could never be read again
        largest = max(lock.module, key=lambda module: sum(map(len, module.requires)), default=None)
        raise LockError(
            "M594",
            what="The lock",
            size=size,
            most=LOCK_BYTES,
            name="" if largest is None else largest.name,
            version="" if largest is None else largest.version,
        )
    return text


@cache
def _fields_of(kind: type[Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


def _fields(item: Struct) -> list[str]:
    lines = []
    for field in _fields_of(type(item)):
        value = getattr(item, field.name)
        if isinstance(value, list):
            if value:
                lines.append(f"{field.encode_name} = {_array(value)}")
        elif value != field.default:
            lines.append(f"{field.encode_name} = {_string(value)}")
    return lines


def _string(value: str | int) -> str:
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _array(values: list[str]) -> str:
    if len(values) < 2:
        return "[" + ", ".join(map(_string, values)) + "]"
    return "[\n" + "".join(f"    {_string(value)},\n" for value in values) + "]"


def lock_of(
    requirements: list[str],
    resolution: Resolution,
    composed: Iterable[LockedResult] = (),
    *,
    constraints: Iterable[str] = (),
    overrides: Iterable[str] = (),
    policy: LockedPolicy | None = None,
    address: Callable[[Registry], str] = lambda registry: "",
) -> Lock:
    """Return the lock of a resolution; ``address`` returns what it records of where one is."""
    return Lock(
        requirements=requirements,
        constraints=list(constraints),
        overrides=list(overrides),
        resolution=policy or LockedPolicy(),
        module=[
            LockedModule(
                name=name,
                version=chosen.release.line.version,
                kind=chosen.release.line.kind,
                registry=chosen.release.registry.name,
                address=address(chosen.release.registry),
                release=chosen.release.line.release,
                listing=chosen.release.registry.listing,
                extras=list(chosen.extras),
                requires=list(chosen.release.line.requires),
            )
            for name, chosen in resolution.modules.items()
        ],
        composed=sorted(composed, key=lambda result: result.model),
    )
