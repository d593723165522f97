"""What a registry does not have, or does not show to everybody: errors that say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from modpkg.core.errors import IntegrityError, ModpkgError, NotFound
from modpkg.core.redacted import redacted

if TYPE_CHECKING:
    from modpkg.core.digests import Digest
    from modpkg.core.records import RegistryInfo
    from modpkg.registry.source import Source


class AskedRegistry(Protocol):
    """What is asked of the registry that has not got something: see `modpkg.registry.reader`."""

    source: Source

    @property
    def shown(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...
    @property
    def info(self) -> RegistryInfo: ...
    def likely_names(self) -> Sequence[str]: ...
    def knows(self, name: str) -> bool: ...
    def lost(self, name: str) -> str: ...


def no_such_module(name: str, registry: AskedRegistry) -> NotFound:
    """Return the error for a name of which a registry has no release."""
    import difflib  # slow to import

    if registry.knows(name):
        hint = " that can be read (its index file has no valid line)"
        return NotFound("M304", name=name, registry=registry.shown, hint=hint)
    if versions := registry.lost(name):
        hint = f" any more: it had {versions} when it was read before"
        if login := _login(registry):
            hint += f"; if it is private, run {login!r} as somebody who may read it"
        return NotFound("M304", name=name, registry=registry.shown, hint=hint)
    hint, names = "", registry.likely_names()
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        hint = f"; did you mean {close[0]!r}?"
    elif registry.folder is not None and not names:
        hint = " (it has no modules)"
    elif login := _login(registry):
        hint = f"; if it is private, run {login!r} as somebody who may read it"
    return NotFound("M304", name=name, registry=registry.shown, hint=hint)


def missing_blob(what: str, digest: Digest, registry: AskedRegistry) -> IntegrityError:
    """Return the error for a blob that a release names and a registry does not have."""
    source = registry.shown
    if login := _login(registry):
        source = f"{source} (or it is private: then run {login!r} as somebody who may read it)"
    return IntegrityError("M306", what=what, digest=digest, source=source)


def _login(registry: AskedRegistry) -> str:
    """Return the command that logs in at a server; empty for other registries.

    A server answers that it has no private modules, to those who may not read them.
    """
    if registry.folder is not None:
        return ""
    url = registry.source.url
    if not url.startswith(("http://", "https://")):
        return ""
    try:
        api = registry.info.api
    except ModpkgError:
        return ""
    return f"modpkg login {redacted(url)}" if api is not None else ""
