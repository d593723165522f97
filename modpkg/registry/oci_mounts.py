"""Where on a registry blobs are known to be, which another repository there need not be sent.

A registry can give a repository a blob that another one of it has ("mounting"), but has to be asked
for it. So what was pushed is noted, by the registry's host; a note that is wrong costs nothing but
the sending.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.core.errors import ModpkgError
from modpkg.core.files import write_atomically
from modpkg.core.home import exports_folder
from modpkg.core.oci_address import OciAddress
from modpkg.core.records import DigestText
from modpkg.core.regular_file import read_file

_Repositories = dict[Annotated[str, Meta(max_length=300)], list[DigestText]]
"""By repository, the latest one last, the digests of what was pushed there."""


def _path() -> Path:
    return exports_folder() / "pushed.json"


def _noted() -> dict[str, _Repositories]:
    try:
        data = read_file(_path(), bounds.OCI_MANIFEST_BYTES)
        return msgspec.json.decode(data, type=dict[str, _Repositories])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def known_sources(address: OciAddress) -> dict[Digest, str]:
    """Return by digest which other repository of the same registry was pushed a blob."""
    return {
        Digest(digest): repository
        for repository, digests in _noted().get(address.origin, {}).items()
        if repository != address.repository
        for digest in digests
    }


def note_pushed(address: OciAddress, digests: Collection[Digest]) -> None:
    """Note what a repository has now; of each registry the latest repositories are kept."""
    noted = _noted()
    repositories = noted.pop(address.origin, {})
    repositories.pop(address.repository, None)
    repositories[address.repository] = sorted(digests)
    kept = dict(list(repositories.items())[-bounds.OCI_SOURCES :])
    others = dict(list(noted.items())[-bounds.OCI_SOURCES :])
    data = msgspec.json.encode({**others, address.origin: kept})
    with contextlib.suppress(OSError, ModpkgError):  # it is only a help
        write_atomically(_path(), data)
