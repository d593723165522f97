"""Registries of real size, behind HTTP: files that are made while they are sent, and names without
end. Only the benchmark runs them: ``python -m benchmarks.hostile size``."""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from tests.hostile.case import INSTALL, Commands, Input
from tests.hostile.world import World, dumped

_RELEASE = "sha256:" + "0" * 64


class Made(NamedTuple):
    """A file that is made while it is sent."""

    size: int
    pieces: Iterator[bytes]
    headers: str = ""


Files = Callable[[str], "Made | bytes | None"]
"""Returns the content of a path; None where there is no such file."""


def line(name: str, version: str = "1.0", *requires: str, **more: Any) -> bytes:
    """Return a line of an index."""
    found = {"name": name, "version": version, "kind": "collection", "requires": [*requires]}
    return dumped({**found, "release": _RELEASE, **more}) + b"\n"


def repeated(piece: bytes, count: int, head: bytes = b"", tail: bytes = b"") -> Made:
    """Return a file that has a piece many times, which is sent in chunks."""
    at_once = max(1, (1 << 18) // len(piece))
    whole, rest = divmod(count, at_once)
    middle = itertools.repeat(piece * at_once, whole)
    pieces = itertools.chain([head], middle, [piece * rest, tail])
    return Made(len(head) + len(piece) * count + len(tail), pieces)


def numbered(name: str, count: int, **more: Any) -> Made:
    """Return an index of many versions."""
    before, after = line(name, "1.%", **more).split(b"%")
    digits = len(str(count))
    piece = 2000
    # all have as many digits
    start = 10**digits
    pieces = (
        b"".join(b"%b%d%b" % (before, start + n, after) for n in range(at, min(count, at + piece)))
        for at in range(0, count, piece)
    )
    return Made((len(before) + digits + 1 + len(after)) * count, pieces)


@contextmanager
def making(files: Files) -> Iterator[str]:
    """Serve what ``files`` returns; connections are kept open."""

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = b""
            while True:
                while b"\r\n\r\n" not in request:
                    more = connection.recv(1 << 16)
                    if not more:
                        return
                    request += more
                head, _, request = request.partition(b"\r\n\r\n")
                found = files(head.split(b" ")[1].decode())
                if found is None:
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    continue
                made = Made(len(found), iter([found])) if isinstance(found, bytes) else found
                ok = f"HTTP/1.1 200 OK\r\nContent-Length: {made.size}\r\n{made.headers}\r\n"
                first = next(made.pieces, b"")
                connection.sendall(ok.encode() + first)
                for piece in made.pieces:
                    connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        def listen() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _registry(index: Callable[[str], Made | bytes | None]) -> Callable[[World], Any]:
    """Return what serves a registry whose index files are made by name."""

    def files(path: str) -> Made | bytes | None:
        if path == "/registry.json":
            return b'{"spec":1,"name":"evil"}'
        if path.startswith("/index/"):
            return index(path.removeprefix("/index/").removesuffix(".jsonl"))
        return None

    return lambda world: making(files)


def _wide(width: int, other: Callable[[str], Made | bytes | None]) -> Callable[[str], Any]:
    """Return an index in which evil needs many names."""
    root = line("evil", "1.0", *(f"n{n}" for n in range(width)))
    return lambda name: root if name == "evil" else other(name)


def _chain(width: int, versions: int = 1) -> Callable[[str], bytes]:
    """Return an index of names without end, each of which needs some more."""

    def index(name: str) -> bytes:
        number = 0 if name == "evil" else int(name[1:])
        after = [f"n{width * number + n}" for n in range(1, width + 1)]
        return b"".join(line(name, f"1.{v}", *after) for v in range(versions))

    return index


def _zipped(data: bytes) -> Made:
    data = gzip.compress(data, 9)
    return Made(len(data), iter([data]), "Content-Encoding: gzip\r\n")


_PAD = 'x" :"' + "y" * 60_000
_NEEDS = [f"n{n}>=1" for n in range(200)]
_INDEXES: dict[str, Callable[[str], Made | bytes | None]] = {
    "32 indexes of 190 MB": _wide(
        32, lambda name: repeated(line(name, "1.0", x="y" * 900), 140_000)
    ),
    "32 indexes of 3.9 MB of many releases": _wide(
        32, lambda name: numbered(name, 4_500, x="y" * 280)
    ),
    "32 indexes of 3.9 MB of texts": _wide(32, lambda name: line(name, "1.0", x=["y"] * 975_000)),
    "32 indexes of 110,000 requirements": _wide(
        32, lambda name: numbered(name, 90, requires=_NEEDS)
    ),
    "a line of 240 MB": lambda name: repeated(
        b"y" * 1000, 240_000, line(name)[:-2] + b',"x":"', b'"}\n'
    ),
    "a line of 120 MB": lambda name: repeated(
        b"y" * 1000, 120_000, line(name)[:-2] + b',"x":"', b'"}\n'
    ),
    "a line of 100 MB, nested": lambda name: repeated(
        b"[" * 1000, 100_000, line(name)[:-2] + b',"x":', b'"}\n'
    ),
    "a yank reason of 120 MB": lambda name: repeated(
        b"y" * 1000, 120_000, line(name)[:-2] + b',"yanked":"', b'"}\n'
    ),
    "a name of 120 MB": lambda name: repeated(
        b"y" * 1000, 120_000, b'{"name":"', line(name)[len('{"name": "evil') :]
    ),
    "a version of 120 MB": lambda name: repeated(
        b"1" * 1000, 120_000, line(name)[:-2] + b',"version":"1.', b'"}\n'
    ),
    "a requirement of 100 MB": lambda name: repeated(
        b"!=1.*," * 100, 160_000, line(name)[:-2] + b',"requires":["tiny', b'!=2"]}\n'
    ),
    "3,900,000 requirements": lambda name: repeated(
        b'"tiny",', 3_900_000, line(name)[:-2] + b',"requires":[', b'"tiny"]}\n'
    ),
    "200,000 requirements of other names": lambda name: (
        b"".join(
            [
                line(name)[:-2],
                b',"requires":[',
                b",".join(b'"n%d>=1.0,<2"' % n for n in range(200_000)),
                b"]}\n",
            ]
        )
        if name == "evil"
        else None
    ),
    "1,000,000 releases": lambda name: numbered(name, 1_000_000),
    "140,000 releases": lambda name: numbered(name, 140_000),
    "140,000 releases that need modpkg 99": lambda name: numbered(
        name, 140_000, requires_modpkg=">=99"
    ),
    "140,000 releases of the same version": lambda name: repeated(line(name), 140_000),
    "1,000,000 bad lines": lambda name: repeated(b"{}\n", 1_000_000),
    "140,000 bad lines": lambda name: repeated(b'{"name":1}\n', 140_000),
    "140,000 lines of spec 2": lambda name: numbered(name, 140_000, spec=2),
    "140,000 lines with a bad reason": lambda name: numbered(name, 140_000, yanked="\x1b[2J"),
    "40,000,000 empty lines": lambda name: repeated(b"\n", 40_000_000),
    "120,000,000 spaces": lambda name: repeated(b" " * 1000, 120_000, line(name)),
    "a chain without end": _chain(1),
    "a tree without end": _chain(60),
    "a tree of 30 versions without end": _chain(3, 30),
    "a chain of 10,000 versions each": _chain(1, 10_000),
    "gzip that unpacks to 1 GB": lambda name: _zipped(line(name) + b" " * 10**9),
}


def _modules(lines: Callable[[], Made]) -> Callable[[World], Any]:
    def files(path: str) -> Made | bytes | None:
        if path == "/registry.json":
            return b'{"spec":1,"name":"evil"}'
        return lines() if path == "/modules.jsonl" else None

    return lambda world: making(files)


_FOUND = dumped({"name": "evil", "version": "1.0", "kind": "base", "summary": "evil"}) + b"\n"
_MODULES: dict[str, Callable[[], Made]] = {
    "600,000 modules": lambda: numbered_modules(600_000),
    "20,000,000 bad lines": lambda: repeated(b"{}\n", 20_000_000),
    "one line of 60 MB": lambda: repeated(b"y" * 1000, 60_000, _FOUND[:-2] + b',"x":"', b'"}\n'),
    "one name 600,000 times": lambda: repeated(_FOUND, 600_000),
    "bases of 60 MB": lambda: repeated(
        b'"y",', 14_000_000, _FOUND[:-2] + b',"bases":[', b'"x"]}\n'
    ),
    "over 64 MB": lambda: repeated(_FOUND, 10_000_000),
}


def numbered_modules(count: int) -> Made:
    """Return lines of many modules."""
    before, after = _FOUND.replace(b'"evil", "v', b'"evil%", "v').split(b"%")
    start = 10**7
    pieces = (
        b"".join(b"%b%d%b" % (before, start + n, after) for n in range(at, min(count, at + 2000)))
        for at in range(0, count, 2000)
    )
    return Made((len(before) + 8 + len(after)) * count, pieces)


def _sizes() -> Iterator[Input]:
    for name, index in _INDEXES.items():
        yield Input("size", name, _registry(index), INSTALL, heavy=True)
    search: Commands = (("search", "evil"),)
    for name, lines in _MODULES.items():
        yield Input("size", f"search: {name}", _modules(lines), search, heavy=True)
    records = {
        "a record of 127 MB": lambda: repeated(b" " * 1000, 127_000, b"{"),
        "a record of 120 MB of text": lambda: repeated(
            b"y" * 1000, 120_000, b'{"spec":1,"name":"', b'"}'
        ),
        "a record of 3,900,000 values": lambda: repeated(
            b"1,", 3_900_000, b'{"spec":1,"x":[', b"1]}"
        ),
        "a record of 3,900,000 lists": lambda: repeated(
            b"[],", 3_900_000, b'{"spec":1,"manifest":{"x":[', b"1]}}"
        ),
    }  # fmt: skip
    for name, record in records.items():
        yield Input("size", name, _recorded(record), INSTALL, heavy=True)


def _recorded(record: Callable[[], Made]) -> Callable[[World], Any]:
    """Return what serves a release whose record is made, with its digest right."""
    import hashlib

    def make(world: World) -> Any:
        digest = hashlib.sha256()
        for piece in record().pieces:
            digest.update(piece)
        release = f"sha256:{digest.hexdigest()}"

        def files(path: str) -> Made | bytes | None:
            if path == "/registry.json":
                return b'{"spec":1,"name":"evil"}'
            if path.startswith("/index/"):
                return line("evil", release=release)
            return record() if path.startswith("/blobs/") else None

        return making(files)

    return make


SIZES = [*_sizes()]
