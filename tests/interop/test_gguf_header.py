"""Hostile GGUF files: each ends in an error with a code, quickly and without much memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.core.errors import ConversionError
from modpkg.interop.gguf import import_gguf
from modpkg.interop.gguf_header import read_gguf_header
from tests.interop.gguf_files import VOCAB, model_of, write_model
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")
HUGE = 10**18


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write_model(path, model_of("llama"), "llama").read_bytes()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file(*keys: bytes, tensors: tuple[bytes, ...] = (), count: int | None = None) -> bytes:
    head = struct.pack("<IQQ", 3, len(tensors) if count is None else count, len(keys))
    return b"GGUF" + head + b"".join(keys) + b"".join(tensors) + bytes(4096)


def tensor(name: str = "t", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    extents = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + extents + struct.pack("<IQ", kind, offset)


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ARRAY = struct.pack("<IQ", 8, HUGE)
HOSTILE = {
    "empty": b"",
    "magic only": b"GGUF",
    "another format": b"PK\x03\x04" + bytes(100),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "many keys": b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE) + bytes(100),
    "many tensors": file(count=HUGE),
    "a long key": file(struct.pack("<Q", HUGE)),
    "a long text": file(key("k", 8, struct.pack("<Q", HUGE))),
    "a long array of texts": file(key("k", 9, ARRAY)),
    "a long array of numbers": file(key("k", 9, struct.pack("<IQ", 4, HUGE))),
    "an array of arrays": file(key("k", 9, struct.pack("<IQ", 9, 1))),
    "an unknown type": file(key("k", 99, b"")),
    "a key twice": file(key("k", 0, b"\1"), key("k", 0, b"\2")),
    "text that is not UTF-8": file(key("k", 8, struct.pack("<Q", 2) + b"\xff\xfe")),
    "a number that is not finite": file(key("k", 6, struct.pack("<f", float("nan")))),
    "an odd truth": file(key("k", 7, b"\2")),
    "alignment 0": file(key("general.alignment", 4, struct.pack("<I", 0))),
    "alignment 3": file(key("general.alignment", 4, struct.pack("<I", 3))),
    "alignment in words": file(key("general.alignment", 8, text("32"))),
    "an extent of 10^18": file(tensors=(tensor(shape=(HUGE,)),)),
    "four extents of 10^18": file(tensors=(tensor(shape=(HUGE,) * 4),)),
    "no extent": file(tensors=(tensor(shape=()),)),
    "an extent of 0": file(tensors=(tensor(shape=(0, 4)),)),
    "many extents": file(tensors=(text("t") + struct.pack("<I", 2**32 - 1),)),
    "an unknown tensor type": file(tensors=(tensor(kind=77),)),
    "half a block": file(tensors=(tensor(shape=(16,), kind=2),)),
    "an offset outside": file(tensors=(tensor(offset=HUGE // 32 * 32),)),
    "an odd offset": file(tensors=(tensor(offset=3),)),
    "a tensor twice": file(tensors=(tensor(), tensor())),
    "tensors that overlap": file(tensors=(tensor("a", (32,)), tensor("b", (8,)))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[name])
    with raises("M801"):
        import_gguf(path, tmp_path / "out", "g", "1.0.0")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with raises("M801", match="not a file"):
        import_gguf(tmp_path, tmp_path / "out", "g", "1.0.0")


def test_a_truncated_file_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for tenth in range(10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with raises("M801"):
            import_gguf(path, tmp_path / "out", "g", "1.0.0")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(position=st.integers(0, 6000), value=st.integers(0, 255))
def test_any_changed_byte_of_the_header_is_read_or_refused(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
    try:
        header = read_gguf_header(path)
    except ConversionError as error:
        code = error.code
    else:
        code = "M801"
        assert all(item.start + item.length <= len(whole) for item in header.tensors.values())
    assert code == "M801"


CHANGED = {
    "general.architecture": key("general.architecture", 4, struct.pack("<I", 7)),
    "general.type": key("general.type", 7, b"\1"),
    "general.name": key("general.name", 4, struct.pack("<I", 7)),
    "split.count": key("split.count", 8, text("two")),
    "split.no": key("split.count", 4, struct.pack("<I", 2**32 - 1)),
    "llama.block_count": key("llama.block_count", 8, text("two")),
    "llama.block_count in halves": key("llama.block_count", 6, struct.pack("<f", 1.5)),
    "llama.block_count below 0": key("llama.block_count", 5, struct.pack("<i", -1)),
    "llama.rope.freq_base": key("llama.rope.freq_base", 8, text("many")),
    "llama.attention.head_count": key("llama.attention.head_count", 8, text("many")),
    "tokenizer.ggml.tokens": key("tokenizer.ggml.tokens", 9, struct.pack("<IQII", 4, 2, 1, 2)),
    "tokenizer.ggml.tokens is a number": key("tokenizer.ggml.tokens", 4, struct.pack("<I", VOCAB)),
    "tokenizer.ggml.merges": key("tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, 1) + text("t")),
    "tokenizer.ggml.token_type": key("tokenizer.ggml.token_type", 8, text("3")),
    "tokenizer.ggml.model": key("tokenizer.ggml.model", 8, text("no such")),
    "tokenizer.ggml.pre": key("tokenizer.ggml.pre", 4, struct.pack("<I", 7)),
    "tokenizer.ggml.bos_token_id": key("tokenizer.ggml.bos_token_id", 10, struct.pack("<Q", HUGE)),
    "tokenizer.ggml.eos_token_id": key("tokenizer.ggml.eos_token_id", 8, text("<|end|>")),
    "tokenizer.chat_template": key("tokenizer.chat_template", 4, struct.pack("<I", 7)),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_of_another_type_is_refused(name: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    header = read_gguf_header(path)
    old = name.partition(" ")[0]
    spans = [header.raw[item] for item in header.raw if item != old]
    kept = [whole[start:end] for start, end in spans] + [CHANGED[name]]
    table = whole[
        max(end for _, end in header.raw.values()) : min(
            item.start for item in header.tensors.values()
        )
    ].rstrip(b"\0")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(header.tensors), len(kept)) + b"".join(kept)
    head += table.ljust(-(-len(table) // 8) * 8, b"\0")[: _table_length(header)]
    data = whole[min(item.start for item in header.tensors.values()) :]
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32, b"\0") + data)
    with raises("M801"):
        import_gguf(path, tmp_path / "out", "g", "1.0.0")


def _table_length(header: object) -> int:
    from modpkg.interop.gguf_header import GgufHeader

    assert isinstance(header, GgufHeader)
    return sum(
        8 + len(item.name) + 4 + 8 * len(item.shape) + 12 for item in header.tensors.values()
    )
