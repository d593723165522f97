"""The documents of a tree that say where else a blob can be read: on other servers.

They lie beside the blobs, are no part of any release, and may be amended.
"""

from __future__ import annotations

from collections.abc import Sequence

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path
from modpkg.core.records import SPEC, Elsewhere, canonical_json, decode_record

FOLDER = "elsewhere"

ASK_PUBLISHER = (
    "ask whoever published the release to put the file back, or to run 'modpkg publish --upload'"
)
"""What to do where a place has lost a file, or has another one."""


def elsewhere_path(digest: Digest) -> str:
    """Return the path, in a registry, of the document about a blob.

    >>> elsewhere_path(Digest("sha256:" + "ab" * 32))[:16]
    'elsewhere/ab/aba'
    """
    return f"{FOLDER}/{blob_path(digest).removeprefix('blobs/sha256/')}.json"


def read_places(data: bytes, what: str) -> list[str]:
    """Return the places that a document lists.

    Raises:
        RecordError: It is malformed.
    """
    return decode_record(data, Elsewhere, what).places


def places_document(places: Sequence[str], before: Sequence[str] = ()) -> bytes:
    """Return the document that lists these places, and then those of before."""
    listed = list(dict.fromkeys([*places, *before]))[: bounds.BLOB_PLACES]
    return canonical_json(Elsewhere(spec=SPEC, places=listed)) + b"\n"
