"""Bundles: what is signed, and everything that makes a signature count for nothing."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.digests import parse_digest
from modpkg.trust.bundle import sign_statement, verify_bundle
from modpkg.trust.private_key import PrivateKey, new_key, read_key
from modpkg.trust.statement import (
    PROVENANCE,
    SUCCESSION,
    YANK,
    InTotoStatement,
    InTotoSubject,
    SaidYank,
    canonical_json,
    is_about,
    keys_of_module,
    parse_statement,
    release_subject,
    releases_in,
    succession_statement,
    successor_in,
    yank_in,
    yank_statement,
)
from tests.raising import raises

RELEASE = "sha256:" + "ab" * 32
OF_WORDS = parse_digest(RELEASE)


def statement(name: str = "words", version: str = "1.0", digest: str = "ab" * 32) -> bytes:
    subject = InTotoSubject(f"pkg:modpkg/{name}@{version}", {"sha256": digest})
    return canonical_json(
        InTotoStatement(subject=[subject], predicate_type="https://slsa.dev/provenance/v1")
    )


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    new_key(tmp_path / "key.pem", "ed25519", None)
    return read_key(tmp_path / "key.pem", lambda: "")


def test_a_bundle_says_who_signed_what(key: PrivateKey) -> None:
    signed = verify_bundle(sign_statement(statement(), key))
    assert signed.signer == key.public
    assert is_about(signed.statement, "words", "1.0", RELEASE)  # type: ignore[arg-type]
    for name, version, release in (
        ("other", "1.0", RELEASE),  # another name's equal bytes
        ("words", "1.0.0", RELEASE),
        ("words", "1.0", "sha256:" + "cd" * 32),
    ):
        assert not is_about(signed.statement, name, version, release)  # type: ignore[arg-type]


def edited(bundle: bytes, *path: str, value: Any) -> bytes:
    document = json.loads(bundle)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(document).encode()


def test_a_bundle_that_was_changed_counts_for_nothing(key: PrivateKey, tmp_path: Path) -> None:
    bundle = sign_statement(statement(), key)
    other = new_key(tmp_path / "other.pem", "ed25519", None)
    payload = base64.b64encode(statement("other")).decode()
    envelope = json.loads(bundle)["dsseEnvelope"]
    cases: dict[str, bytes] = {
        "payload": edited(bundle, "dsseEnvelope", "payload", value=payload),
        "type": edited(bundle, "dsseEnvelope", "payloadType", value="text/plain"),
        "key": edited(bundle, "verificationMaterial", "publicKey", "hint", value=str(other)),
        "no signature": edited(bundle, "dsseEnvelope", "signatures", value=[]),
        "two": edited(bundle, "dsseEnvelope", "signatures", value=envelope["signatures"] * 2),
        "media type": edited(bundle, "mediaType", value="application/json"),
        "not base64": edited(bundle, "dsseEnvelope", "payload", value="%%%"),
        "not JSON": b"{",
        "deep": b"[" * 100_000,
        "a number": b"1",
    }
    for what, data in cases.items():
        with raises("M541"):
            print(what, verify_bundle(data))


def test_a_signed_text_that_is_no_statement_counts_for_nothing(key: PrivateKey) -> None:
    for payload in (b"{}", b"words", canonical_json({"_type": "x", "subject": []})):
        with raises("M541"):
            verify_bundle(sign_statement(payload, key))


def test_a_successor_is_named_for_one_module_by_the_key_before_it(
    key: PrivateKey, tmp_path: Path
) -> None:
    new = new_key(tmp_path / "new.pem", "ecdsa-p256", None)
    releases, of_words = [release_subject("words", "1.0", OF_WORDS)], keys_of_module("words")
    signed = verify_bundle(sign_statement(succession_statement(of_words, new, releases), key))
    assert successor_in(signed.statement, of_words) == str(new)
    assert releases_in(signed.statement) == releases
    assert successor_in(signed.statement, keys_of_module("other")) is None
    assert successor_in(parse_statement(statement()), of_words) is None


@pytest.mark.parametrize("listed", [None, "words", [1], [{"name": "words"}], [{}] * 3000])
def test_a_list_of_releases_that_is_malformed_has_none(listed: Any) -> None:
    assert releases_in(parse_statement(said(SUCCESSION, {"releases": listed}))) == []


def test_what_strangers_put_into_a_predicate_takes_no_more_memory_than_its_bytes(
    key: PrivateKey,
) -> None:
    for kind in (PROVENANCE, SUCCESSION, YANK):
        filled = said(kind, {"x": [[]] * 200_000})
        bundle = sign_statement(filled, key)
        verify_bundle(bundle)
        tracemalloc.start()
        found = verify_bundle(bundle)
        assert successor_in(found.statement, keys_of_module("words")) is None
        assert yank_in(found.statement, "words", "1.0", OF_WORDS) is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * len(bundle)
    with raises("M541", match="no object"):
        parse_statement(said(PROVENANCE, [1]))


def test_a_yank_is_of_one_release() -> None:
    made = parse_statement(yank_statement("words", "1.0", OF_WORDS, "bad", 2))
    assert yank_in(made, "words", "1.0", OF_WORDS) == SaidYank(2, "bad")
    assert yank_in(made, "words", "1.1", OF_WORDS) is None
    assert not is_about(made, "words", "1.0", OF_WORDS)
    assert yank_in(parse_statement(statement()), "words", "1.0", OF_WORDS) is None
    malformed: tuple[Any, ...] = (
        {},
        {"number": 0, "yanked": "x"},
        {"number": 1, "yanked": "a\nb"},
        {"number": 1, "yanked": 1},
    )
    for predicate in malformed:
        assert yank_in(parse_statement(said(YANK, predicate)), "words", "1.0", OF_WORDS) is None


def said(kind: str, predicate: Any) -> bytes:
    """Return a statement about words 1.0 with any predicate."""
    subject = [release_subject("words", "1.0", OF_WORDS)]
    return canonical_json(
        InTotoStatement(subject=subject, predicate_type=kind, predicate=predicate)
    )
