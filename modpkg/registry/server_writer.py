"""Publishing to a registry that is served: what is checked at a folder is checked here first."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from msgspec import UNSET, Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import PublishError
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.registry.ci_job import job_api
from modpkg.registry.place import Blob, BuiltBlob, CopiedBlob, Place, Progress
from modpkg.registry.publishing_client import PublishingClient, Session
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of, verify_built
from modpkg.registry.release_requests import (
    AddedAdvisories,
    AdvisoryRequest,
    ArchiveRequest,
    ChangedLines,
    DeprecateRequest,
    RemovedAnswer,
    RemoveRequest,
    SuccessionRequest,
    YankRequest,
)
from modpkg.registry.server_api import api_path
from modpkg.registry.server_place import ServerPlace
from modpkg.registry.session_records import DeclaredBlob, SessionRequest
from modpkg.registry.signature_files import signature_files, signatures_path, successors_path
from modpkg.registry.standing import NO_REASON, Standing, standing_of, without_removed
from modpkg.registry.writer import RegistryWriter
from modpkg.release.verify import check_record

_REMOVING_SECONDS = 600
"""For how long a server may look for what other releases name."""


class NewModule(Struct, frozen=True):
    """What becomes of a name that a server does not know yet."""

    private: bool = False
    """Whether only those can read it who have a role for it."""
    owner: str = ""
    """The organisation that it will belong to; empty for whoever publishes it."""
    confirm_name: bool = False
    """Whether its name may be near to that of another module."""


class ServerWriter(RegistryWriter):
    """A registry that is published to by its server's API."""

    def __init__(self, place: ServerPlace, new: NewModule | None = None) -> None:
        """``new`` is for modules that the server does not know yet."""
        super().__init__(place)
        self.api = place.api
        self._new = new or NewModule()

    def publish(
        self,
        built: Registry,
        line: IndexLine,
        *,
        now: datetime.datetime | None = None,
        progress: Progress | None = None,
        elsewhere: Mapping[Digest, Sequence[str]] = MappingProxyType({}),
        bundle: bytes | None = None,
    ) -> IndexLine:
        return self._publish_built(built, line, progress, bundle=bundle).line

    def submit(
        self,
        built: Registry,
        line: IndexLine,
        message: str,
        progress: Progress | None = None,
        bundle: bytes | None = None,
    ) -> Session:
        """Submit a release of a built tree as a candidate, for review.

        Raises:
            What `publish` raises for it.
        """
        return self._publish_built(built, line, progress, message, bundle)

    def _publish_built(
        self,
        built: Registry,
        line: IndexLine,
        progress: Progress | None,
        message: str | None = None,
        bundle: bytes | None = None,
    ) -> Session:
        """Publish a release of a built tree, or submit it with a message as a candidate."""
        self._log_in(line)
        record, tree = built.record(line), BlobTree(Path(built.url))
        verify_built(self.place, record, line.release, tree)
        release = parse_digest(line.release)
        blobs: dict[Digest, Blob] = {
            digest: BuiltBlob(digest, what, tree)
            for digest, what in [*blobs_of(record), (release, "the release record")]
            if tree.has(digest)
        }
        data = tree.read(release, "the release record")
        return self._run(line, blobs, data, progress, message, bundle)

    def _log_in(self, line: IndexLine) -> None:
        """Let a CI job that has no login show who it is.

        Raises:
            AccessRefused: There is no login, or the job may not publish the module.
        """
        if not self.api.has_login:
            self.api = job_api(self.api, line.name) or self.api
        self.api.check_login(f"publish {line.name} {line.version}")

    def _run(
        self,
        line: IndexLine,
        blobs: Mapping[Digest, Blob],
        record: bytes,
        progress: Progress | None,
        message: str | None = None,
        bundle: bytes | None = None,
    ) -> Session:
        text = record.decode()
        request = SessionRequest(
            line=replace(line, size=0, published="", yanked=None),
            blobs=[
                DeclaredBlob(digest, blob.size)
                for digest, blob in blobs.items()
                if blob.size is not None
            ],
            record=text if len(text) <= bounds.SESSION_RECORD_CHARACTERS else None,
            candidate=message is not None,
            message=message or "",
            bundle=None if bundle is None else bundle.decode(),
            private=self._new.private,
            owner=self._new.owner,
            confirm_name=self._new.confirm_name,
        )
        return PublishingClient(self.api, progress).publish(request, blobs)

    def copy_releases(
        self, source: Registry, lines: Sequence[IndexLine], progress: Progress | None = None
    ) -> dict[str, ReleaseRecord]:
        """Copy releases of one module, each with a session of its own; see `RegistryWriter`.

        The server says when they were published: that is now.
        """
        records = {}
        signatures = dict(signature_files(source, lines))
        for line in without_removed(lines):
            record = records[line.release] = source.record(line)
            check_record(record)
            release = parse_digest(line.release)
            data = source.blob(release, "the release record")
            sizes = record.packs | {entry.digest: entry.size for entry in record.files.values()}
            blobs: dict[Digest, Blob] = {
                release: CopiedBlob(release, "the release record", source, len(data))
            }
            for digest, what in blobs_of(record):
                size = sizes.get(digest)
                if size is None:
                    size = len(source.blob(digest, what))
                blobs[digest] = CopiedBlob(digest, what, source, size)
            bundles: list[bytes | None] = [*signatures.get(signatures_path(release), [])]
            for bundle in bundles or [None]:  # each but the first is added to what is published
                self._run(line, blobs, data, progress, bundle=bundle)
            if standing_of(line) != Standing():
                self.follow(line)
        for bundle in signatures.get(successors_path(lines[0].name), []):
            self.succeed(lines[0].name, bundle)
        return records

    def follow(self, line: IndexLine, bundles: Sequence[bytes] = ()) -> IndexLine:
        if line.removed is not UNSET:
            (removed,) = self.remove(line.name, line.version, line.removed or NO_REASON).lines
            return removed
        reason = None if line.deprecated is UNSET else line.deprecated
        self.deprecate(line.name, line.version, reason, line.successor or "")
        for bundle in bundles:
            self.yank(line.name, line.version, line.yanked, bundle)
        return self.yank(line.name, line.version, line.yanked)

    def yank(
        self, name: str, version: str, reason: str | None, bundle: bytes | None = None
    ) -> IndexLine:
        self.api.check_login(f"yank {name} {version}")
        text = None if bundle is None else bundle.decode()
        request = YankRequest(version=version, reason=reason, bundle=text)
        return self.api.request("POST", api_path("modules", name, "yank"), IndexLine, request)

    def deprecate(
        self, name: str, version: str | None, reason: str | None, successor: str = ""
    ) -> list[IndexLine]:
        self.api.check_login(f"deprecate {name}")
        request = DeprecateRequest(version=version, reason=reason, successor=successor)
        path = api_path("modules", name, "deprecate")
        return self.api.request("POST", path, ChangedLines, request).lines

    def succeed(self, name: str, bundle: bytes) -> list[IndexLine]:
        self.api.check_login(f"let another one sign {name}")
        path = api_path("modules", name, "successors")
        request = SuccessionRequest(bundle=bundle.decode())
        return self.api.request("POST", path, ChangedLines, request).lines

    def archive(self, name: str, reason: str | None) -> None:
        """Let nothing more be published of a module, or undo that with ``reason=None``.

        Raises:
            AccessRefused: The user may not.
            NotFound: The server does not know the module.
        """
        self.api.check_login(f"archive {name}")
        path = api_path("modules", name, "archive")
        self.api.send("POST", path, ArchiveRequest(reason=reason))

    def remove(self, name: str, version: str | None, reason: str) -> RemovedAnswer:
        """Remove a release for good, or all that a module has; see `removing.remove_release`."""
        self.api.check_login(f"remove {name}")
        request = RemoveRequest(version=version, reason=reason)
        path = api_path("modules", name, "remove")
        return self.api.request("POST", path, RemovedAnswer, request, silence=_REMOVING_SECONDS)

    def publish_advisories(self, documents: list[str]) -> list[str]:
        """Publish advisories, and return the IDs of those that are new or changed."""
        self.api.check_login("publish advisories")
        request = AdvisoryRequest(documents)
        return self.api.request("POST", "advisories", AddedAdvisories, request).ids

    def describe_all(self) -> None:
        raise PublishError("M309", url=self.url, reason="its server writes its list of modules")


def writer_at(
    place: Place, name: str | None = None, new: NewModule | None = None
) -> RegistryWriter:
    """Return what writes to a place; ``name`` is that of a new registry.

    ``new`` is for modules that a server does not know yet.

    Raises:
        PublishError: ``new`` is for servers alone.
    """
    if isinstance(place, ServerPlace):
        return ServerWriter(place, new)
    if new is not None and new != NewModule():
        reason = "only a registry that is served knows whose modules are and who may read them"
        raise PublishError("M309", url=place.url, reason=reason)
    return RegistryWriter(place, name)
