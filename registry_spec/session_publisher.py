"""Publishing to a server by its API alone, with requests of the suite's own (see server.md)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from modpkg.core.errors import CLASSES, reported_error
from modpkg.core.records import IndexLine
from modpkg.registry.session_records import (
    OFFSET,
    CommitAnswer,
    DeclaredBlob,
    MissingBlob,
    SessionAnswer,
    SessionRequest,
)
from registry_spec.http_rules import HttpAnswer, ask
from registry_spec.rules import RuleBroken, require
from registry_spec.samples import Sample

_BUSY = "M455"
_BUSY_SECONDS = 60.0


class _Stopped(Exception):
    """The publisher was to end here."""


class _Steps:
    """How many requests are left until a publisher ends; it never does if None."""

    def __init__(self, left: int | None) -> None:
        self._left = left

    def take(self) -> None:
        if self._left == 0:
            raise _Stopped
        if self._left is not None:
            self._left -= 1


class SessionPublisher:
    """Publishes to a server of `modpkg registry serve`, with a token."""

    def __init__(self, api: str, token: str) -> None:
        self._api = api.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._session = msgspec.json.Decoder(SessionAnswer)
        self._committed = msgspec.json.Decoder(CommitAnswer)

    def publish(self, sample: Sample) -> IndexLine:
        return self._publish(sample, _Steps(None)).line

    def submit(self, sample: Sample, message: str) -> int:
        """Submit a release as a candidate, and return its number."""
        number = self._publish(sample, _Steps(None), message).candidate
        if number is None:
            raise RuleBroken("what was submitted has no number")
        return number

    def yank(self, name: str, version: str, reason: str | None) -> None:
        body = msgspec.json.encode({"version": version, "reason": reason})
        answer = ask(f"{self._api}/modules/{name}/yank", "POST", self._headers, body)
        _checked(answer)

    def interrupted(self, sample: Sample, step: int) -> bool:
        """Publish until a request, or the middle of a blob; each of these is a step."""
        with contextlib.suppress(_Stopped):
            self._publish(sample, _Steps(step))
            return True
        return False

    def _publish(self, sample: Sample, steps: _Steps, message: str | None = None) -> CommitAnswer:
        """Publish a release, or submit it with a message as a candidate."""
        steps.take()
        session = self._declare(sample, message)
        if session.state == "committed":
            if session.line is None:
                raise RuleBroken("a session that is committed has no line")
            return CommitAnswer(line=session.line, candidate=session.candidate)
        files = dict(sample.blobs())
        for blob in session.missing:
            data = next(path for digest, path in files.items() if digest == blob.digest)
            self._upload(session.id, blob, data.read_bytes(), steps)
        steps.take()
        answer = self.request("POST", f"sessions/{session.id}/commit")
        return self._committed.decode(answer.body)

    def _declare(self, sample: Sample, message: str | None) -> SessionAnswer:
        blobs = [DeclaredBlob(digest, path.stat().st_size) for digest, path in sample.blobs()]
        request = SessionRequest(
            line=sample.line,
            blobs=blobs,
            candidate=message is not None,
            message=message or "",
            confirm_name=True,
        )
        return self._session.decode(self.request("POST", "sessions", request).body)

    def _upload(self, session: str, blob: MissingBlob, data: bytes, steps: _Steps) -> None:
        """Upload a blob, half of it first where the server takes that."""
        steps.take()
        if blob.direct:
            answer = ask(blob.url, "PUT", body=data)
            require(answer.status in (200, 201), f"the store answers {answer.status}")
            return
        offset = blob.offset
        for stop in ((offset + len(data)) // 2, len(data)):
            sent = self._put(blob.url, data[offset:stop], offset)
            require(sent == stop, f"{sent} bytes of {stop} arrived")
            offset = stop
            if stop < len(data):
                steps.take()
                there = self.request("HEAD", f"sessions/{session}/blobs/{blob.digest}")
                stated = there.headers.get(OFFSET)
                require(stated == str(stop), f"HEAD says {stated} of {stop} bytes")

    def _put(self, url: str, data: bytes, offset: int) -> int:
        headers = self._headers | {
            OFFSET: str(offset),
            "Content-Type": "application/octet-stream",
        }
        answer = _checked(ask(url, "PUT", headers, data))
        return int(answer.headers.get(OFFSET, "-1"))

    def request(self, method: str, path: str, body: Any = None) -> HttpAnswer:
        """Send a request, again while the server says that somebody else is at it.

        Raises:
            ModpkgError: The server refuses it.
        """
        data = None if body is None else msgspec.json.encode(body)
        for _ in _turns():
            answer = ask(f"{self._api}/{path}", method, self._headers, data)
            if _code_of(answer) != _BUSY:
                return _checked(answer)
        raise RuleBroken(f"{method} {path} is answered with {_BUSY} for {_BUSY_SECONDS:.0f} s")


def _turns() -> Iterator[None]:
    ends = time.monotonic() + _BUSY_SECONDS
    while time.monotonic() < ends:
        yield
        time.sleep(0.05)


def _code_of(answer: HttpAnswer) -> str | None:
    if answer.status < 400:
        return None
    try:
        code = msgspec.json.decode(answer.body)["code"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return ""
    return code if isinstance(code, str) else ""


def _checked(answer: HttpAnswer) -> HttpAnswer:
    """Return an answer that is none of an error.

    Raises:
        ModpkgError: It is one of modpkg.
        RuleBroken: It is an error without a code.
    """
    code = _code_of(answer)
    if code is None:
        return answer
    text = answer.body.decode("utf-8", "replace")[:500]
    if code in CLASSES:
        raise reported_error(code, text)
    raise RuleBroken(f"it is answered with {answer.status} and {text!r}")
