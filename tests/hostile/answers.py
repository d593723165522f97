"""Answers of HTTP that lie about themselves, or lead elsewhere; addresses that are none."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.hostile.case import Commands, Input
from tests.hostile.registries import response, sends, serving
from tests.hostile.world import World

Talk = Callable[[socket.socket], None]

_HEAD = b"HTTP/1.1 200 OK\r\n"


def _redirect(to: str, status: str = "302 Found") -> Talk:
    return sends(response(b"", status, f"Location: {to}"))


def _header(line: str, body: bytes = b"{}\n", status: str = "200 OK") -> Talk:
    return sends(response(body, status, line))


def _kept_open(data: bytes) -> Talk:
    """Answer with more than one body, and keep the connection."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(data)
        time.sleep(0.5)

    return talk


_TWICE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"
_ANSWERS: dict[str, Talk] = {
    "a redirect to data": _redirect("data:,{}"),
    "a redirect to ftp": _redirect("ftp://127.0.0.1/x"),
    "a redirect to a port of 99999": _redirect("http://127.0.0.1:99999/"),
    "a redirect to IPv6": _redirect("http://[::1/"),
    "a redirect without an address": sends(response(b"", "302 Found")),
    "a redirect of 60,000 letters": _redirect("/" + "a" * 60_000),
    "a redirect with line feeds": _redirect("/a%0d%0aSet-Cookie:%20a"),
    "a redirect of no letters": sends(b"HTTP/1.1 302 F\r\nLocation: /\xff\xfe\r\n\r\n"),
    "300": _redirect("/x", "300 Multiple"),
    "308 to itself": _redirect("/index/talker.jsonl", "308 Permanent"),
    "101": sends(response(b"", "101 Switching", "Upgrade: x")),
    "205": sends(response(b"", "205 Reset")),
    "206 of another part": _header("Content-Range: bytes 5-7/9", status="206 Partial"),
    "206 of words": _header("Content-Range: bytes two-four/9", status="206 Partial"),
    "206 of 10^30": _header("Content-Range: bytes 2-1" + "0" * 30 + "/9", status="206 Partial"),
    "206 in many parts": _header("Content-Type: multipart/byteranges; boundary=x", b"--x", "206 P"),
    "HTTP/1.0": sends(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"),
    "HTTP/1.0 without a length": sends(b"HTTP/1.0 200 OK\r\n\r\n{}\n"),
    "HTTP/2.0": sends(b"HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"),
    "HTTP/0.9": sends(b"{}\n"),
    "garbage after the body": _kept_open(_TWICE + b"\x00garbage"),
    "a second answer after the body": _kept_open(_TWICE * 3),
    "cookies": _header("Set-Cookie: a=b; Domain=.; Path=/; Max-Age=99999999999999999999"),
    "10,000 headers": sends(response(b"{}\n", "200 OK", *(f"X{n}: y" for n in range(10_000)))),
    "a header of 10 MB": _header("X: " + "y" * 10**7),
    "brotli": _header("Content-Encoding: br", b"\x1b"),
    "three encodings": _header("Content-Encoding: deflate, gzip, zstd"),
    "an ETag with escapes": _header('ETag: "\x1b[2J"'),
    "an ETag of 20,000 letters": _header('ETag: "' + "y" * 20_000 + '"'),
    "a date of the year 99999": _header("Last-Modified: Fri, 99 Nov 99999 99:99:99 GMT"),
    "a date of the year 1": _header("Last-Modified: Mon, 01 Jan 0001 00:00:00 GMT"),
    "a length and chunks": sends(
        _HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n0\r\n\r\n"
    ),
    "a length of words": sends(_HEAD + b"Content-Length: three\r\n\r\n{}\n"),
    "a length of +3": sends(_HEAD + b"Content-Length: +3\r\n\r\n{}\n"),
    "a length of 3, 3": sends(_HEAD + b"Content-Length: 3, 3\r\n\r\n{}\n"),
    "a space before the colon": sends(_HEAD + b"Content-Length : 3\r\n\r\n{}\n"),
    "a header on two lines": sends(_HEAD + b"X: a\r\n b\r\nContent-Length: 3\r\n\r\n{}\n"),
    "NUL in a header": sends(_HEAD + b"X: a\0b\r\nContent-Length: 3\r\n\r\n{}\n"),
    "line feeds alone": sends(b"HTTP/1.1 200 OK\nContent-Length: 3\n\n{}\n"),
    "a wait of years": _header("Retry-After: 999999999", status="503 Busy"),
}  # fmt: skip
_COMMAND: Commands = (("install", "talker"),)


def _served(at: str, talk: Talk) -> Callable[[World], Any]:
    return lambda world: serving(world.registry, at, talk)


_ADDRESSES = (
    "http://[::1", "http://[::1]]:1/", "http://127.0.0.1:99999", "http://127.0.0.1:1:2",
    "http://127.0.0.1:1\\@x/", "http://127.0.0.1:1#@x/", "http://127.0.0.1%00.x:1", "http://:80",
    "http://a b", "http://\u202ex:1", "http://xn--:1", "http://[fe80::1%25eth0]:1",
    "http://127.0.0.1:1/" + "a" * 100_000, "ftp://127.0.0.1:1", "javascript:alert(1)", "data:,x",
    "memory:///", "file://models.example/etc", "file:///proc/self/environ", "unix:///x", "s3://",
)  # fmt: skip


@contextmanager
def _named(address: str) -> Iterator[str]:
    yield address


def _answers() -> Iterator[Input]:
    quick = {"modpkg.core.bounds.SILENCE_SECONDS": 1}
    for at, heavy in (("/index/", False), ("/blobs/", True)):
        for name, talk in _ANSWERS.items():
            make = _served(at, talk)
            yield Input("answer", f"{name} at {at}", make, _COMMAND, heavy=heavy, bounds=quick)
    for address in _ADDRESSES:

        def make_named(world: World, address: str = address) -> Any:
            return _named(address)

        name = f"address {address[:60]!r}"
        yield Input("answer", name, make_named, _COMMAND, heavy=True, bounds=quick)


ANSWERS = [*_answers()]
