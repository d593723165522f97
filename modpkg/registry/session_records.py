"""What a publisher and a server say to each other about a publishing session.

`registry_spec/server.md` has the requests; the paths here are relative to the API's address.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.core.records import DigestText, IndexLine, Size

OFFSET = "Upload-Offset"
"""The header that says how many bytes of a blob are there: before a request, and after it."""
SESSIONS = "sessions"
"""The path of sessions; that of one has its id after a slash."""

SessionState = Literal["open", "committed"]


class DeclaredBlob(Struct, frozen=True):
    """A blob of a release, as its publisher has it."""

    digest: DigestText
    size: Size


class SessionRequest(Struct, frozen=True, kw_only=True):
    """What is to be published: ``POST sessions``."""

    line: IndexLine
    """The release's line in the index of its build."""
    blobs: Annotated[list[DeclaredBlob], Meta(max_length=bounds.SESSION_BLOBS)]
    """All blobs that the publisher has of it, with its record, packs, files and interfaces; the
    server says which of them it lacks."""
    record: Annotated[str, Meta(max_length=bounds.SESSION_RECORD_CHARACTERS)] | None = None
    """The text of the release record. Without it, or if it is long, the record is a blob to upload
    as the others are, and what it says is checked when the session is committed."""
    candidate: bool = False
    """Whether it becomes a candidate for review, and not a release yet."""
    message: Annotated[str, Meta(max_length=bounds.SESSION_MESSAGE_CHARACTERS)] = ""
    """What a candidate is for."""
    bundle: Annotated[str, Meta(max_length=bounds.SIGNATURES_BYTES)] | None = None
    """A signature of the release, one line of JSON, that is published with it."""
    private: bool = False
    """Whether a module that is new here can be read by those alone who have a role for it."""
    owner: str = ""
    """The organisation that a new module will belong to; empty for the publisher himself."""
    confirm_name: bool = False
    """Whether a new name may be near to that of another module."""


class MissingBlob(Struct, frozen=True, kw_only=True):
    """A blob that a server lacks, and where to put it."""

    digest: DigestText
    size: Size
    url: str
    """The address for ``PUT``: of the server, or of its object store if ``direct``."""
    offset: Size = 0
    """How many of its bytes are there already."""
    direct: bool = False
    """Whether it is put there whole, with one request and without a token."""


class SessionAnswer(Struct, frozen=True, kw_only=True):
    """A session as it is now: the answer to ``POST sessions`` and ``GET sessions/ID``."""

    id: str
    """Empty if the release was published before: there is nothing to do."""
    state: SessionState
    expires: str = ""
    """When it is swept away unless it is committed: a UTC time."""
    missing: list[MissingBlob] = []
    line: IndexLine | None = None
    """Of a release that is published: its line in the index."""
    candidate: int | None = None
    """Of a candidate that was submitted: its number."""


class Uploaded(Struct, frozen=True):
    """How much of a blob is there: the answer to its ``PUT``."""

    offset: Size
    complete: bool


class CommitAnswer(Struct, frozen=True, kw_only=True):
    """What a session has become: the answer to ``POST sessions/ID/commit``."""

    line: IndexLine
    """The line in the index, or of the candidate."""
    candidate: int | None = None
    """The number of the candidate."""


def blob_upload_path(session: str, digest: Digest) -> str:
    """Return the path of a session's blob."""
    return f"{SESSIONS}/{session}/blobs/{digest}"
