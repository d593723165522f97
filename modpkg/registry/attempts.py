"""Trying a request again: how often, after which waits, and as long as the server asks for.

obstore tries again by itself, but not when the server says: the header ``Retry-After`` of an answer
is not among what it gives. So requests that failed with 429 or 503 are tried again from here, and
before that the server is asked, with one small request, how long it wants to be left alone.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.message import Message
from functools import partial
from typing import Any

from modpkg.core import bounds
from modpkg.registry.requests import TooLate, wait_for

STATUS = re.compile(r"status code: ([0-9]{3})\b")
_BUSY = (429, 503)
_NO_HEAD = (405, 501)
_AGAIN = (408, 425, *_BUSY)
_LOST = (
    *("ConnectionRefused", "ConnectionReset", "ConnectionAborted", "BrokenPipe"),
    *("IncompleteMessage", "ConnectionClosed", "connection closed", "NotConnected"),
    *("UnexpectedEof", "SendRequest", "ChannelClosed", "dispatch"),
)
"""Signs of a connection that was lost or refused: another one may not be."""
_SILENT = ("TimedOut", "timed out")


def jittered(seconds: float) -> float:
    """Return from a half to the whole of a time, so that those who wait do not return together."""
    return seconds * (1 - secrets.randbelow(512) / 1024)


class Attempts:
    """The attempts at one request."""

    def __init__(
        self,
        retries: int,
        seconds: float,
        ask: Callable[[], float | None] = lambda: None,
    ) -> None:
        """``ask`` returns how long the server wants to be left alone; it is asked when it is busy.

        Nothing is tried again after ``seconds``, beside those that the server asked for.
        """
        self._left = retries
        self._pause = 0.1
        self._until = time.monotonic() + seconds
        self._ask = ask
        self._granted = 0.0
        self.asked: float | None = None
        """For how many seconds the server wants to be left alone, where that is too long."""

    def again(self, failure: str) -> bool:
        """Wait, and return True, if a request that failed like this is to be tried again.

        ``failure`` is the text of what obstore raised.
        """
        status = int(match[1]) if (match := STATUS.search(failure)) else None
        if status is None:
            passing = any(sign in failure for sign in _LOST)
            passing = passing and not any(sign in failure for sign in _SILENT)
        else:
            passing = status in _AGAIN or (status >= 500 and status not in (501, 505, 507))
        if not passing or not self._left or time.monotonic() > self._until:
            return False
        self._left -= 1
        pause = jittered(self._pause)
        self._pause = min(2 * self._pause, 15.0)
        if status in _BUSY and (asked := self._ask()) is not None:
            if self._granted + asked > bounds.RETRY_AFTER_SECONDS:
                self.asked = asked
                return False
            self._granted += asked
            self._until += asked
            pause = max(pause, asked)
        wait_for(partial(time.sleep, pause))
        return True


def asked_wait(address: str, headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds a server wants to be left alone.

    Zero if it is not busy any more; None if it does not say, or cannot be asked.
    """
    head = head_of(address, headers)
    if head is not None and head[0] in _NO_HEAD:
        head = head_of(address, headers, method="GET")
    if head is None:
        return None
    status, answered = head
    if status not in _BUSY:
        return 0.0
    text = answered.get("Retry-After")
    return None if text is None else retry_after(text)


def head_of(
    address: str, headers: Mapping[str, str], *, method: str = "HEAD"
) -> tuple[int, Message] | None:
    """Return the status and the headers of a server's answer; None if none comes."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    def ask() -> tuple[int, Message]:
        request = Request(address, headers=dict(headers), method=method)  # noqa: S310
        opener = build_opener(NoRedirects)
        try:
            with opener.open(request, timeout=bounds.CONNECT_SECONDS) as answer:
                return answer.status, answer.headers
        except HTTPError as error:
            with error:
                return error.code, error.headers

    try:
        return wait_for(ask, 2 * bounds.CONNECT_SECONDS)
    except (OSError, ValueError, HTTPException, TooLate):
        return None


def retry_after(text: str) -> float | None:
    """Return the seconds that a ``Retry-After`` is: their number, or the time when they are over.

    >>> retry_after("7"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after("soon")
    (7.0, 0.0, None)
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        moment = email.utils.parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    return None
