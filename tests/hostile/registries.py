"""Hostile registries: servers that misbehave, indexes, records, graphs and deltas that lie."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import tiny
from tests.conftest import safetensors_bytes
from tests.hostile.case import INSTALL, Commands, Input, Make
from tests.hostile.world import Json, World, dumped

Talk = Callable[[socket.socket], None]

# Transport ----------------------------------------------------------------------------------


def response(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sends(data: bytes) -> Talk:
    return lambda connection: connection.sendall(data)


def _endless(head: bytes, piece: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return talk


def _trickle(head: bytes, piece: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(2000):
            time.sleep(0.05)
            connection.sendall(piece)

    return talk


def _reset(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


_HEAD = b"HTTP/1.1 200 OK\r\n"
_LONG = _HEAD + b"Content-Length: 100000000000\r\n\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_BOMB = gzip.compress(bytes(50 << 20), 9)
_TALKS: dict[str, Talk] = {
    "closes at once": lambda connection: None,
    "garbage": sends(b"\x00\xff" * 500),
    "another protocol": sends(b"SSH-2.0-OpenSSH_9.0\r\n"),
    "empty": sends(response()),
    "no header": sends(b"HTTP/1.1 200 OK\r\n\r\nabc"),
    "status 999": sends(response(status="999 x")),
    "status without a number": sends(b"HTTP/1.1 abc\r\n\r\n"),
    "401": sends(response(b"", "401 Unauthorized")),
    "403": sends(response(b"", "403 Forbidden")),
    "407": sends(response(b"", "407 Proxy")),
    "416": sends(response(b"", "416 Range")),
    "204": sends(response(b"", "204 No Content")),
    "304": sends(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "206 of nothing": sends(response(b"", "206 Partial", "Content-Range: bytes 0-9/10")),
    "html": sends(response(b"<html><script>alert(1)</script>", "200 OK", "Content-Type: x")),
    "escapes in the reason": sends(response(b"\x1b[2J\x07", "500 \x1b[2J\u202eevil")),
    "a header without an end": _endless(_HEAD + b"X: ", b"a" * 65536),
    "headers without an end": _endless(_HEAD, b"X: y\r\n" * 5000),
    "a negative length": sends(_HEAD + b"Content-Length: -1\r\n\r\nabc"),
    "two lengths": sends(_HEAD + b"Content-Length: 1\r\nContent-Length: 9\r\n\r\nabc"),
    "a length too long": sends(_HEAD + b"Content-Length: 1000\r\n\r\nabc"),
    "a length of 10^30": sends(_HEAD + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\nabc"),
    "a chunk that ends early": sends(_CHUNKED + b"ffffffff\r\nabc"),
    "a chunk of a negative length": sends(_CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n"),
    "a gzip bomb": sends(response(_BOMB, "200 OK", "Content-Encoding: gzip")),
    "a broken gzip": sends(response(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip")),
    "a reset": _reset,
    "nested 100,000 deep": sends(response(b"[" * 100_000)),
    "a redirect to itself": sends(response(b"", "302 Found", "Location: /")),
    "a redirect to a file": sends(response(b"", "302 Found", "Location: file:///etc/passwd")),
    "a redirect to nowhere": sends(response(b"", "302 Found", "Location: ")),
    "a redirect to a user": sends(response(b"", "302 Found", "Location: http://a:b@127.0.0.1:1")),
    "a redirect upward": sends(response(b"", "307 T", "Location: ../../../../x")),
}
_SLOW: dict[str, Talk] = {
    "silence": lambda connection: time.sleep(60),
    "a header that trickles": _trickle(_HEAD + b"X: ", b"a"),
    "a body that trickles": _trickle(_LONG, b" "),
    "chunks that trickle": _trickle(_CHUNKED, b"1\r\n \r\n"),
}
_FLOODS: dict[str, Talk] = {
    "1xx without an end": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "a body without an end": _endless(_LONG, b" " * 65536),
    "chunks without an end": _endless(_CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
}


@contextmanager
def serving(folder: Path, at: str, talk: Talk) -> Iterator[str]:
    """Serve the files of a folder, and whatever ``talk`` sends where ``at`` is in the path."""

    def answer(connection: socket.socket, request: bytes) -> None:
        path = request.split(b" ")[1].decode() if b" " in request else "/"
        if at in path:
            talk(connection)
            return
        file = folder / path.lstrip("/")
        if not file.is_file():
            connection.sendall(response(b"", "404 Not Found"))
            return
        connection.sendall(response(file.read_bytes()))

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                answer(connection, connection.recv(1 << 16))

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _transport() -> Iterator[Input]:
    command: Commands = (("install", "talker"),)
    quick = {
        "modpkg.core.bounds.SILENCE_SECONDS": 1,
        "modpkg.core.bounds.ANSWER_SECONDS": 2,
        "modpkg.core.bounds.SMALL_FILE_SECONDS": 4,
        "modpkg.core.bounds.SMALL_FILE_BYTES": 8 << 20,
    }
    for at, heavy in (("registry.json", True), ("/index/", False), ("/blobs/", True)):
        for name, talk in {**_TALKS, **_SLOW, **_FLOODS}.items():
            slow = name in _SLOW or name in _FLOODS

            def make(world: World, at: str = at, talk: Talk = talk) -> Any:
                return serving(world.registry, at, talk)

            yield Input(
                "transport",
                f"{name} at {at}",
                make,
                command,
                heavy=heavy or slow,
                bounds=quick if slow else {},
            )


_SHOWN: Commands = (("install", "evil"), ("show", "evil"))

# Indexes ------------------------------------------------------------------------------------

_TEXTS: tuple[Any, ...] = (None, 1, [], {}, "", "x" * 5000, "\x1b[2J", "\u202e", "../..", True)
_VERSIONS = ("1.0+local", "9" * 5000, "1!1", "99999!1", "1.0.dev" + "9" * 4000, "v", "1.*", "01")
_REQUIRES: tuple[Any, ...] = (
    [1], "tiny", ["tiny @ file:///etc/passwd"], ["tiny>=1; os_name == 'x'"], ["tiny" * 1000],
    ["tiny>=" + "1." * 2000], ["evil"], ["evil[a]"], ["-r x"], ["tiny[" + "a," * 3000 + "b]"],
    ["tiny===1"], ["tiny>=1,"], ["tiny\x1b[2J"], ["tiny!=1.*" + ",!=1.*" * 500],
)  # fmt: skip


def _lines(field: str, values: tuple[Any, ...], label: str = "") -> Iterator[Input]:
    for number, value in enumerate(values):

        def make(world: World, value: Any = value) -> None:
            world.forge("evil", line={field: value})

        yield Input("index", f"{field} {label}{number}", make, _SHOWN)


def _written(data: Callable[[World], bytes]) -> Make:
    def make(world: World) -> None:
        world.forge("evil")
        (world.registry / "index" / "evil.jsonl").write_bytes(data(world))

    return make


def _line(world: World) -> bytes:
    return (world.registry / "index" / "evil.jsonl").read_bytes()


def _numbered(world: World, count: int, **more: Any) -> bytes:
    line = json.loads(_line(world))
    return b"".join(dumped(line | {"version": f"1.{n}"} | more) + b"\n" for n in range(count))


_INDEXES: dict[str, Callable[[World], bytes]] = {
    "empty": lambda world: b"",
    "zeros": lambda world: bytes(100_000),
    "no JSON": lambda world: b"<html>\n" * 1000,
    "nested": lambda world: b"[" * 200_000,
    "a huge number": lambda world: _line(world)[:-2] + b',"x":' + b"9" * 100_000 + b"}\n",
    "the same version twice": lambda world: _line(world) * 2,
    "the same version in other words": lambda world: (
        _line(world) + _line(world).replace(b'"1.0"', b'"1.0.0"')
    ),
    "20,000 bad lines": lambda world: b'{"name": 1}\n' * 20_000 + _line(world),
    "20,000 lines of another name": lambda world: (
        _line(world).replace(b'"evil"', b'"other"') * 20_000 + _line(world)
    ),
    "20,000 lines of spec 2": lambda world: _numbered(world, 20_000, spec=2) + _line(world),
    "5,000 versions": lambda world: _numbered(world, 5000),
    "no line feed": lambda world: _line(world).rstrip(),
    "carriage returns": lambda world: _line(world).replace(b"\n", b"\r\n"),
    "half a surrogate": lambda world: _line(world).replace(b'"MIT"', b'"\\ud800"'),
    "a byte order mark": lambda world: b"\xef\xbb\xbf" + _line(world),
    "latin-1": lambda world: b"\xe9" + _line(world),
    "a key twice": lambda world: _line(world).replace(b"{", b'{"name":"x",', 1),
    "a line of 5 MB": lambda world: _line(world)[:-2] + b',"x":"' + b"a" * 5_000_000 + b'"}\n',
}


def _indexes() -> Iterator[Input]:
    for field in ("name", "version", "release", "kind", "published", "yanked"):
        yield from _lines(field, _TEXTS)
    yield from _lines("version", _VERSIONS, "spelled ")
    yield from _lines("requires", _REQUIRES)
    yield from _lines("extras", ([], {"a": 1}, {"\x1b": []}, {"a" * 5000: []}, {"a": ["evil[a]"]}))
    yield from _lines("size", (-1, 2**62, 2**64, 1.5, "1"))
    yield from _lines("requires_modpkg", (">=99", "x", ">=" + "1." * 3000, "\x1b[2J"))
    for name, data in _INDEXES.items():
        yield Input("index", name, _written(data), INSTALL)
    for name, text in {
        "nothing": b"", "a list": b"[]", "spec 99": b'{"name":"r","spec":99}',
        "escapes": b'{"name":"\\u001b[2J","spec":1}', "a huge name": dumped({"name": "a" * 10**6}),
        "an api": b'{"name":"r","spec":1,"api":"file:///etc/passwd"}', "nested": b"[" * 10**5,
    }.items():  # fmt: skip

        def make(world: World, text: bytes = text) -> None:
            world.forge("evil")
            (world.registry / "registry.json").write_bytes(text)

        yield Input("index", f"registry.json: {name}", make, INSTALL)


# Records ------------------------------------------------------------------------------------

_DIGEST = "sha256:" + "0" * 64
_FIELDS: dict[str, tuple[Any, ...]] = {
    "spec": (0, 99, "1", 1.5),
    "license": ("\x1b[2J", "(" * 5000, "MIT OR " * 400 + "MIT", "", 1),
    "summary": ("\x1b]0;x\x07", "\u202e", "a\nb", "x" * 3000),
    "manifest": ({}, [], {"module": {}}, {"module": 1}, {"task": {"kind": "\x1b"}},
                 {"compose": {"base": "evil", "steps": []}}, {"module": {"kind": "model"}}),
    "files": ({"config.json": {"digest": _DIGEST, "size": 1}}, {"a": {}}, {"": {}}, [],
              {"config.json": {"digest": "sha256:x", "size": 1}},
              {"config.json": {"digest": _DIGEST, "size": 2**62}}),
    "packs": ({_DIGEST: 100}, {"x": 1}, {_DIGEST: -1}, {_DIGEST: 2**62}),
    "tensors": ({"a": {}}, {"a": {"dtype": "F32", "shape": [1], "digest": _DIGEST,
                                  "pack": _DIGEST, "offset": 0, "length": 4}}),
    "provides": (_DIGEST, "x", 1),
    "expects": ({"tiny": _DIGEST}, {"\x1b": _DIGEST}),
    "provenance": ({}, {"built_with": "\x1b[2J"}, {"built_with": "x", "built_from": [{}]}),
    "requires_modpkg": (">=99", "\x1b", "x"),
    "sources": ({_DIGEST: {}}, []),
}  # fmt: skip


def _changed(change: Callable[[Json], None], weights: bool = True) -> Make:
    """Return what forges a release of one pack, with its record changed."""

    def make(world: World) -> None:
        packs, tensors = world.packed(tiny.base_weights()) if weights else ({}, {})
        record: Json = {"packs": packs, "tensors": tensors}
        change(record)
        config = dumped(tiny.CONFIG)
        world.forge("evil", files={"config.json": config}, record=record)

    return make


def _every(**changes: Any) -> Callable[[Json], None]:
    def change(record: Json) -> None:
        for tensor in record["tensors"].values():
            tensor.update(changes)

    return change


def _one(**changes: Any) -> Callable[[Json], None]:
    return lambda record: record["tensors"]["model.norm.weight"].update(changes)


def _swapped(record: Json) -> None:
    first, second = list(record["tensors"].values())[:2]
    first["offset"], second["offset"] = second["offset"], first["offset"]


def _many(record: Json) -> None:
    entry = record["tensors"]["model.norm.weight"]
    record["tensors"] |= {f"t{n}": copy.deepcopy(entry) for n in range(20_000)}


def _huge(record: Json) -> None:
    """Claim terabytes in a pack of kilobytes."""
    record["packs"] = dict.fromkeys(record["packs"], 2**50)
    _one(shape=[2**40], length=2**42)(record)


_CHANGES: dict[str, Callable[[Json], None]] = {
    "another shape": _one(shape=[4, 2]),
    "a shape of 17 extents": _one(shape=[1] * 17),
    "a shape of 2^62": _one(shape=[2**62]),
    "a shape that overflows": _one(shape=[2**40, 2**40]),
    "a negative shape": _one(shape=[-8]),
    "an unknown dtype": _one(dtype="F1024"),
    "another dtype": _one(dtype="I32"),
    "half a byte": _one(dtype="F4", shape=[1]),
    "an offset behind the pack": _one(offset=2**40),
    "an offset in the header": _one(offset=0),
    "an odd offset": _one(offset=1001),
    "the length of another": _one(length=8),
    "another digest": _one(digest=_DIGEST),
    "the same bytes for all": _every(offset=1024, length=32, shape=[8]),
    "swapped": _swapped,
    "20,000 of one digest": _many,
    "terabytes": _huge,
    "no pack": lambda record: record.update(packs={}),
    "a pack of another length": lambda record: record.update(
        packs=dict.fromkeys(record["packs"], 100)
    ),
    "a pack nobody has": lambda record: record["packs"].update({_DIGEST: 100}),
    "names with escapes": lambda record: record["tensors"].update(
        {"\x1b[2J": record["tensors"].pop("model.norm.weight")}
    ),
    "a name of 100,000 letters": lambda record: record["tensors"].update(
        {"a" * 100_000: record["tensors"].pop("model.norm.weight")}
    ),
}


def _records() -> Iterator[Input]:
    for field, values in _FIELDS.items():
        for number, value in enumerate(values):

            def make(world: World, field: str = field, value: Any = value) -> None:
                world.forge("evil", record={field: value}, line={"provides": None, "expects": {}})

            yield Input("record", f"{field} {number}", make, _SHOWN)
    for name, change in _CHANGES.items():
        yield Input("record", name, _changed(change), INSTALL)
    for name, raw in {
        "empty": b"", "a list": b"[]", "nested": b"[" * 10**6, "zeros": bytes(10**6),
        "a key twice": b'{"name":"evil","name":"other"}', "a pickle": b"\x80\x04K\x01.",
        "a huge number": b'{"spec":' + b"9" * 10**6 + b"}",
    }.items():  # fmt: skip

        def make_raw(world: World, raw: bytes = raw) -> None:
            world.forge("evil", raw=raw)

        yield Input("record", f"raw: {name}", make_raw, INSTALL)


# Graphs -------------------------------------------------------------------------------------


def _graph(requires: Callable[[World], dict[tuple[str, str], list[str]]]) -> Make:
    """Return what writes index lines by name and version; the releases are one record."""

    def make(world: World) -> None:
        for (name, version), needs in requires(world).items():
            record = {"kind": "collection", "requires": needs}
            module = {"kind": "collection", "license": "MIT", "name": name, "version": version}
            record["manifest"] = {"module": module, "dependencies": needs}
            world.forge(name, version, record=record)

    return make


def _chain(count: int) -> dict[tuple[str, str], list[str]]:
    names = ["evil", *(f"n{n}" for n in range(count))]
    return {(name, "1.0"): [after] for name, after in itertools.pairwise(names)} | {
        (names[-1], "1.0"): []
    }


def _pigeons(count: int) -> dict[tuple[str, str], list[str]]:
    graph: dict[tuple[str, str], list[str]] = {
        ("evil", "1.0"): [f"p{pigeon}" for pigeon in range(count)]
    }
    for pigeon, hole in itertools.product(range(count), range(1, count)):
        others = [f"h{hole}x{n}=={1 + (n == pigeon)}.0" for n in range(count)]
        graph[f"p{pigeon}", f"{hole}.0"] = others
        graph |= {(f"h{hole}x{n}", f"{v}.0"): [] for n in range(count) for v in (1, 2)}
    return graph


def _layers(width: int, depth: int) -> dict[tuple[str, str], list[str]]:
    """Return a graph with width^depth paths."""
    graph: dict[tuple[str, str], list[str]] = {("evil", "1.0"): [f"l0x{n}" for n in range(width)]}
    for layer, place in itertools.product(range(depth), range(width)):
        after = [f"l{layer + 1}x{n}" for n in range(width)] if layer + 1 < depth else []
        graph[f"l{layer}x{place}", "1.0"] = after
    return graph


_Graph = Callable[[World], dict[tuple[str, str], list[str]]]
_GRAPHS: dict[str, _Graph] = {
    "itself": lambda world: {("evil", "1.0"): ["evil"]},
    "another version of itself": lambda world: {("evil", "1.0"): ["evil>1"]},
    "a circle": lambda world: {("evil", "1.0"): ["b"], ("b", "1.0"): ["evil"]},
    "a circle of extras": lambda world: {("evil", "1.0"): ["evil[a]"]},
    "nobody": lambda world: {("evil", "1.0"): ["nobody"]},
    "300 in a row": lambda world: _chain(300),
    "300 beside each other": lambda world: {
        ("evil", "1.0"): [f"n{n}" for n in range(300)], **{(f"n{n}", "1.0"): [] for n in range(300)}
    },
    "pigeons": lambda world: _pigeons(4),
    "2^40 paths": lambda world: _layers(2, 40),
    "bounds that exclude all": lambda world: {("evil", "1.0"): ["tiny>5,<4", "tiny!=1.*"]},
    "every version needs another": lambda world: {
        ("evil", f"{n}.0"): [f"evil2=={n}.0"] for n in range(40)
    } | {("evil2", f"{n}.0"): [f"evil=={n + 1}.0"] for n in range(40)},
}  # fmt: skip


def _graphs() -> Iterator[Input]:
    for name, requires in _GRAPHS.items():
        yield Input("graph", name, _graph(requires), INSTALL)
        if name in ("300 in a row", "2^40 paths"):
            yield Input("graph", f"{name}: tree", _graph(requires), (*INSTALL, ("tree",)))
            yield Input("graph", f"{name}: why", _graph(requires), (*INSTALL, ("why", "evil")))
    chain, pigeons = _graph(lambda world: _chain(1500)), _graph(lambda world: _pigeons(8))
    yield Input("graph", "1,500 in a row", chain, INSTALL, heavy=True)
    yield Input("graph", "8 pigeons", pigeons, INSTALL, heavy=True)


# Deltas -------------------------------------------------------------------------------------


def _frame(size: int, blocks: bytes = b"") -> bytes:
    """Return a zstd frame that claims a size; by itself, it holds one block of one byte each."""
    head = b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", size)
    return head + (blocks or struct.pack("<I", 1 | 1 << 1 | (128 << 10) << 3)[:3] + b"\0")


def _encoded(payload: bytes, shape: list[int], method: str = "planes", **more: Any) -> Make:
    """Return what forges a release with one encoded tensor, whose pack has any bytes."""

    def make(world: World) -> None:
        pack = safetensors_bytes({"x": ("U8", [len(payload)], payload)})
        digest = world.blob(pack)
        entry = {
            "dtype": "F32", "shape": shape, "digest": _DIGEST, "pack": digest,
            "offset": len(pack) - len(payload), "length": len(payload),
            "encoding": {"method": method},
        }  # fmt: skip
        entry |= more
        record = {"packs": {digest: len(pack)}, "tensors": {"model.norm.weight": entry}}
        world.forge("evil", files={"config.json": dumped(tiny.CONFIG)}, record=record)

    return make


def _chained(count: int) -> Make:
    """Return what forges tensors that are decoded on one another, in a circle."""

    def make(world: World) -> None:
        payload = _frame(32)
        pack = safetensors_bytes({"x": ("U8", [len(payload)], payload)})
        digest = world.blob(pack)
        names = [f"sha256:{n:064x}" for n in range(count)]
        sources = {
            name: {
                "dtype": "F32", "shape": [8], "digest": name, "pack": digest,
                "offset": len(pack) - len(payload), "length": len(payload),
                "encoding": {"method": "difference", "base": after},
            }
            for name, after in zip(names, names[1:] + names[:1], strict=True)
        }  # fmt: skip
        tensors = {"a": sources.pop(names[0])}
        record = {"packs": {digest: len(pack)}, "tensors": tensors, "sources": sources}
        world.forge("evil", record=record)

    return make


def _deltas() -> Iterator[Input]:
    rle = struct.pack("<I", 1 << 1 | (128 << 10) << 3)[:3] + b"\0"
    for name, make in {
        "4 GB of 131 kB": _encoded(_frame(2**32, rle * 32000 + b"\x01\0\0"), [2**30]),
        "a window of 2 GB": _encoded(b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\0\0", [8]),
        "a size of 2^63": _encoded(_frame(2**63), [8]),
        "a shape of 2^60": _encoded(_frame(2**62), [2**60]),
        "no frame": _encoded(b"abcdefgh", [8]),
        "no bytes": _encoded(b"", [8]),
        "a frame cut off": _encoded(_frame(32)[:10], [8]),
        "a frame that goes on": _encoded(_frame(32) + b"x" * 100, [8]),
        "a skippable frame": _encoded(b"\x50\x2a\x4d\x18\xff\xff\xff\x7f", [8]),
        "blocks of nothing": _encoded(_frame(32, b"\0\0\0" * 100_000 + b"\x01\0\0"), [8]),
        "sparse without a base": _encoded(_frame(32), [8], "sparse"),
        "a base nobody has": _encoded(
            _frame(32), [8], encoding={"method": "difference", "base": _DIGEST}
        ),
        "an unknown method": _encoded(_frame(32), [8], "other"),
        "on itself": _chained(1),
        "a circle": _chained(3),
        "a chain of 1,000": _chained(1000),
    }.items():
        yield Input("delta", name, make, INSTALL)


REGISTRIES = [*_transport(), *_indexes(), *_records(), *_graphs(), *_deltas()]
