"""Contents of invalid.json, normal.json and fits.json: inputs and their expected results.

Codes and fits are written by hand, not computed; the tests compare the code with them.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

A, B, C = ("sha256:" + digit * 64 for digit in "abc")

Case = dict[str, Any]


def _case(input: Any, code: str, why: str) -> Case:
    return {"input": input, "code": code, "why": why}


def _line(**changes: Any) -> str:
    return json.dumps({"name": "m", "version": "1.0", "kind": "base", "release": A} | changes)


def _record(**changes: Any) -> dict[str, Any]:
    sound: dict[str, Any] = {
        "name": "m",
        "version": "1.0",
        "kind": "base",
        "license": "MIT",
        "manifest": {},
        "provenance": {"built_with": "hand"},
    }
    return sound | changes


def _origin(**changes: Any) -> dict[str, Any]:
    return {"name": "b", "version": "1.0", "release": A} | changes


def _tensor(**changes: Any) -> dict[str, Any]:
    entry = {"dtype": "U8", "shape": [4], "digest": A, "pack": B, "offset": 64, "length": 4}
    return _record(packs={B: 68}, tensors={"t": entry | changes})


def _digest(number: int) -> str:
    return f"sha256:{number:064x}"


def _changed(
    chain: list[int], sources: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a record of one tensor that is decoded on ``chain``, whose last tensor is plain."""
    entries: dict[str, Any] = {}
    for number, base in zip([0, *chain], [*chain, None], strict=True):
        entry: Case = {"dtype": "BF16", "shape": [2, 4], "digest": _digest(number), "pack": B}
        if base is None:
            entries[_digest(number)] = entry | {"offset": 64, "length": 16}
        else:
            encoding = {"method": "difference", "base": _digest(base)}
            entries[_digest(number)] = entry | {"offset": 80, "length": 9, "encoding": encoding}
    tensor = entries.pop(_digest(0)) | changes
    return _record(packs={B: 89}, tensors={"t": tensor}, sources=entries | (sources or {}))


def _plain(number: int, **changes: Any) -> dict[str, Any]:
    """Return an entry of a plain tensor, of the dtype and shape that `_changed` uses."""
    entry = {"dtype": "BF16", "shape": [2, 4], "digest": _digest(number), "pack": B}
    return entry | {"offset": 64, "length": 16} | changes


def _frame(content: bytes) -> bytes:
    """Return a zstd frame of at most 255 bytes that compresses nothing."""
    block = (len(content) << 3 | 1).to_bytes(3, "little") + content
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(content)]) + block


def _payload(method: str, payload: bytes, base: bytes | None = None, **changes: Any) -> Any:
    return {
        "method": method,
        "dtype": "U16",
        "length": 8,
        "base": None if base is None else base.hex(),
        "payload": payload.hex(),
    } | changes


_OLD = bytes([0, 1, 2, 3, 4, 5, 6, 7])

DECODED: list[Case] = [
    {
        "why": "planes: the first bytes of all elements, then the second ones",
        "input": _payload("planes", _frame(bytes([1, 2, 3, 4, 5, 6, 7, 8]))),
        "tensor": "0105020603070408",
    },
    {
        "why": "difference: planes of tensor - base + 0x0080, modulo 65536",
        "input": _payload(
            "difference", _frame(bytes([0x81, 0x7F, 0x80, 0x80, 0, 0, 0xFF, 2])), _OLD
        ),
        "tensor": "0101010304040609",
    },
    {
        "why": "sparse: the elements 1 and 3 differ, by 0x0102 and by -1",
        "input": _payload(
            "sparse",
            _frame(bytes([2, 0, 0, 0, 1, 1, 0, 0, 0x82, 0x7F, 1, 0])),
            _OLD,
        ),
        "tensor": "0001040404050507",
    },
    {
        "why": "sparse: no element is new",
        "input": _payload("sparse", _frame(bytes(4)), _OLD),
        "tensor": "0001020304050607",
    },
    {
        "why": "planes of elements of 4 bytes",
        "input": _payload("planes", _frame(bytes([1, 5, 2, 6, 3, 7, 4, 8])), dtype="F32"),
        "tensor": "0102030405060708",
    },
]
"""Payloads of encoded tensors, with the decoded bytes."""


def _pack(header: Any, data: bytes = b"", length: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(text) if length is None else length
    return (struct.pack("<Q", claimed) + text + data).hex()


def _entry(begin: int, end: int, shape: list[int], dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _lock(body: str = "", head: str = "spec = 1\nrequirements = []\n") -> str:
    return head + body


_MODULE = (
    f'[[module]]\nname = "m"\nversion = "1.0"\nkind = "base"\nregistry = "r"\nrelease = "{A}"\n'
)

_ROOT = base64.b64encode(bytes(32)).decode()


def _note(
    origin: str = "models.example/log", size: str = "1", root: str = _ROOT, end: str = "\n"
) -> str:
    signature = base64.b64encode(bytes(68)).decode()
    return f"{origin}\n{size}\n{root}\n\n\N{EM DASH} models.example/log {signature}{end}"


CASES: dict[str, list[Case]] = {
    "names": [
        _case("", "M101", "empty"),
        _case("-m", "M101", "begins with a hyphen"),
        _case("m.", "M101", "ends with a full stop"),
        _case("a/b", "M101", "has a slash"),
        _case("..", "M101", "climbs"),
        _case("a b", "M101", "has a space"),
        _case("modèle", "M101", "has a letter beyond ASCII"),
        _case("m\n", "M101", "ends with a line break"),
        _case("m" * 101, "M101", "longer than 100 characters"),
    ],
    "versions": [
        _case("", "M102", "empty"),
        _case("latest", "M102", "a word"),
        _case("1.0-alpha-beta", "M102", "not PEP 440"),
        _case("1.0+local", "M102", "has a local part"),
        _case("10000!1.0", "M102", "its epoch is over 9999"),
        _case("1." + "0." * 50 + "1", "M102", "longer than 100 characters"),
    ],
    "requirements": [
        _case("", "M103", "empty"),
        _case("m 1.0", "M103", "no operator"),
        _case("m >= ", "M103", "no version"),
        _case("m>=1.0+x", "M103", "a local part with an ordering"),
        _case("m @ https://example.org/m", "M103", "an address"),
        _case("m>=1; python_version > '3'", "M103", "an environment marker"),
        _case("m@^x", "M103", "no version after the caret"),
        _case("m>=1" + ".0" * 500, "M103", "longer than 1000 characters"),
    ],
    "digests": [
        _case("", "M104", "empty"),
        _case("a" * 64, "M104", "no algorithm"),
        _case("sha256:" + "a" * 63, "M104", "a digit too few"),
        _case("sha256:" + "A" * 64, "M104", "upper case"),
        _case("sha512:" + "a" * 64, "M104", "another algorithm"),
        _case("sha256:../" + "a" * 61, "M104", "a path"),
        _case(A + "\n", "M104", "ends with a line break"),
    ],
    "paths": [
        _case("", "M105", "empty"),
        _case("/etc/passwd", "M105", "absolute"),
        _case("../m", "M105", "climbs"),
        _case("a/../b", "M105", "climbs inside"),
        _case("./a", "M105", "has '.'"),
        _case("a//b", "M105", "has an empty part"),
        _case("a/", "M105", "ends with a slash"),
        _case("C:/a", "M105", "has a drive"),
        _case("a\\b", "M105", "has a backslash"),
        _case("a\u0000", "M105", "has a NUL"),
        _case("a\nb", "M105", "has a line break"),
        _case("a.", "M105", "a part ends with a full stop"),
        _case("a /b", "M105", "a part ends with a space"),
        _case(".envrc", "M105", "hidden"),
        _case("a/.git/config", "M105", "in a hidden folder"),
        _case("nul.txt", "M105", "a name that Windows reserves"),
        _case("a" * 513, "M105", "longer than 512 bytes"),
    ],
    "packs": [
        _case("", "M201", "empty"),
        _case("0000", "M201", "shorter than 8 bytes"),
        _case(b"\x80\x04\x95\x00\x00\x00\x00\x00.".hex(), "M201", "a pickle"),
        _case(b"PK\x03\x04\x00\x00\x00\x00\x00\x00".hex(), "M201", "a zip archive"),
        _case(_pack(b"{}", length=100_000_001), "M201", "header claims over 100 000 000 bytes"),
        _case(_pack(b"{}", length=3), "M201", "header goes beyond the file"),
        _case(_pack(b"{"), "M201", "header is not JSON"),
        _case(_pack(b"[]"), "M201", "header is no object"),
        _case(_pack(b'{"t":{}}'), "M201", "entry without its keys"),
        _case(
            _pack({"t": _entry(0, 4, [4]) | {"x": 1}}, b"1234"), "M201", "entry with another key"
        ),
        _case(_pack({"t": _entry(0, 4, [4], "Q7")}, b"1234"), "M201", "unknown dtype"),
        _case(_pack({"t": _entry(0, 4, [-4])}, b"1234"), "M201", "negative extent"),
        _case(_pack({"t": _entry(0, 1, [1] * 17)}, b"1"), "M201", "more than 16 axes"),
        _case(_pack({"t": _entry(0, 3, [4])}, b"123"), "M201", "fewer bytes than its shape needs"),
        _case(_pack({"t": _entry(1, 4, [3])}, b"1234"), "M201", "a gap before the first tensor"),
        _case(
            _pack({"t": _entry(0, 3, [3]), "u": _entry(2, 4, [2])}, b"1234"), "M201", "an overlap"
        ),
        _case(_pack({"t": _entry(4, 0, [4])}, b"1234"), "M201", "ends before it begins"),
        _case(_pack({"t": _entry(0, 4, [4])}, b"12345"), "M201", "bytes after the last tensor"),
        _case(_pack({"t": _entry(0, 4, [4])}, b"123"), "M201", "the file is cut short"),
    ],
    "registries": [
        _case("", "M209", "empty"),
        _case("[]", "M209", "no object"),
        _case('{"spec": 1}', "M209", "no name"),
        _case('{"spec": "1", "name": "r"}', "M209", "spec is a string"),
        _case('{"spec": 2, "name": "r"}', "M303", "a newer spec"),
    ],
    "index-lines": [
        _case("{broken", "M209", "not JSON"),
        _case("[]", "M209", "no object"),
        _case(_line(kind="plugin"), "M209", "no such kind"),
        _case(_line(release="sha256:0"), "M209", "release is no digest"),
        _case(_line(provides="x"), "M209", "provides is no digest"),
        _case(_line(expects={"b": "x"}), "M209", "expects is no digest"),
        _case(_line(requires="b>=1"), "M209", "requires is a string"),
        _case(_line(size=-1), "M209", "negative size"),
        _case(_line(size=2**63), "M209", "size beyond 2**62"),
        _case(_line(version="one"), "M102", "no version"),
        _case(_line(version="1.0+x"), "M102", "local version"),
        _case(_line(name="-"), "M101", "no name"),
    ],
    "indexes": [
        _case(_line() + "\n" + _line(version="1.0.0") + "\n", "M209", "1.0 and 1.0.0 are equal"),
        _case(_line() + "\n" + _line() + "\n", "M209", "the same line twice"),
    ],
    "records": [
        _case({}, "M209", "nothing in it"),
        _case(_record(spec=2), "M209", "a newer spec"),
        _case(_record(name="M"), "M209", "its name is not in normal form"),
        _case(_record(name="../m"), "M209", "its name is none"),
        _case(_record(version="x"), "M209", "its version is none"),
        _case(_record(kind="plugin"), "M209", "no such kind"),
        _case(_record(requires=["b 1"]), "M209", "no requirement"),
        _case(_record(extras={"x": ["b @ https://b.example"]}), "M209", "an address in an extra"),
        _case(_record(requires_modpkg="new"), "M209", "requires_modpkg is no specifier"),
        _case(_record(files={"../x": {"digest": A, "size": 1}}), "M209", "a file that climbs"),
        _case(_record(files={"x.py": {"digest": A, "size": 1}}), "M209", "a file that is code"),
        _case(
            _record(files={"x.pkl": {"digest": A, "size": 1}}), "M209", "a file that is a pickle"
        ),
        _case(
            _record(files={"pytorch_model.bin": {"digest": A, "size": 1}}),
            "M209",
            "weights that are a pickle",
        ),
        _case(
            _record(files={"a": {"digest": A, "size": 1}, "A": {"digest": B, "size": 1}}),
            "M209",
            "two files that differ only by case",
        ),
        _case(_record(files={"a": {"digest": A, "size": -1}}), "M209", "a negative size"),
        _case(
            _record(provenance={"built_with": "hand", "built_from": [_origin(relation="stolen")]}),
            "M209",
            "no such relation",
        ),
        _case(
            _record(provenance={"built_with": "hand", "built_from": [_origin(release="x")]}),
            "M209",
            "an origin without a digest",
        ),
        _case(
            _record(provenance={"built_with": "hand", "built_from": [_origin(name="../b")]}),
            "M209",
            "an origin whose name is none",
        ),
        _case(
            _record(provenance={"built_with": "hand", "breaking": "a\nb"}),
            "M209",
            "a reason of two lines",
        ),
        _case(_record(packs={"x": 1}), "M209", "a pack without a digest"),
        _case(_tensor(pack=C), "M209", "a tensor in a pack that is not listed"),
        _case(_tensor(dtype="Q7"), "M209", "a tensor of unknown dtype"),
        _case(_tensor(offset=65), "M209", "a tensor that ends after its pack"),
        _case(_tensor(offset=2**63), "M209", "an offset beyond 2**62"),
        _case(_tensor(shape=[1] * 17), "M209", "more than 16 axes"),
        _case(_tensor(digest="sha256:"), "M209", "a tensor without a digest"),
        _case(_tensor(length=3), "M209", "a plain tensor shorter than its shape needs"),
        _case(_record(packs={B: 68}), "M209", "a pack in which no tensor lies"),
        _case(_changed([1, 2, 3, 4, 5]), "M209", "decoded on five tensors in a row"),
        _case(
            _changed([1], encoding={"method": "difference", "base": _digest(0)}) | {"sources": {}},
            "M209",
            "decoded on itself",
        ),
        _case(
            _changed([1, 2], {_digest(2): _changed([1])["tensors"]["t"] | {"digest": _digest(2)}}),
            "M209",
            "decoded on two tensors that are decoded on each other",
        ),
        _case(_changed([1]) | {"sources": {}}, "M209", "decoded on a tensor that is not there"),
        _case(_changed([1], dtype="F16"), "M209", "decoded on a tensor of another dtype"),
        _case(_changed([1], shape=[8]), "M209", "decoded on a tensor of another shape"),
        _case(
            _changed([1], encoding={"method": "difference"}),
            "M209",
            "difference with no earlier tensor",
        ),
        _case(
            _changed([1], encoding={"method": "planes", "base": _digest(1)}),
            "M209",
            "planes with an earlier tensor",
        ),
        _case(_changed([1], encoding={"method": "gzip"}), "M209", "no such method"),
        _case(_changed([1], length=16, offset=70), "M209", "as long encoded as it is plain"),
        _case(_changed([1], length=0), "M209", "encoded in no bytes"),
        _case(_changed([1], {_digest(2): _plain(2)}), "M209", "a source of nothing"),
        _case(_changed([1], {_digest(1): _plain(2)}), "M209", "a source under another's digest"),
        _case(
            _changed([1], {_digest(1): _plain(1, pack=C)}),
            "M209",
            "a source in a pack that is not listed",
        ),
        _case(
            _changed([1]) | {"tensors": {"t": _changed([1])["tensors"]["t"], "u": _plain(1)}},
            "M209",
            "a source that is a tensor of the release too",
        ),
        _case(
            _changed([1]) | {"tensors": {"t": _changed([1])["tensors"]["t"], "u": _plain(0)}},
            "M209",
            "equal tensors, one of them encoded",
        ),
    ],
    "payloads": [
        _case(_payload("planes", b""), "M212", "empty"),
        _case(_payload("planes", bytes(8)), "M212", "no zstd frame"),
        _case(_payload("planes", _frame(bytes(7))), "M212", "a byte too few"),
        _case(_payload("planes", _frame(bytes(9))), "M212", "a byte too many"),
        _case(_payload("planes", _frame(bytes(8))[:-1]), "M212", "cut short"),
        _case(_payload("planes", _frame(bytes(8)) + b"\0"), "M212", "a byte after the frame"),
        _case(_payload("planes", _frame(bytes(8)) * 2), "M212", "two frames"),
        _case(
            _payload("planes", b"\x28\xb5\x2f\xfd\x00\x58\x41\0\0" + bytes(8)),
            "M212",
            "a frame that does not say its size",
        ),
        _case(
            _payload(
                "planes",
                b"\x28\xb5\x2f\xfd\x80\x70\x08\0\0\0\x41\0\0" + bytes(8),
            ),
            "M212",
            "a window of 16 MiB",
        ),
        _case(
            _payload("planes", b"\x28\xb5\x2f\xfd\x21\x07\x08\x41\0\0" + bytes(8)),
            "M212",
            "a dictionary",
        ),
        _case(_payload("planes", _frame(bytes(8)), _OLD), "M212", "planes with an earlier tensor"),
        _case(
            _payload("difference", _frame(bytes(8))), "M212", "difference without an earlier tensor"
        ),
        _case(_payload("difference", _frame(bytes(8)), _OLD[:6]), "M212", "another length"),
        _case(_payload("gzip", _frame(bytes(8)), _OLD), "M212", "no such method"),
        _case(
            _payload("sparse", _frame(bytes([1, 0, 0, 0, 4, 0, 0, 0])), _OLD),
            "M212",
            "an element after the last",
        ),
        _case(
            _payload("sparse", _frame(bytes([2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0])), _OLD),
            "M212",
            "a second element after the last",
        ),
        _case(
            _payload("sparse", _frame(bytes([5, 0, 0, 0]) + bytes(20)), _OLD),
            "M212",
            "more changes than elements",
        ),
        _case(
            _payload("sparse", _frame(bytes([1, 0, 0, 0, 0, 0, 0])), _OLD),
            "M212",
            "a value is cut short",
        ),
        _case(
            _payload("sparse", _frame(bytes([0, 0, 0, 0, 0])), _OLD),
            "M212",
            "a byte after the changes",
        ),
    ],
    "locks": [
        _case("spec = ", "M410", "not TOML"),
        _case("spec = 1\n", "M410", "no requirements"),
        _case(_lock(head="spec = 2\nrequirements = []\n"), "M410", "a newer spec"),
        _case(_lock("other = 1\n"), "M410", "an unknown key"),
        _case(_lock('[resolution]\nstrategy = "new"\n'), "M410", "no such strategy"),
        _case(_lock('[resolution]\ncutoff = "2026-01-01"\n'), "M410", "a cut-off without time"),
        _case(_lock(_MODULE + _MODULE), "M410", "a name twice"),
        _case(_lock(_MODULE.replace('"m"', '"M"')), "M410", "a name not in normal form"),
        _case(_lock(_MODULE.replace('"1.0"', '"x"')), "M410", "no version"),
        _case(_lock(_MODULE.replace("sha256", "md5")), "M410", "no digest"),
        _case(_lock(_MODULE + 'url = "https://r.example"\n'), "M410", "an address"),
        _case(_lock(f'[[registry]]\naddress = "a"\nroot = "{A}"\n'), "M410", "no snapshot"),
        _case(_lock('[[registry]]\naddress = "a"\nlog = "a/log"\n'), "M410", "a log without a key"),
    ],
    "checkpoints": [
        _case(_note(end=""), "M550", "a signature that is cut short"),
        _case(_note(size="01"), "M550", "a size that begins with zero"),
        _case(_note(size="-1"), "M550", "a size below zero"),
        _case(_note(size="100000001"), "M550", "more entries than a log can have"),
        _case(_note(origin="a log"), "M550", "an origin with a space"),
        _case(_note(root="AAAA"), "M550", "a root of three bytes"),
        _case(_note(root=_ROOT.replace("=", "")), "M550", "a root without padding"),
        _case(_note(root=f"{_ROOT}\nmore"), "M550", "a line after the root"),
        _case(_note().replace("\n\n", "\n"), "M550", "no empty line"),
        _case(_note().replace("\N{EM DASH}", "-"), "M550", "a signature with a hyphen"),
        _case(_note() * 2, "M550", "several notes in one"),
    ],
}
"""By section: invalid inputs, each with the error's code and the problem."""

NORMAL: dict[str, Any] = {
    "names": {
        "Summarize_LoRA": "summarize-lora",
        "a.-_b": "a-b",
        "m": "m",
        "3d": "3d",
    },
    "requirements": {
        "M": "m",
        "m@latest": "m",
        "m@2.1": "m==2.1",
        "m@^2.1": "m>=2.1,<3",
        "m@^0.3.1": "m>=0.3.1,<0.4",
        "m@~2.1": "m~=2.1",
        "m@~2": "m>=2,<3",
        "M_x[B,a] >= 1, < 2": "m-x[a,b]>=1,<2",
    },
    "equal_versions": [
        ["1.0", "1.0.0"],
        ["1.0rc1", "1.0c1"],
        ["v1", "1.0"],
        ["1.0.post1", "1.0-1"],
    ],
}
"""Spellings and their normal form, and versions that are one version."""


def _fit(
    why: str,
    fit: str,
    *,
    shape: list[int] | None = None,
    dtype: str = "F32",
    digest: str = A,
    offered: dict[str, Any] | None = None,
    wanted: dict[str, Any] | None = None,
    name: str = "w",
    **outcome: Any,
) -> Case:
    return {
        "why": why,
        "expects": {
            "tensors": {"w": {"dtype": "F32", "shape": [2, 2], "digest": A}},
            "ports": wanted or {},
        },
        "provides": {
            "tensors": {name: {"dtype": dtype, "shape": shape or [2, 2]}},
            "ports": offered or {},
        },
        "digests": {name: digest},
        "outcome": {"fit": fit, **outcome},
    }


FITS: list[Case] = [
    _fit("the same tensor", "exact"),
    _fit("other ports of the base do not matter", "exact", offered={"layers": 3}),
    _fit("other values", "drifted", digest=B, changed=["w"], ports=[]),
    _fit("another dtype is other bytes", "drifted", dtype="F16", digest=B, changed=["w"], ports=[]),
    _fit(
        "another tokenizer",
        "drifted",
        wanted={"tokenizer": A},
        offered={"tokenizer": B},
        changed=[],
        ports=["tokenizer"],
    ),
    _fit(
        "a head made for other weights",
        "drifted",
        wanted={"weights": C},
        changed=[],
        ports=["weights"],
    ),
    _fit("no such tensor", "unfit", name="v", reason="it has no tensor 'w'"),
    _fit(
        "another shape",
        "unfit",
        shape=[4, 2],
        reason="its tensor 'w' has shape [4, 2], not [2, 2]",
    ),
    _fit("a missing port", "unfit", wanted={"hidden": 4}, reason="it has no port 'hidden'"),
    _fit(
        "a missing tokenizer",
        "unfit",
        wanted={"tokenizer": A},
        reason="it has no port 'tokenizer'",
    ),
    _fit(
        "another port",
        "unfit",
        wanted={"hidden": 4},
        offered={"hidden": 8},
        reason="its port 'hidden' is 8, not 4",
    ),
]
"""Pairs of interfaces: what a module expects, what a base provides, and whether they fit."""
