"""The modules of a registry as its maintainers sign them, whatever its list of modules says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from modpkg.core.errors import ModpkgError
from modpkg.core.names import module_name
from modpkg.trust.trusted_metadata import TrustedMetadata

AT_ONCE = 8
"""Bins that are fetched at the same time."""


def signed_names(
    trusted: TrustedMetadata, load: Callable[[TrustedMetadata, str], object]
) -> list[str]:
    """Return the names whose index files are signed, sorted, but for those that are being added.

    Args:
        trusted: The metadata.
        load: Loads a bin of it.

    Raises:
        TrustError: A bin is not what it has to be.
        RegistryUnreachable, RegistryError: One cannot be read.
    """
    roles = trusted.delegations.succinct_roles.names()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(load, trusted), roles))
    found = (pair for role in roles for pair in trusted.bins[role].files().items())
    return sorted(name for path, file in found if not file.custom.new and (name := _name(path)))


def _name(path: str) -> str:
    """Return the name that an index file is of; empty for another file."""
    folder, _, file = path.partition("/")
    name = file.removesuffix(".jsonl")
    try:
        is_index = folder == "index" and name != file and module_name(name) == name
    except ModpkgError:
        return ""
    return name if is_index else ""
