"""Writing candidates: submitting, what is said about them, and the decision.

The blobs of a candidate are written as those of a release, before the line that names them. What
was reviewed is what is released: acceptance puts the very line into the index. It does so before
the candidate is marked, so one who is killed between has released it, and accepting it again marks
it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.candidates import CandidateLine, CandidateStatus, ThreadEntry
from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.elsewhere import elsewhere_path
from modpkg.core.errors import IntegrityError, PublishError, RecordError
from modpkg.core.filenames import MANIFEST
from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.candidates import (
    CandidateFile,
    candidates_path,
    check_candidate_texts,
    check_open,
    encoded_entry,
    format_candidates,
    no_such_candidate,
    parse_candidates,
    parse_thread,
    thread_path,
)
from modpkg.registry.place import Progress, RegistryChange
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of, verify_built
from modpkg.registry.signature_files import add_bundles, signatures_path
from modpkg.registry.standing import Standing, check_free
from modpkg.registry.writer import RegistryWriter
from modpkg.registry.written_files import check_length

_WITHOUT_REVIEW = "write a shorter message, or publish without a review"


class CandidateWriter(RegistryWriter):
    """A registry to which candidates can be submitted, and whose candidates can be decided."""

    def submit(
        self,
        built: Registry,
        line: IndexLine,
        *,
        by: str,
        message: str,
        now: datetime.datetime | None = None,
        progress: Progress | None = None,
        elsewhere: Mapping[Digest, Sequence[str]] = MappingProxyType({}),
        bundle: bytes | None = None,
    ) -> CandidateLine:
        """Add a release of a built tree as a candidate, and return its line.

        The checks, the blobs and the signature, ``bundle``, are those of `publish`. A release that
        is an open candidate already is returned as that.

        Raises:
            PublishError: The version is published, or a pack is neither built nor published.
            RecordError: The message is too long, or has a control character.
            IntegrityError, RecordError, ReleaseError, PackError: The release is damaged; nothing is
                written.
        """
        record = built.record(line)
        tree = BlobTree(Path(built.url))
        at = moment_text(now)
        check_candidate_texts(CandidateLine(number=1, line=line, by=by, at=at, message=message))
        verify_built(self.place, record, line.release, tree)
        self.prepare()
        new = 0

        def edit(change: RegistryChange) -> CandidateLine:
            nonlocal new
            self.check_submitted(change, line)
            new = self._add_built(change, tree, record, line.release, progress, elsewhere)
            proposed = replace(line, size=new)
            if bundle is not None:
                add_bundles(change, signatures_path(parse_digest(line.release)), [bundle])
                proposed = replace(proposed, signed=True)
            return self.propose(change, proposed, by=by, message=message, at=at)

        return self.place.change(edit)

    def check_submitted(self, change: RegistryChange, line: IndexLine) -> None:
        """Check that the version of a candidate can become a release.

        Raises:
            PublishError: It is one already, this release or another one.
        """
        lines, _ = self._lines(change, line.name)
        check_free(line, lines, self.url)
        self._other_versions(line, lines)
        if any(existing.release == line.release for existing in lines):
            raise PublishError(
                "M470", name=line.name, version=line.version, registry=self.url, manifest=MANIFEST
            )

    def propose(
        self, change: RegistryChange, line: IndexLine, *, by: str, message: str, at: str
    ) -> CandidateLine:
        """Add a candidate whose blobs are in the registry, within a change, and return its line.

        Raises:
            RecordError: The module has as many candidates as it may have, or a text is not valid.
            PublishError: Their file would be longer than readers take.
        """
        file, before = self._candidates(change, line.name)
        for one in file.lines:
            if one.status == "open" and one.line.release == line.release:
                if line.signed is True and one.line.signed is not True:
                    one.line = replace(one.line, signed=True)
                    self._write_candidates(change, line.name, file, before)
                return one
        number = 1 + max((one.number for one in file.lines), default=0)
        if number > bounds.CANDIDATES:
            path = f"{self.url}/{candidates_path(line.name)}"
            reason = f"it has {bounds.CANDIDATES:,} candidates, as many as a module may have"
            raise RecordError("M465", path=path, reason=reason)
        proposed = CandidateLine(
            number=number,
            line=Standing().on(replace(line, published="")),
            by=by,
            at=at,
            message=message,
        )
        check_candidate_texts(proposed)
        file.lines.append(proposed)
        most = int(0.9 * bounds.CANDIDATES_BYTES)  # the rest is for what decides
        check_length(candidates_path(line.name), format_candidates(file), most, _WITHOUT_REVIEW)
        self._write_candidates(change, line.name, file, before)
        return proposed

    def say(self, name: str, number: int, entry: ThreadEntry) -> ThreadEntry:
        """Add an entry to a candidate's thread: a comment at any time, all else while it is open.

        Raises:
            NotFound: There is no such candidate.
            PublishError: It is decided already.
            RecordError: The entry is not valid, or one too many.
        """
        raw = encoded_entry(entry)

        def edit(change: RegistryChange) -> ThreadEntry:
            file, _ = self._candidates(change, name)
            one = self._one(file, name, number)
            if entry.kind != "comment":
                check_open(one)
            path = thread_path(name, number)
            before = change.read(path, bounds.THREAD_BYTES) or b""
            known = parse_thread(before, name, number, self.url)
            if before and not before.endswith(b"\n"):
                before += b"\n"
            after = before + raw
            share = 0.9 if entry.kind == "comment" else 1.0  # the rest is for what decides
            count = len(known.entries) + len(known.unreadable)
            full = count >= share * bounds.THREAD_ENTRIES
            if full or len(after) > share * bounds.THREAD_BYTES:
                reason = f"{one.label} has as much said about it as one may have"
                raise RecordError("M466", reason=reason)
            change.replace(path, after)
            return entry

        return self.place.change(edit)

    def reject(
        self,
        name: str,
        number: int,
        *,
        by: str,
        reason: str,
        status: CandidateStatus = "rejected",
        now: datetime.datetime | None = None,
    ) -> CandidateLine:
        """Decide that an open candidate becomes no release; its blobs are nobody's then.

        ``status`` is ``withdrawn`` if its own author does so.

        Raises:
            NotFound: There is no such candidate.
            PublishError: It is decided already.
            RecordError: The reason is too long, or has a control character.
        """

        def edit(change: RegistryChange) -> CandidateLine:
            file, before = self._candidates(change, name)
            one = self._one(file, name, number)
            check_open(one)
            decided = _decided(one, status, by, reason, now)
            self._write_candidates(change, name, _with(file, decided), before)
            return decided

        return self.place.change(edit)

    def accept(
        self,
        name: str,
        number: int,
        *,
        by: str,
        reason: str = "",
        now: datetime.datetime | None = None,
        check: Callable[[CandidateLine], None] = lambda one: None,
    ) -> CandidateLine:
        """Publish an open candidate as it was reviewed, and return its line.

        ``check`` raises if the candidate that was read may not be accepted.

        Raises:
            NotFound: There is no such candidate.
            PublishError: It is decided already, or its version is published by now.
            IntegrityError: A blob of it is missing.
        """

        def edit(change: RegistryChange) -> CandidateLine:
            lines, before = self._lines(change, name)
            file, file_before = self._candidates(change, name)
            one = self._one(file, name, number)
            check_open(one)
            check(one)
            check_free(one.line, lines, self.url)
            decided = _decided(one, "accepted", by, reason, now)
            marked = replace(decided, line=replace(one.line, published=moment_text(now)))
            _check_candidates(name, format_candidates(_with(file, marked)))
            if not any(existing.release == one.line.release for existing in lines):
                try:
                    others = self._other_versions(one.line, lines)
                except PublishError:
                    values = {"label": one.label, "name": name, "version": one.line.version}
                    raise PublishError("M469", **values, manifest=MANIFEST) from None
                record = self._reader().record(one.line)
                self._check_blobs(blobs_of(record))
                published = replace(one.line, published=moment_text(now), yanked=None)
                known = {one.line.release: record}
                self._write_index(change, name, [*others, published], before, known)
                decided.line = published
            self._write_candidates(change, name, _with(file, decided), file_before)
            return decided

        return self.place.change(edit)

    def candidate(self, name: str, number: int) -> CandidateLine:
        """Return a candidate as it is now.

        Raises:
            NotFound: There is no such one.
        """

        def edit(change: RegistryChange) -> CandidateLine:
            return self._one(self._candidates(change, name)[0], name, number)

        return self.place.change(edit)

    def _candidates(self, change: RegistryChange, name: str) -> tuple[CandidateFile, bytes]:
        data = change.read(candidates_path(name), bounds.CANDIDATES_BYTES) or b""
        return parse_candidates(data, name, self.url), data

    def _one(self, file: CandidateFile, name: str, number: int) -> CandidateLine:
        for one in file.lines:
            if one.number == number:
                return one
        raise no_such_candidate(name, number, self.url, file.lines)

    def _write_candidates(
        self, change: RegistryChange, name: str, file: CandidateFile, before: bytes
    ) -> None:
        data = format_candidates(file)
        if data != before:
            _check_candidates(name, data)
            change.replace(candidates_path(name), data)

    def _check_blobs(self, blobs: Sequence[tuple[Digest, str]]) -> None:
        for digest, what in blobs:
            places = (blob_path(digest), elsewhere_path(digest))
            if all(self.place.size(path) is None for path in places):
                raise IntegrityError("M306", what=what, digest=digest, source=self.url)


def _check_candidates(name: str, data: bytes) -> None:
    remedy = "give a shorter reason"
    check_length(candidates_path(name), data, bounds.CANDIDATES_BYTES, remedy)


def _decided(
    one: CandidateLine,
    status: CandidateStatus,
    by: str,
    reason: str,
    now: datetime.datetime | None,
) -> CandidateLine:
    decided = replace(
        one, status=status, decided_by=by, decided_at=moment_text(now), reason=reason.strip()
    )
    check_candidate_texts(decided)
    return decided


def _with(file: CandidateFile, decided: CandidateLine) -> CandidateFile:
    lines = [decided if one.number == decided.number else one for one in file.lines]
    return CandidateFile(lines, file.unreadable)
