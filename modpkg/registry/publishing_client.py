"""Publishing to a server: declare a release, upload what it lacks, commit.

`registry_spec/server.md` has the requests. Declaring a release again goes on with its session, so a
publisher that was killed publishes again, and sends only what did not arrive.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import ModpkgError, PublishError
from modpkg.core.records import IndexLine
from modpkg.registry.attempts import jittered
from modpkg.registry.checked_requests import RequestBody, WholeAnswer, read_answer
from modpkg.registry.place import Blob, Progress
from modpkg.registry.request_tries import PassingFailure
from modpkg.registry.requests import Abandoned, abandon, wait_for
from modpkg.registry.server_api import ServerApi
from modpkg.registry.session_records import (
    OFFSET,
    SESSIONS,
    CommitAnswer,
    MissingBlob,
    SessionAnswer,
    SessionRequest,
    Uploaded,
    blob_upload_path,
)

AT_ONCE = 4
"""Blobs that are uploaded at the same time."""
ROUNDS = 5
"""How often blobs are uploaded that the server lacks in the end."""
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,200}")
_COUNT = re.compile(r"[0-9]{1,19}")


class Session(Struct, frozen=True):
    """What a publishing session has become."""

    line: IndexLine
    candidate: int | None
    already: bool
    """Whether it was published before."""


class PublishingClient:
    """Somebody who publishes one release to a server."""

    def __init__(self, api: ServerApi, progress: Progress | None = None) -> None:
        self._api = api
        self._progress = progress
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        """Set when an upload has failed, so that the others are given up."""
        self._sent: dict[str, int] = {}
        """By digest, the bytes of it that progress has counted."""
        for kind in (SessionAnswer, CommitAnswer, Uploaded):
            api.prepare(kind)

    def publish(self, request: SessionRequest, blobs: Mapping[Digest, Blob]) -> Session:
        """Publish a release, or submit a candidate.

        Args:
            request: What is declared.
            blobs: By digest, those that there are of it.

        Raises:
            PublishError: It refuses the release, or lacks a blob that there is not.
            ModpkgError: What else the server says.
            RegistryUnreachable: It cannot be asked.
        """
        name, version = request.line.name, request.line.version
        self._api.check_login(f"publish {name} {version}")
        for left in reversed(range(ROUNDS)):
            session = self._api.request("POST", SESSIONS, SessionAnswer, request, again=True)
            if session.state == "committed" and session.line is not None:
                line = self._checked(session.line, request.line)
                return Session(line, session.candidate, already=True)
            if not _SESSION.fullmatch(session.id):
                raise self._api.refusal("its session has no id", "ask its owner")
            sizes = {blob.digest: blob.size for blob in request.blobs}
            self._upload_all(session, blobs, sizes, request.line)
            try:
                done = self._committed(session.id)
            except ModpkgError as error:  # somebody threw a blob away, or the session
                if error.code not in ("M450", "M456") or not left:
                    raise
                continue
            line = self._checked(done.line, request.line)
            return Session(line, done.candidate, already=False)
        raise AssertionError("the last round raises")

    def _checked(self, answered: IndexLine, declared: IndexLine) -> IndexLine:
        """Return a line that is answered, if it is of what was declared.

        Raises:
            RegistryUnreachable: It is not.
        """
        if (answered.name, answered.release) != (declared.name, declared.release):
            raise self._api.refusal("it answers with another release", "ask its owner")
        return answered

    def _upload_all(
        self,
        session: SessionAnswer,
        blobs: Mapping[Digest, Blob],
        sizes: Mapping[str, int],
        line: IndexLine,
    ) -> None:
        """Upload what a server lacks; ``sizes`` are those that were declared, by digest."""
        asked = {missing.digest: missing for missing in session.missing}
        if unknown := sum(digest not in sizes for digest in asked):
            names = {"name": line.name, "version": line.version}
            raise PublishError("M317", count=unknown, registry=self._api.registry, **names)
        if not asked:
            return
        lacking = [
            (parse_digest(digest), replace(missing, size=sizes[digest]))
            for digest, missing in asked.items()
        ]
        # Large ones first: the last one alone would keep everybody waiting.
        lacking.sort(key=lambda pair: (-pair[1].size, pair[0]))
        pool = ThreadPoolExecutor(min(AT_ONCE, len(lacking)), "modpkg-upload")
        try:
            for _ in pool.map(
                lambda pair: self._upload(session.id, pair[0], pair[1], blobs[pair[0]]), lacking
            ):
                pass
        except (KeyboardInterrupt, SystemExit):
            self._stopped.set()
            abandon()  # or the pool would wait for the server
            raise
        except BaseException:
            self._stopped.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _upload(self, session: str, digest: Digest, missing: MissingBlob, blob: Blob) -> None:
        """Upload a blob, from where the server has it on."""
        if missing.direct:
            self._upload_directly(session, digest, missing, blob)
            return
        tries, path = self._api.tries(), blob_upload_path(session, digest)
        offset, complete = min(missing.offset, missing.size), False
        while not complete:
            begun = offset
            try:
                done = self._put(path, digest, blob, offset, missing.size)
                offset, complete = min(done.offset, missing.size), done.complete
                if offset <= begun and not complete:
                    raise PassingFailure("it takes nothing of what is sent")
            except PassingFailure as failure:
                offset = min(self._held(path), missing.size)
                tries.wait(failure, progressed=offset - begun >= bounds.PROGRESS_BYTES)
                complete = offset == missing.size > 0

    def _put(self, path: str, digest: Digest, blob: Blob, offset: int, size: int) -> Uploaded:
        """Send the bytes from ``offset`` on, and return how many the server has."""
        body = RequestBody(size - offset, partial(self._chunks, digest, blob, offset))
        headers = {OFFSET: str(offset), "Content-Type": "application/octet-stream"}
        silence = float(bounds.UPLOAD_PART_SECONDS)
        url = self._api.url(path)
        with self._api.open("PUT", url, headers=headers, body=body, silence=silence) as answer:
            got = _whole(answer)
        if got.status in range(200, 300):
            return self._api.decoded(got, Uploaded, path)
        error = self._api.refused(got)
        if error.code in ("M454", "M455"):  # another sends the same blob, or it was thrown away
            raise PassingFailure(str(error), 1.0 if error.code == "M455" else 0.0)
        raise error

    def _upload_directly(
        self, session: str, digest: Digest, missing: MissingBlob, blob: Blob
    ) -> None:
        """Put a blob where the server says, whole and without the token."""
        tries = self._api.tries()
        body = RequestBody(missing.size, partial(self._chunks, digest, blob, 0))
        silence = float(bounds.UPLOAD_PART_SECONDS)
        while True:
            try:
                with self._api.open_signed(
                    "PUT", missing.url, headers={}, body=body, silence=silence
                ) as answer:
                    got = _whole(answer)
                if got.status in range(200, 300):
                    return
                reason = f"its object store answers an upload with status {got.status}"
                if got.status != 403:
                    raise self._api.refusal(reason, "try again, or ask its owner")
                raise PassingFailure(reason)  # the address has expired
            except PassingFailure as failure:
                tries.wait(failure)
            now = self._api.request("GET", f"{SESSIONS}/{session}", SessionAnswer)
            found = next((other for other in now.missing if other.digest == digest), None)
            if found is None:
                return
            missing = replace(missing, url=found.url)

    def _held(self, path: str) -> int:
        """Return how many bytes of a blob the server has."""
        url = self._api.url(path)
        answer = self._api.ask("HEAD", url, expect=range(200, 300))
        text = answer.headers.get(OFFSET, "")
        return int(text) if _COUNT.fullmatch(text) else 0

    def _chunks(self, digest: Digest, blob: Blob, offset: int) -> Iterator[bytes]:
        at = offset
        for chunk in blob.chunks(offset):
            if self._stopped.is_set():
                raise Abandoned
            yield chunk
            at += len(chunk)
            with self._lock:
                more = at - max(self._sent.get(digest, 0), offset)
                if more > 0:
                    self._sent[digest] = at
                    if self._progress is not None:
                        self._progress(more)

    def _committed(self, session: str) -> CommitAnswer:
        """Commit a session; where the server is at it for long, wait.

        An answer that was lost comes again: a session that is committed says the same.
        """
        until = time.monotonic() + bounds.COMMIT_SECONDS
        path = f"{SESSIONS}/{session}/commit"
        while True:
            try:
                return self._api.request(
                    "POST",
                    path,
                    CommitAnswer,
                    again=True,
                    silence=float(bounds.UPLOAD_PART_SECONDS),
                )
            except ModpkgError as error:
                if error.code != "M455" or time.monotonic() > until:
                    raise
            wait_for(partial(time.sleep, jittered(2.0)))


def _whole(answer: HTTPResponse) -> WholeAnswer:
    return WholeAnswer(answer.status, answer.headers, read_answer(answer, bounds.API_ANSWER_BYTES))
