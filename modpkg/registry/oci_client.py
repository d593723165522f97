"""What an OCI registry holds of one repository: blobs and manifests, read and pushed.

The protocol is the OCI distribution specification, v1.1. A blob is pushed as Docker pushes it, in
one stream, which all registries take; where it breaks off, the registry is asked how much it has,
and the rest is sent.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

from modpkg.core import bounds
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import IntegrityError, ModpkgError, NotFound
from modpkg.core.oci_address import OciAddress
from modpkg.registry.checked_requests import RequestBody, WholeAnswer
from modpkg.registry.connection import failure_of
from modpkg.registry.object_source import ARRIVAL
from modpkg.registry.oci_requests import OciRequests
from modpkg.registry.pace import Pace
from modpkg.registry.request_tries import PassingFailure
from modpkg.registry.requests import Abandoned, abandon

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
AT_ONCE = 4
"""How many blobs are read or pushed at the same time."""
_DIGEST = "Docker-Content-Digest"
_BYTES = "application/octet-stream"
_HELD = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")

Item = TypeVar("Item")
Result = TypeVar("Result")


class OciClient:
    """One repository of an OCI registry. Thread-safe."""

    def __init__(self, address: OciAddress, *, writes: bool = False) -> None:
        """``writes`` is whether something will be pushed."""
        self.address = address
        self._requests = OciRequests(address, writes=writes)
        self._sources: Mapping[Digest, str] = {}

    def in_parallel(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return what the work, done by this client, returns for each item.

        At the first error the rest is stopped, and the client cannot be used any more.
        """
        pool = ThreadPoolExecutor(AT_ONCE, "modpkg-oci")
        jobs = [pool.submit(work, item) for item in items]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException as error:
            self._requests.stopped.set()
            if not isinstance(error, Exception):
                abandon()  # or the pool would wait for the registry
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return [job.result() for job in jobs]

    def manifest(self) -> tuple[bytes, str]:
        """Return the manifest that the address names, and what type the registry says it has.

        Raises:
            NotFound: There is none.
            IntegrityError: It is another one than the digest names.
        """
        url = self._requests.url(f"manifests/{self.address.reference}")
        accept = {"Accept": f"{IMAGE_MANIFEST}, {IMAGE_INDEX}"}
        answer = self._requests.ask(
            "GET", url, expect=(200, 404), headers=accept, most=bounds.OCI_MANIFEST_BYTES
        )
        if answer.status == 404:
            reason = "the registry has no such repository, tag or digest"
            remedy = "correct the address; if it is a private one, log in with 'docker login'"
            raise NotFound("M862", address=self.address, reason=reason, remedy=remedy)
        found = digest_bytes(answer.body)
        if self.address.digest not in (None, found):
            raise self._other("the manifest", f"has the digest {found}", str(self.address.digest))
        return answer.body, answer.headers.get_content_type()

    def tagged(self) -> str | None:
        """Return the digest of what the tag names, as the registry says; None if nothing is."""
        url = self._requests.url(f"manifests/{self.address.reference}")
        accept = {"Accept": f"{IMAGE_MANIFEST}, {IMAGE_INDEX}"}
        answer = self._requests.ask("HEAD", url, expect=(200, 404), headers=accept)
        return answer.headers.get(_DIGEST) if answer.status == 200 else None

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Return whether the repository has a blob, of this size."""
        url = self._requests.url(f"blobs/{digest}")
        answer = self._requests.ask("HEAD", url, expect=(200, 404))
        return answer.status == 200 and answer.headers.get("Content-Length") in (None, str(size))

    def chunks(self, digest: Digest, size: int, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from ``start`` on, at most to ``size``; they are not verified.

        Raises:
            NotFound: The registry has it no more.
            RegistryUnreachable: It cannot be read.
        """
        url, at, tries = self._requests.url(f"blobs/{digest}"), start, self._requests.tries()
        pace = Pace(str(self.address), digest, timedelta(seconds=bounds.SILENCE_SECONDS))
        while at < size:
            begun = at
            try:
                for chunk in self._some(url, digest, at, pace):
                    kept = chunk[: size - at]
                    at += len(kept)
                    yield kept
                    if at == size:
                        return
                raise PassingFailure("it sends less of a file than it has")
            except PassingFailure as failure:
                tries.wait(failure, progressed=at - begun >= bounds.PROGRESS_BYTES)

    def _some(self, url: str, digest: Digest, start: int, pace: Pace) -> Iterator[bytes]:
        """Yield what one answer has of a blob."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        pace.begin()
        with self._requests.open("GET", url, headers=headers) as answer:
            if answer.status in (404, 410):
                reason, remedy = f"the registry has no {digest}", "push it again"
                raise NotFound("M862", address=self.address, reason=reason, remedy=remedy)
            if answer.status not in (200, 206):
                raise self._requests.refused(WholeAnswer(answer.status, answer.headers, b""))
            skip = start if answer.status == 200 else 0
            stated = answer.headers.get("Content-Range", "")
            if answer.status == 206 and not stated.startswith(f"bytes {start}-"):
                raise self._requests.refusal("it sends another part than asked for", "try again")
            while True:
                self._requests.check_going()
                try:
                    data = pace.timed(lambda: answer.read1(ARRIVAL))
                except (ModpkgError, Abandoned):
                    raise
                except (OSError, http.client.HTTPException) as error:
                    raise PassingFailure(failure_of(error)) from None
                if not data:
                    return
                pace.arrived(len(data))
                kept, skip = data[skip:], max(skip - len(data), 0)
                if kept:
                    yield kept

    def mount_from(self, sources: Mapping[Digest, str]) -> None:
        """Let blobs be taken from other repositories of the registry, by their digests."""
        if sources:
            self._sources = sources
            self._requests.read_from(set(sources.values()))

    def push_blob(self, digest: Digest, size: int, read: Callable[[int], Iterator[bytes]]) -> bool:
        """Push a blob unless the registry has it; return whether it was sent.

        Args:
            digest: Its digest.
            size: Its length in bytes.
            read: Returns its bytes, from a place on.

        Raises:
            RegistryUnreachable: It cannot be pushed.
            IntegrityError: What came there has another digest.
        """
        tries, location, offset = self._requests.tries(), "", 0
        while True:
            begun = offset
            try:
                if not location:
                    if self.has_blob(digest, size):
                        return tries.count > 0
                    location, offset = self._begin_upload(digest), 0
                    if not location:
                        return False
                if offset < size:
                    location = self._append(location, read, offset, size)
                    offset = size
                self._end_upload(location, digest)
                return True
            except PassingFailure as failure:
                if location:
                    location, offset = self._held(location)
                tries.wait(failure, progressed=offset - begun >= bounds.PROGRESS_BYTES)

    def _begin_upload(self, digest: Digest) -> str:
        """Return where an upload goes on; nowhere if another repository had the blob."""
        url = self._requests.url("blobs/uploads/")
        if (source := self._sources.get(digest)) is not None:
            mount = f"{url}?{urlencode({'mount': digest, 'from': source})}"
            answer = self._requests.ask("POST", mount, expect=(201, 202, 400, 401, 403, 404, 405))
            if answer.status == 201:
                return ""
            if answer.status == 202:
                return self._next(answer, url)
        answer = self._requests.ask("POST", url, expect=(202,))
        return self._next(answer, url)

    def _next(self, answer: WholeAnswer, url: str) -> str:
        location = answer.headers.get("Location")
        if not location:
            raise self._requests.refusal("it does not say where an upload goes on", "ask its owner")
        return self._requests.within(location, url)

    def _append(
        self, location: str, read: Callable[[int], Iterator[bytes]], offset: int, size: int
    ) -> str:
        """Send the bytes from ``offset`` on, and return where the upload goes on."""
        headers = {"Content-Type": _BYTES}
        if offset:
            headers["Content-Range"] = f"{offset}-{size - 1}"
        body = RequestBody(size - offset, partial(read, offset))
        with self._requests.open("PATCH", location, headers=headers, body=body) as answer:
            got = WholeAnswer(answer.status, answer.headers, answer.read(4096))
        if got.status == 416:
            raise PassingFailure("it has another part of a file than it said")
        if got.status != 202:
            raise self._requests.refused(got)
        return self._next(got, location)

    def _held(self, location: str) -> tuple[str, int]:
        """Return where a broken upload goes on, and how many bytes the registry has of it.

        An empty place means that it begins again.
        """
        answer = self._requests.ask("GET", location, expect=(204, 404, 400, 405, 416))
        held = _HELD.fullmatch(answer.headers.get("Range", ""))
        if answer.status != 204 or held is None:
            return "", 0
        count = int(held[1]) + 1
        place = answer.headers.get("Location")
        # a registry that has nothing yet says 0-0, as one does that has one byte
        if count == 1 or not place:
            return "", 0
        return self._requests.within(place, location), count

    def _end_upload(self, location: str, digest: Digest) -> None:
        query = urlencode({"digest": digest})
        url = f"{location}{'&' if urlsplit(location).query else '?'}{query}"
        with self._requests.open("PUT", url, silence=bounds.UPLOAD_PART_SECONDS) as answer:
            got = WholeAnswer(answer.status, answer.headers, answer.read(4096))
        if got.status == 404:
            raise PassingFailure("it has forgotten an upload")
        if got.status == 400 and b"DIGEST_INVALID" in got.body:
            raise self._other("a file", "came there with another digest", digest)
        if got.status != 201:
            raise self._requests.refused(got)
        if (stated := got.headers.get(_DIGEST)) not in (None, digest):
            raise self._other("a file", f"came there with the digest {stated[:100]}", digest)

    def push_manifest(self, data: bytes) -> None:
        """Push a manifest under the address's tag, which names it from then on."""
        url = self._requests.url(f"manifests/{self.address.reference}")
        body = RequestBody(len(data), lambda: iter((data,)))
        headers = {"Content-Type": IMAGE_MANIFEST}
        answer = self._requests.ask("PUT", url, expect=(201,), headers=headers, body=body)
        digest = digest_bytes(data)
        if (stated := answer.headers.get(_DIGEST)) not in (None, digest):
            raise self._other("the manifest", f"came there with the digest {stated[:100]}", digest)

    def _other(self, what: str, found: str, wanted: str) -> IntegrityError:
        return IntegrityError("M893", what=what, address=self.address, found=found, wanted=wanted)
