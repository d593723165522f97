"""log.json: what the spec says of a log, worked out again from the RFC's own definitions.

Nothing of modpkg makes the expected values here; inclusion and notes are read by Sigstore's client
too.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from modpkg.core.records import LogInfo
from modpkg.trust.log.entries import is_release_of, logged_path, parse_entry, parse_logged
from modpkg.trust.log.log_checkpoint import verified_checkpoint
from modpkg.trust.log.merkle import is_consistent, is_included
from modpkg.trust.log.succession import is_successor
from modpkg.trust.log.tiles import Tile, entries_in, hashes_in, is_tile_path
from modpkg.trust.public_key import parse_key
from registry_spec import VECTORS

LOG: dict[str, Any] = json.loads((VECTORS / "log.json").read_text("utf-8"))
ENTRIES = [case["entry"].encode() for case in LOG["entries"]]
NUMBERS = [str(number).encode() for number in range(LOG["numbers"]["size"])]
SIZED = [(ENTRIES, LOG), (NUMBERS, LOG["numbers"])]


# RFC 6962, section 2.1, as it is written there --------------------------------------------------


def mth(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of a list: "MTH(D[n])"."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = split(len(leaves))
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def split(n: int) -> int:
    """Return the largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def audit_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the audit path: "PATH(m, D[n])"."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*audit_path(m, leaves[:k]), mth(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """Return a consistency proof: "SUBPROOF(m, D[n], b)"."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def root_of(leaves: list[bytes], size: int) -> str:
    return mth(leaves[:size]).hex()


def test_entries_have_one_form_and_their_hash() -> None:
    for case in LOG["entries"]:
        told = json.loads(case["entry"])
        text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert text == case["entry"]
        assert hashlib.sha256(b"\0" + text.encode()).hexdigest() == case["leaf_hash"]
        assert parse_entry(text.encode()).action == told["action"]
    actions = [json.loads(entry)["action"] for entry in ENTRIES]
    changes = ["yank", "deprecate", "remove", "transfer", "succeed", "void"]
    assert actions == ["publish", "publish", *changes]
    private = json.loads(ENTRIES[1])
    name = hashlib.sha256(f"{LOG['origin']}\nsecret".encode()).hexdigest()
    assert private["private"] == f"sha256:{name}"
    assert private.keys().isdisjoint({"name", "version"})
    line = LOG["statement"]["bundle"].encode()
    statement = json.loads(ENTRIES[6])["statement"]
    assert statement == f"sha256:{hashlib.sha256(line).hexdigest()}"
    assert LOG["statement"]["file"] == "successors/words.jsonl"


def test_roots() -> None:
    assert LOG["roots"] == {str(size): root_of(ENTRIES, size) for size in range(9)}
    assert LOG["numbers"]["root"] == root_of(NUMBERS, 1000)


@pytest.mark.parametrize(("leaves", "vectors"), SIZED)
def test_proofs_of_inclusion(leaves: list[bytes], vectors: dict[str, Any]) -> None:
    from sigstore._internal.merkle import verify_merkle_inclusion

    for case in vectors["inclusion"]:
        index, size = case["index"], case["size"]
        proof = [bytes.fromhex(part) for part in case["proof"]]
        assert proof == audit_path(index, leaves[:size])
        root = mth(leaves[:size])
        leaf = mth(leaves[index : index + 1])
        assert is_included(leaf, index, size, proof, root)
        for wrong in ([*proof, root], proof[1:], [*proof[:-1], root]):
            assert wrong == proof or not is_included(leaf, index, size, wrong, root)
        told = SimpleNamespace(log_index=index, tree_size=size, hashes=proof, root_hash=root)
        inner = SimpleNamespace(inclusion_proof=told, canonicalized_body=leaves[index])
        verify_merkle_inclusion(SimpleNamespace(_inner=inner))  # type: ignore[arg-type]


@pytest.mark.parametrize(("leaves", "vectors"), SIZED)
def test_proofs_of_consistency(leaves: list[bytes], vectors: dict[str, Any]) -> None:
    for case in vectors["consistency"]:
        before, size = case["before"], case["size"]
        proof = [bytes.fromhex(part) for part in case["proof"]]
        assert proof == subproof(before, leaves[:size], True)
        roots = mth(leaves[:before]), mth(leaves[:size])
        assert is_consistent(before, roots[0], size, roots[1], proof)
        if before < size:
            assert not is_consistent(before, roots[1], size, roots[0], proof)


def test_files_of_a_small_log() -> None:
    files = {path: bytes.fromhex(data) for path, data in LOG["files"].items()}
    hashes = b"".join(bytes.fromhex(case["leaf_hash"]) for case in LOG["entries"])
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in ENTRIES)
    release = json.loads(ENTRIES[0])["release"].removeprefix("sha256:")
    place = f"log/releases/{release[:2]}/{release}.json"
    assert files.keys() == {"log/tile/0/000.p/8", "log/tile/entries/000.p/8", place}
    assert files["log/tile/0/000.p/8"] == hashes
    assert files["log/tile/entries/000.p/8"] == bundle
    told = {"entry": ENTRIES[0].decode(), "index": 0}
    assert files[place] == json.dumps(told, separators=(",", ":")).encode() + b"\n"
    assert b"".join(hashes_in(Tile(0, 0, 8), hashes, "models")) == hashes
    assert entries_in(Tile(None, 0, 8), bundle, "models") == ENTRIES
    assert parse_logged(files[place]).index == 0
    first = parse_entry(ENTRIES[0])
    line: Any = SimpleNamespace(name="words", version="1.0", release=f"sha256:{release}")
    assert is_release_of(first, line, LOG["origin"])
    assert logged_path(line.release) == place


def test_tiles_of_a_larger_tree() -> None:
    tiles: dict[str, bytes] = {}
    leaves = [mth([leaf]) for leaf in NUMBERS]
    for number in range(4):
        part = leaves[256 * number : 256 * number + 256]
        width = "" if len(part) == 256 else f".p/{len(part)}"
        tiles[f"log/tile/0/{number:03}{width}"] = b"".join(part)
    above = [mth(NUMBERS[256 * number : 256 * number + 256]) for number in range(3)]
    tiles["log/tile/1/000.p/3"] = b"".join(above)
    expected = {path: hashlib.sha256(data).hexdigest() for path, data in tiles.items()}
    assert LOG["numbers"]["tiles"] == expected
    for case in LOG["paths"]:
        assert Tile(case["level"], case["index"], case["width"]).path == case["path"]
        assert is_tile_path(case["path"])
    assert LOG["paths"][2]["path"] == "log/tile/entries/x001/x234/067.p/255"  # as in tlog-tiles


def _key(text: str) -> bytes:
    return base64.b64decode(text.removeprefix("key:ed25519:"))


def test_a_checkpoint_of_a_log_and_a_witness() -> None:
    from sigstore._internal.rekor.checkpoint import LogCheckpoint, SignedNote

    told = LOG["checkpoint"]
    note: str = told["note"]
    body = f"{LOG['origin']}\n8\n{base64.b64encode(mth(ENTRIES)).decode()}\n"
    text, _, signatures = note.partition("\n\n")
    assert text + "\n" == body
    lines = [line.split(" ") for line in signatures.splitlines()]
    assert [line[:2] for line in lines] == [["\u2014", LOG["origin"]], ["\u2014", told["witness"]]]
    own, other = (base64.b64decode(line[2]) for line in lines)
    for name, key, kind, found, wanted in (
        (LOG["origin"], LOG["key"], 1, own, told["key_id"]),
        (told["witness"], told["witness_key"], 4, other, told["witness_key_id"]),
    ):
        key_id = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + _key(key)).digest()[:4]
        assert found[:4] == key_id == bytes.fromhex(wanted)
    signer = Ed25519PublicKey.from_public_bytes(_key(LOG["key"]))
    signer.verify(own[4:], body.encode())
    assert int.from_bytes(other[4:12], "big") == told["witness_time"]
    seen = f"cosignature/v1\ntime {told['witness_time']}\n{body}".encode()
    witness = Ed25519PublicKey.from_public_bytes(_key(told["witness_key"]))
    witness.verify(other[12:], seen)
    with pytest.raises(InvalidSignature):
        witness.verify(other[12:], body.encode())

    parsed = SignedNote.from_text(note)
    assert [one.name for one in parsed.signatures] == [LOG["origin"], told["witness"]]
    assert parsed.signatures[0].sig_hash == bytes.fromhex(told["key_id"])
    sigstore = LogCheckpoint.from_text(parsed.note)
    assert (sigstore.origin, sigstore.log_size) == (LOG["origin"], 8)
    assert sigstore.log_hash == mth(ENTRIES).hex()
    found = verified_checkpoint(note.encode(), LOG["origin"], parse_key(LOG["key"]), "here")
    assert bytes(found) == note.encode()
    assert (
        found.cosigned_at(told["witness"], parse_key(told["witness_key"])) == told["witness_time"]
    )


def test_a_key_names_the_one_that_follows() -> None:
    told = LOG["succession"]
    envelope = json.loads(told["bundle"])["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": f"urn:modpkg:log:{LOG['origin']}",
                "digest": {"sha256": hashlib.sha256(told["key"].encode()).hexdigest()},
            }
        ],
        "predicateType": "urn:modpkg:succession:v1",
        "predicate": {"successor": told["key"], "releases": []},
    }
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    key = Ed25519PublicKey.from_public_bytes(_key(LOG["key"]))
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    old, new = LogInfo(LOG["origin"], LOG["key"]), LogInfo(LOG["origin"], told["key"])
    assert is_successor(told["bundle"].encode(), old, new)
    assert told["file"] == "log/successors.jsonl"
