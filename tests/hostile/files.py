"""Hostile files on this machine: GGUF and checkpoints, bombs, manifests, links and devices."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import tiny
from tests.conftest import safetensors_bytes
from tests.hostile.case import INSTALL, Commands, Input, Make
from tests.hostile.fuzzing import GGUF_METADATA, GGUF_TENSORS, gguf_bytes
from tests.hostile.world import World, dumped

# GGUF ---------------------------------------------------------------------------------------

_ALL = b"GGUF" + struct.pack("<I", 3)
_GGUFS: dict[str, bytes] = {
    "empty": b"",
    "only a name": b"GGUF",
    "version 99": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "nothing in it": _ALL + struct.pack("<QQ", 0, 0),
    "2^63 tensors": _ALL + struct.pack("<QQ", 2**63, 0),
    "2^63 keys": _ALL + struct.pack("<QQ", 0, 2**63),
    "a key of 2^63": _ALL + struct.pack("<QQQ", 0, 1, 2**63),
    "zeros": bytes(1 << 20),
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "a pickle": b"\x80\x04K\x01.",
}


def _keyed(**changes: tuple[int, Any] | None) -> bytes:
    metadata = {**GGUF_METADATA, **{key.replace("__", "."): v for key, v in changes.items()}}
    return gguf_bytes({key: v for key, v in metadata.items() if v is not None}, GGUF_TENSORS)


_GGUFS |= {
    "escapes in a key": gguf_bytes({**GGUF_METADATA, "\x1b[2J": (8, "\x1b[2J")}, GGUF_TENSORS),
    "an unknown architecture": _keyed(general__architecture=(8, "\x1b[2Jevil")),
    "no architecture": _keyed(general__architecture=None),
    "an architecture of numbers": _keyed(general__architecture=(4, 5)),
    "10^9 layers": _keyed(llama__block_count=(4, 10**9)),
    "no layers": _keyed(llama__block_count=(4, 0)),
    "layers of text": _keyed(llama__block_count=(8, "x")),
    "a width of 10^9": _keyed(llama__embedding_length=(4, 10**9)),
    "no heads": _keyed(llama__attention__head_count=(4, 0)),
    "10^9 heads": _keyed(llama__attention__head_count=(4, 10**9)),
    "10^9 positions": _keyed(llama__context_length=(4, 2**32 - 1)),
    "no context": _keyed(llama__context_length=None),
    "no tokens": _keyed(tokenizer__ggml__tokens=(9, (8, []))),
    "tokens of numbers": _keyed(tokenizer__ggml__tokens=(9, (4, [1, 2]))),
    "10^5 tokens": _keyed(tokenizer__ggml__tokens=(9, (8, ["a"] * 10**5))),
    "merges of nothing": _keyed(tokenizer__ggml__merges=(9, (8, ["a"]))),
    "a token of 10^9": _keyed(tokenizer__ggml__bos_token_id=(4, 10**9)),
    "another tokenizer": _keyed(tokenizer__ggml__model=(8, "evil")),
    "a template of 1 MB": _keyed(tokenizer__chat_template=(8, "{{ a }}" * 150_000)),
    "an alignment of 3": _keyed(general__alignment=(4, 3)),
    "an alignment of 2^31": _keyed(general__alignment=(4, 2**31)),
    "an array in itself": _keyed(x=(9, (9, [(9, [])]))),
    "a license of escapes": _keyed(general__license=(8, "\x1b[2J")),
    "a part of 10^5": _keyed(split__count=(4, 10**5), split__no=(4, 0)),
    "a tensor of 2^60": gguf_bytes(GGUF_METADATA, {"token_embd.weight": (2**60, 1)}, b"x"),
    "a tensor that overflows": gguf_bytes(GGUF_METADATA, {"t": (2**40, 2**40)}, b"x"),
    "a tensor of nothing": gguf_bytes(GGUF_METADATA, {"t": (0, 0)}),
    "5,000 tensors": gguf_bytes(GGUF_METADATA, {f"t{n}": (1, 1) for n in range(5000)}),
    "cut off": gguf_bytes(GGUF_METADATA, GGUF_TENSORS)[:300],
    "tiny": gguf_bytes(GGUF_METADATA, GGUF_TENSORS),
}


def _file(name: str, data: bytes) -> Make:
    def make(world: World) -> None:
        path = world.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return make


def _ggufs() -> Iterator[Input]:
    command: Commands = (("import", "gguf", "evil.gguf", "--name", "evil", "--out", "out"),)
    for name, data in _GGUFS.items():
        yield Input("gguf", name, _file("evil.gguf", data), command)


# Bombs --------------------------------------------------------------------------------------


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/modpkg-evil",)


def _zip(size: int, copies: int = 1) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(copies):
            archive.writestr(f"archive/data/{number}", bytes(size))
        archive.writestr("archive/data.pkl", pickle.dumps(_Evil()))
    return out.getvalue()


def _checkpoint(**files: bytes) -> Make:
    """Return what writes a checkpoint of transformers with some of its files replaced."""

    def make(world: World) -> None:
        folder = world.project / "model"
        folder.mkdir()
        given = {"config.json": dumped(tiny.CONFIG), "model.safetensors": tiny.base_weights()}
        for name, data in {**given, **{k.replace("__", "."): v for k, v in files.items()}}.items():
            (folder / name).write_bytes(data)

    return make


def _header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _one(**entry: Any) -> bytes:
    whole = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **entry}
    return _header(json.dumps({"model.norm.weight": whole}).encode(), data=bytes(4))


_SAFETENSORS = {
    "empty": b"",
    "a header of 2^63": _header(b"{}", 2**63),
    "a header of 90 MB": _header(b"{}", 90_000_000),
    "no header": _header(b""),
    "a list": _header(b"[]"),
    "nested": _header(b'{"a":' * 10**5),
    "a shape of 2^62": _one(shape=[2**62]),
    "a shape that overflows": _one(shape=[2**40, 2**40]),
    "offsets that go back": _one(data_offsets=[4, 0]),
    "offsets of 2^63": _one(data_offsets=[0, 2**63]),
    "negative offsets": _one(data_offsets=[-4, 0]),
    "an unknown dtype": _one(dtype="\x1b[2J"),
    "10^5 tensors of nothing": _header(
        json.dumps(
            {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10**5)}
        ).encode()
    ),
    "a pickle": pickle.dumps(_Evil()),
    "a zip": _zip(1000),
    "a key twice": _header(b'{"a":1,"a":2}'),
}


def _bombs() -> Iterator[Input]:
    hf: Commands = (("import", "hf", "model", "--name", "evil", "--out", "out"),)
    for name, data in _SAFETENSORS.items():
        make = _checkpoint(model__safetensors=data)
        yield Input("bombs", f"safetensors: {name}", make, hf)
    for name, data in {
        "a pickle": pickle.dumps(_Evil()), "a zip": _zip(1000), "a zip of zeros": _zip(1 << 24, 4),
    }.items():  # fmt: skip

        def only(world: World, data: bytes = data) -> None:
            _checkpoint(pytorch_model__bin=data)(world)
            (world.project / "model" / "model.safetensors").unlink()

        yield Input("bombs", f"pytorch_model.bin: {name}", only, hf)
        yield Input("bombs", f"beside: {name}", _checkpoint(pytorch_model__bin=data), hf)
    for name, index in {
        "a file above": {"weight_map": {"model.norm.weight": "../../other/valuable.txt"}},
        "a device": {"weight_map": {"model.norm.weight": "/dev/zero"}},
        "a list": [], "numbers": {"weight_map": {"a": 1}},
        "10^5 shards": {"weight_map": {f"t{n}": f"s{n}.safetensors" for n in range(10**5)}},
    }.items():  # fmt: skip

        def sharded(world: World, index: Any = index) -> None:
            _checkpoint(model__safetensors__index__json=dumped(index))(world)
            (world.project / "model" / "model.safetensors").unlink()

        yield Input("bombs", f"shards: {name}", sharded, hf)


# Adapters -----------------------------------------------------------------------------------

_BOMB = "(" + "a?" * 40 + ")" + "a" * 40
_ADAPTERS: dict[str, Any] = {
    "empty": b"", "a list": b"[]", "nested": b'{"a":' * 10**5, "nothing": {},
    "an unknown method": {"peft_type": "\x1b[2J"}, "a method of a list": {"peft_type": ["LORA"]},
    "a rank of 10^9": {"r": 10**9}, "no rank": {"r": 0}, "a negative rank": {"r": -1},
    "a rank of NaN": {"r": float("nan")}, "an alpha of 1e999": {"lora_alpha": 1e999},
    "a pattern that hangs": {"target_modules": _BOMB},
    "ranks that hang": {"rank_pattern": {_BOMB: 2}},
    "alphas that hang": {"alpha_pattern": {r"(\w+\s?)*x": 2}},
    "a rank of 10^400": {"r": 10**400}, "an alpha of 10^400": {"alpha_pattern": {"q": 10**400}},
    "ranges": {"target_modules": "(?i:[\u0100-\uffee])" * 400},
    "10^3 modules to save": {"modules_to_save": [".*.*.*" + "x" * n for n in range(1000)]},
    "10^3 stacks": {"layers_pattern": ["(a|b)" * 2000] * 1000, "layers_to_transform": [0]},
    "a stack in a group": {"layers_pattern": "(layers)", "layers_to_transform": [0, 1]},
    "8,000 runs": {"layer_replication": [[0, 1]] * 8000},
    "10^4 patterns": {"rank_pattern": {f".*x{n}.*y": 2 for n in range(10**4)}},
    "a bad pattern": {"target_modules": "("}, "groups in groups": {"target_modules": "(" * 400},
    "excluded by what hangs": {"exclude_modules": "(.*)*x"},
    "10^5 layers": {"layer_replication": [[0, 2]] * 10**5},
    "layers of 10^9": {"layer_replication": [[0, 10**9]]},
    "10^5 layers to change": {"layers_to_transform": list(range(10**5))},
    "code": {"auto_mapping": {"base_model_class": "evil", "parent_library": "os"}},
    "a loader": {"loftq_config": {"a": "b"}}, "a base elsewhere": {"base_model_name_or_path": "/"},
    "trained tokens": {"trainable_token_indices": {"embed_tokens": [10**9]}},
    "parameters": {"target_parameters": ["." * 1000]},
    "modules to save": {"modules_to_save": ["../.."]},
}  # fmt: skip


def _adapters() -> Iterator[Input]:
    command: Commands = (
        ("import", "peft", "adapter", "--base", "tiny>=1", "--name", "evil", "--out", "out"),
        ("-C", "out", "build"),
    )
    for name, change in _ADAPTERS.items():

        def make(world: World, change: Any = change) -> None:
            folder = world.project / "adapter"
            folder.mkdir()
            config = change if isinstance(change, bytes) else {**tiny.ADAPTER_CONFIG, **change}
            (folder / "adapter_config.json").write_bytes(dumped(config))
            (folder / "adapter_model.safetensors").write_bytes(tiny.adapter_weights())

        yield Input("adapter", name, make, command)


# Manifests and locks ------------------------------------------------------------------------

_MANIFESTS = {
    "empty": b"", "zeros": bytes(1000), "latin-1": b"\xe9", "2 MB": b"#" * (2 << 20),
    "nested": b"a = " + b"[" * 10**5, "a number of 10^5 digits": b"a = " + b"9" * 10**5,
    "dots": b".".join([b"a"] * 10**4) + b" = 1", "a table 10^4 times": b"[a]\n" * 10**4,
    "10^4 dependencies": b'[app]\nname="a"\n[dependencies]\n' + b"".join(
        b'd%d = "*"\n' % n for n in range(10**4)),
    "a name above": b'[app]\nname = "../evil"', "escapes": b'[app]\nname = "\\u001b[2J"',
    "a registry of files": b'[app]\nname="a"\n[registries]\nx = "file:///etc"',
    "a path as a registry": b'[app]\nname="a"\n[dependencies]\n'
                            b'tiny={version="*",registry="/dev/zero"}',
    "a licence of brackets": b'[app]\nname="a"\n[licenses]\nallow=["' + b"(" * 10**4 + b'"]',
    "a licence of ORs": b'[module]\nname="a"\nversion="1"\nkind="collection"\nlicense="'
                        + b" AND ".join([b"(MIT OR ISC)"] * 60) + b'"',
}  # fmt: skip
_LOCKS = {
    "empty": b"", "zeros": bytes(1000), "spec 99": b"spec = 99\nrequirements = []",
    "a number": b"spec = " + b"9" * 5000, "nested": b"a = " + b"[" * 10**5,
    "escapes": b'spec = 1\nrequirements = ["\\u001b[2J"]', "another type": b"spec = 1\nmodule = 1",
}  # fmt: skip


def _manifests() -> Iterator[Input]:
    for name, data in _MANIFESTS.items():
        yield Input("manifest", name, _file("modpkg.toml", data), (("lock",),))
    for name, data in _LOCKS.items():
        yield Input("manifest", f"lock: {name}", _file("modpkg.lock", data), (("install",),))
    for name, data in {"no TOML": b"=", "nested": b"a=" + b"[" * 10**5, "zeros": bytes(99)}.items():

        def make(world: World, data: bytes = data) -> None:
            (world.home / "config.toml").write_bytes(data)

        yield Input("manifest", f"config: {name}", make, (("install", "talker"),))


# Local --------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # an address has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


_THINGS: dict[str, Callable[[Path], None]] = {
    "a FIFO": _fifo,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a terabyte of nothing": _sparse,
    "a link to a FIFO": lambda path: (_fifo(path.parent / "fifo"), path.symlink_to("fifo"))[1],
}
_PLACES: dict[str, tuple[Callable[[World], Path], Commands]] = {
    "modpkg.toml": (lambda w: w.project / "modpkg.toml", (("lock",),)),
    "modpkg.lock": (lambda w: w.project / "modpkg.lock", (("install",),)),
    "config.toml": (lambda w: w.home / "config.toml", (("install", "talker"),)),
    "registry.json": (lambda w: w.registry / "registry.json", (("install", "talker"),)),
    "an index": (lambda w: w.registry / "index" / "talker.jsonl", (("install", "talker"),)),
    "modules.jsonl": (lambda w: w.registry / "modules.jsonl", (("search", "talker"),)),
    "model.safetensors": (
        lambda w: w.project / "model" / "model.safetensors",
        (("import", "hf", "model", "--name", "evil", "--out", "out"),),
    ),
    "config.json": (
        lambda w: w.project / "model" / "config.json",
        (("import", "hf", "model", "--name", "evil", "--out", "out"),),
    ),
    "a GGUF": (
        lambda w: w.project / "evil.gguf",
        (("import", "gguf", "evil.gguf", "--name", "evil", "--out", "out"),),
    ),
}


def _put(place: Callable[[World], Path], thing: Callable[[Path], None]) -> Make:
    def make(world: World) -> None:
        path = place(world)
        if path.parent.name == "model":
            _checkpoint()(world)
        path.unlink(missing_ok=True)
        thing(path)

    return make


_LINKED = (
    ".modpkg", ".modpkg/generations", ".modpkg/packs", ".modpkg/current", "modpkg.lock",
    "modpkg.toml", "dist", "vendored", "out",
)  # fmt: skip
_AFTER: Commands = (("update",), ("install", "tiny"), ("rollback",))


def _local() -> Iterator[Input]:
    for where, (place, commands) in _PLACES.items():
        for what, thing in _THINGS.items():
            if not (where == "an index" and what == "a terabyte of nothing"):
                yield Input("local", f"{what} as {where}", _put(place, thing), commands)

    for name in _LINKED:

        def make(world: World, name: str = name) -> None:
            target = world.project / name
            if target.is_symlink() or target.is_file():
                target.unlink()
            elif target.exists():
                target.rename(world.project / "moved")
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(world.other)

        yield Input("local", f"{name} is a link away", make, _AFTER, state="installed")
        yield Input(
            "local", f"{name} is a link away: vendor", make, (("vendor", "vendored"),), "installed"
        )
        yield Input("local", f"{name} is a link away: export", make,
                    (("export", "talker", "out"),), "installed")  # fmt: skip
    for file in ("/etc/passwd", "../../../other/valuable.txt", "/dev/zero", "", "\x1b[2J"):

        def record(world: World, file: str = file) -> None:
            for path in (world.project / ".modpkg").rglob("model.json"):
                text = json.loads(path.read_bytes())
                for tensor in text["tensors"].values():
                    tensor["file"] = file
                path.chmod(0o600)
                path.write_text(json.dumps(text))

        commands: Commands = (("export", "talker", "out"),)
        yield Input("local", f"model.json names {file!r}", record, commands, "installed")
        yield Input("local", f"run of {file!r}", record, (("run", "talker", "a"),), "installed")

    def blob(world: World) -> None:
        for path in (world.registry / "blobs").rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                path.unlink()
                path.symlink_to("/dev/zero")

    yield Input("local", "blobs are links to /dev/zero", blob, (("install", "talker"),))

    def weights(world: World) -> None:
        world.forge(
            "evil", weights=safetensors_bytes({"a": ("F32", [1], bytes(4))}),
            files={"config.json": dumped(tiny.CONFIG)},
        )  # fmt: skip
        for path in (world.registry / "blobs").rglob("*"):
            if path.is_file():
                path.unlink()
                os.mkfifo(path)

    yield Input("local", "blobs are FIFOs", weights, INSTALL)


FILES = [*_ggufs(), *_bombs(), *_adapters(), *_manifests(), *_local()]
