"""The lock file, ``modpkg.lock``: every release of a resolution with its digest.

TOML, deterministic, readable. It holds digests and registry identities, never addresses, so a
mirror does not change it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import tomli
from msgspec import Struct

from modpkg.errors import LockError, ModpkgError
from modpkg.names import module_name, parse_version
from modpkg.records import DigestText, Kind
from modpkg.resolve.resolve import Resolution

LOCK_SPEC = 1
MAX_LOCK = 64 << 20


class LockedModule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[module]]``: a release of the resolution."""

    name: str
    version: str
    kind: Kind
    registry: str
    """The registry's identity: the ``name`` in its registry.json."""
    release: DigestText
    extras: list[str] = []
    requires: list[str] = []


class LockedResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[composed]]``: what a composition gave where the lock was written."""

    model: str
    engine: str
    """Version of the composing engine."""
    inputs: DigestText
    """Digest of everything that determines the result."""
    result: DigestText


class Lock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole lock file."""

    spec: int = LOCK_SPEC
    requirements: list[str]
    """The manifest's requirements that were resolved, to know when the lock is stale."""
    module: list[LockedModule] = []
    """Breadth first from the requirements."""
    composed: list[LockedResult] = []

    def find(self, name: str) -> LockedModule | None:
        """Return a module by its normal name."""
        return next((module for module in self.module if module.name == name), None)


def parse_lock(text: str, path: Path) -> Lock:
    """Return the lock in ``text``, checked.

    Raises:
        LockError: it is not TOML, not such a lock, or of a newer spec.
    """
    try:
        raw = tomli.loads(text)
        spec = raw.get("spec")
        if isinstance(spec, int) and spec > LOCK_SPEC:
            raise LockError(path=path, reason=f"it follows lock spec {spec}; update modpkg")
        lock = msgspec.convert(raw, Lock)
        names = [module_name(module.name) for module in lock.module]
        for module in lock.module:
            parse_version(module.version)
        if names != [module.name for module in lock.module] or len(set(names)) != len(names):
            raise LockError(path=path, reason="it has a name twice or not in normal form")
    except LockError:
        raise
    except (tomli.TOMLDecodeError, msgspec.MsgspecError, ModpkgError, RecursionError) as error:
        raise LockError(path=path, reason=str(error)) from None
    return lock


def read_lock(path: Path) -> Lock | None:
    """Return the lock in a file; None when there is no file.

    Raises:
        LockError: the file is no sound lock.
    """
    try:
        if path.stat().st_size > MAX_LOCK:
            raise LockError(path=path, reason=f"it is over {MAX_LOCK >> 20} MiB")
        return parse_lock(path.read_text("utf-8"), path)
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise LockError(path=path, reason=str(error)) from None


def format_lock(lock: Lock) -> str:
    """Return the text of a lock; equal locks give equal bytes."""
    lines = [
        "# Written by modpkg: exactly what is installed. Commit it; do not edit it.",
        f"spec = {lock.spec}",
        f"requirements = {_array(lock.requirements)}",
    ]
    for module in lock.module:
        lines += ["", "[[module]]", *_fields(module)]
    for result in lock.composed:
        lines += ["", "[[composed]]", *_fields(result)]
    return "\n".join(lines) + "\n"


def _fields(item: Struct) -> list[str]:
    lines = []
    for field in item.__struct_fields__:
        value = getattr(item, field)
        if isinstance(value, list):
            if value:
                lines.append(f"{field} = {_array(value)}")
        else:
            lines.append(f"{field} = {_string(value)}")
    return lines


def _string(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _array(values: list[str]) -> str:
    if len(values) < 2:
        return "[" + ", ".join(map(_string, values)) + "]"
    return "[\n" + "".join(f"    {_string(value)},\n" for value in values) + "]"


def lock_of(
    requirements: list[str], resolution: Resolution, composed: Iterable[LockedResult] = ()
) -> Lock:
    """Return the lock of a resolution."""
    return Lock(
        requirements=requirements,
        module=[
            LockedModule(
                name=name,
                version=chosen.release.line.version,
                kind=chosen.release.line.kind,
                registry=chosen.release.registry.name,
                release=chosen.release.line.release,
                extras=list(chosen.extras),
                requires=list(chosen.release.line.requires),
            )
            for name, chosen in resolution.modules.items()
        ],
        composed=sorted(composed, key=lambda result: result.model),
    )
