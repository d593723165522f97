"""Rules for servers of HTTP, tried with requests of the suite's own, not with modpkg's reader."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from modpkg.core.digests import blob_path, digest_bytes
from modpkg.core.filenames import REGISTRY_INFO
from registry_spec.reading_rules import UNKNOWN
from registry_spec.rules import Rules, RuleUntested, require

_SECONDS = 60
_MOST = 1 << 28
_SECTION = "registry.md#over-http"
_HIDDEN = (
    "private/registry.json",
    ".server/server.sqlite3",
    "locks/.writing",
    "blobs/../.server/server.sqlite3",
    "index/..%2F.server%2Fserver.sqlite3",
    "%2e%2e/etc/passwd",
    "index/../../../../../../etc/passwd",
)


class HttpAnswer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: Message
    body: bytes


def is_http(address: str) -> bool:
    """Return whether a registry is behind HTTP."""
    return urlsplit(address).scheme in ("http", "https")


def ask(
    url: str,
    method: str = "GET",
    headers: Mapping[str, str] = MappingProxyType({}),
    body: bytes | None = None,
) -> HttpAnswer:
    """Send a request, and return the answer, whatever its status.

    Raises:
        OSError: There is none.
        RuleBroken: It is no address of HTTP.
    """
    require(is_http(url), f"{url} is not an address of HTTP")
    request = urllib.request.Request(url, body, dict(headers), method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            return HttpAnswer(answer.status, answer.headers, answer.read(_MOST))
    except urllib.error.HTTPError as error:
        with error:
            return HttpAnswer(error.code, error.headers, error.read(_MOST))


def http_rules(rules: Rules, address: str, *, has_api: bool) -> None:
    """Try the rules of a server; ``has_api`` is whether it is more than a server of files."""
    url = f"{address.rstrip('/')}/{REGISTRY_INFO}"
    with rules.rule(_SECTION, "a file is answered with 200 and its bytes as they are"):
        answer = ask(url, headers={"Accept-Encoding": "gzip"})
        require(answer.status == 200, f"{REGISTRY_INFO} is answered with {answer.status}")
        require(answer.body[:1] == b"{", "its bytes were encoded, though nobody has to")
    with rules.rule(_SECTION, "a file that is missing is answered with 404"):
        unknown = blob_path(digest_bytes(UNKNOWN.encode()))
        for path in (f"index/{UNKNOWN}.jsonl", unknown, "index", "blobs/sha256"):
            status = ask(f"{address.rstrip('/')}/{path}").status
            require(status != 200, f"{path} is answered with 200")
            if path.endswith(".jsonl") or path == unknown:
                require(status in (404, 410), f"{path} is answered with {status}")
    with rules.rule(_SECTION, "Range is answered with 206 and the part, or with all of the file"):
        _ranges(url)
    with rules.rule(_SECTION, "If-None-Match is answered with 304 if the file is as it was"):
        _conditions(url)
    with rules.rule(_SECTION, "only the files of the tree are served"):
        if not has_api:
            raise RuleUntested("it is a server of files")
        for path in _HIDDEN:
            status = _raw_status(address, path)
            require(status >= 300, f"{path} is answered with {status}")


def _ranges(url: str) -> None:
    whole = ask(url).body
    size = len(whole)
    for text, start, stop in (
        ("0-0", 0, 1),
        ("2-9", 2, 10),
        (f"5-{size + 100}", 5, size),
        ("4-", 4, size),
        ("-3", size - 3, size),
    ):
        answer = ask(url, headers={"Range": f"bytes={text}"})
        if answer.status == 200:
            require(answer.body == whole, f"bytes={text} is answered with 200 and a part")
            raise RuleUntested("it sends whole files only, which readers bear")
        require(answer.status == 206, f"bytes={text} is answered with {answer.status}")
        require(answer.body == whole[start:stop], f"bytes={text} is answered with another part")
        named = answer.headers.get("Content-Range")
        wanted = f"bytes {start}-{stop - 1}/{size}"
        require(named == wanted, f"Content-Range of bytes={text} is {named}, not {wanted}")
    status = ask(url, headers={"Range": f"bytes={size}-"}).status
    require(status == 416, f"a range after the end is answered with {status}")


def _conditions(url: str) -> None:
    first = ask(url)
    tag = first.headers.get("ETag")
    if tag is None:
        raise RuleUntested("it sends no ETag")
    again = ask(url, headers={"If-None-Match": tag})
    require(again.status == 304, f"the same ETag is answered with {again.status}")
    require(again.body == b"", "304 is answered with a body")
    other = ask(url, headers={"If-None-Match": '"another"'})
    require(other.body == first.body, "another ETag is answered without the file")


def _raw_status(address: str, path: str) -> int:
    """Return the status of a path that is sent as it is, dots and all."""
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
    try:
        connection.request("GET", f"{quote(parts.path).rstrip('/')}/{path}")
        return connection.getresponse().status
    finally:
        connection.close()
