"""Checkpoints: what is signed, by whom, and which are refused."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from modpkg.core import bounds
from modpkg.trust.log.log_checkpoint import (
    LogCheckpoint,
    parse_checkpoint,
    verified_checkpoint,
    with_cosignatures,
)
from modpkg.trust.private_key import PrivateKey, new_key, read_key
from tests.raising import raises

ORIGIN = "models.example/log"
ROOT = hashlib.sha256(b"root").digest()
PLAIN = LogCheckpoint(ORIGIN, 7, ROOT)


def key_in(folder: Path, name: str) -> PrivateKey:
    new_key(folder / f"{name}.pem", "ed25519", None)
    return read_key(folder / f"{name}.pem", str)


def test_a_checkpoint_is_a_signed_note(tmp_path: Path) -> None:
    key = key_in(tmp_path, "log")
    data = bytes(PLAIN.signed_by(ORIGIN, key))
    lines = data.decode().split("\n")
    assert lines[:4] == [ORIGIN, "7", base64.b64encode(ROOT).decode(), ""]
    assert lines[4].startswith(f"— {ORIGIN} ")
    raw = base64.b64decode(lines[4].rpartition(" ")[2])
    named = hashlib.sha256(ORIGIN.encode() + b"\n\x01" + key.public.data).digest()[:4]
    assert raw[:4] == named
    assert key.public.verifies(raw[4:], data.partition(b"\n\n")[0] + b"\n")
    assert lines[5:] == [""]
    assert bytes(verified_checkpoint(data, ORIGIN, key.public, "here")) == data


def test_a_witness_signs_the_time_too(tmp_path: Path) -> None:
    key, witness = key_in(tmp_path, "log"), key_in(tmp_path, "witness")
    signed = PLAIN.signed_by(ORIGIN, key).cosigned_by("w.example", witness, 1_700_000_000)
    again = signed.cosigned_by("w.example", witness, 1_800_000_000)
    read = parse_checkpoint(bytes(again), "here")
    assert read == again
    assert len(read.signatures) == 2
    assert read.is_signed(ORIGIN, key.public)
    assert read.cosigned_at("w.example", witness.public) == 1_800_000_000
    assert read.cosigned_at("other.example", witness.public) is None
    assert read.cosigned_at("w.example", key.public) is None
    assert not read.is_signed("w.example", witness.public)  # it is not the log
    moved = LogCheckpoint(ORIGIN, 8, ROOT, read.signatures)
    assert not moved.is_signed(ORIGIN, key.public)
    assert moved.cosigned_at("w.example", witness.public) is None
    fresh = PLAIN.signed_by(ORIGIN, key)
    assert with_cosignatures(fresh, read.signatures) == read


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"a\n1\n" + base64.b64encode(ROOT) + b"\nmore\n\n",
        b"a\n01\n" + base64.b64encode(ROOT) + b"\n\n",
        b"a\n-1\n" + base64.b64encode(ROOT) + b"\n\n",
        b"a\n9999999999999999\n" + base64.b64encode(ROOT) + b"\n\n",
        b"a b\n1\n" + base64.b64encode(ROOT) + b"\n\n",
        b"a\n1\nAAAA\n\n",
        b"a\n1\n" + base64.b64encode(ROOT) + b"\n\n- a AAAAAAAA\n",
        b"a\n1\n" + base64.b64encode(ROOT) + "\n\n— a AAAAAAAA".encode(),
        b"a\n1\n" + base64.b64encode(ROOT) + "\n\n— a AAAA\n".encode(),
        b"a\n1\n" + base64.b64encode(ROOT) + b"\n\n" + "— a AAAAAAAA\n".encode() * 65,
        bytes(bounds.CHECKPOINT_BYTES + 1),
    ],
)
def test_malformed_checkpoints(data: bytes) -> None:
    with raises("M550", match="here") as caught:
        parse_checkpoint(data, "here")
    assert not {"codec", "padding", "'"} & set(re.split(r"\b|\s", str(caught.value)))


def test_checkpoints_of_others(tmp_path: Path) -> None:
    key, other = key_in(tmp_path, "log"), key_in(tmp_path, "other")
    with raises("M550", match="not signed"):
        verified_checkpoint(bytes(PLAIN.signed_by(ORIGIN, other)), ORIGIN, key.public, "here")
    with raises("M550", match="not signed"):
        verified_checkpoint(bytes(PLAIN), ORIGIN, key.public, "here")
    with raises("M550", match="not of"):
        signed = PLAIN.signed_by(ORIGIN, key)
        verified_checkpoint(bytes(signed), "other.example/log", key.public, "here")
