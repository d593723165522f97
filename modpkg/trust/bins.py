"""Over how many bins the files of an index are spread."""

from __future__ import annotations

from msgspec.structs import replace

from modpkg.trust.metadata import BinKeys, SignedFile
from modpkg.trust.metadata_draft import MetadataDraft
from modpkg.trust.trusted_metadata import TrustedMetadata

NAMES_IN_BIN = 512
"""Files in a bin, about, where bins are made; four times as many, and there are to be more bins."""
MOST_BITS = 12


def bits_for(count: int) -> int:
    """Return how many bits of a path's hash say which bin it is in, for so many files.

    >>> bits_for(0), bits_for(1024), bits_for(10_000), bits_for(100_000)
    (1, 1, 5, 8)
    """
    return min(max((max(count, 1) - 1) // NAMES_IN_BIN, 1).bit_length(), MOST_BITS)


def spread(trusted: TrustedMetadata, draft: MetadataDraft, count: int) -> BinKeys | None:
    """Spread so many files over more bins if there are far too many in each.

    Old bins stay named, since a snapshot takes none back. Return who signs the new ones; None if
    the bins stay as they are.
    """
    now = trusted.delegations.succinct_roles
    if count <= 4 * NAMES_IN_BIN << now.bit_length or now.bit_length == MOST_BITS:
        return None
    keys = replace(now, bit_length=bits_for(count))
    bins: dict[str, dict[str, SignedFile]] = {role: {} for role in keys.names()}
    for role in now.names():
        for path, file in draft.files(role).items():
            bins[keys.name(path)][path] = file
    draft.bins = bins
    return keys
