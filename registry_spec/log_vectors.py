"""log.json: entries of a log, the tree over them, proofs, tiles, and a signed checkpoint.

The keys are fixed ones that everybody knows, and sign nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.records import SPEC, canonical_json
from modpkg.registry.signature_files import successors_path
from modpkg.trust.bundle import sign_statement
from modpkg.trust.log.entries import (
    LogEntry,
    LoggedRelease,
    logged_path,
    private_entry,
    succeed_entry,
    transfer_entry,
    void_entry,
)
from modpkg.trust.log.log_checkpoint import COSIGNATURE, ED25519, LogCheckpoint, key_id
from modpkg.trust.log.merkle import (
    GrowingTree,
    Node,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    proof_over,
    subtree_hash,
)
from modpkg.trust.log.succession import SUCCESSORS, named_successor
from modpkg.trust.log.tiles import Tile, bundle_of, grown_tiles
from modpkg.trust.private_key import PrivateKey
from modpkg.trust.statement import keys_of_module, succession_statement

ORIGIN = "models.example/log"
WITNESS = "witness.example"
SEEN_AT = 1_767_225_600
AT = "2026-01-01T00:00:00Z"
COUNTED = 1000
"""Leaves of the larger tree: the decimal numbers from 0 on, as text."""


def _key(number: int) -> PrivateKey:
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def _published(name: str, version: str, digit: str) -> LogEntry:
    return LogEntry(
        spec=SPEC,
        action="publish",
        at=AT,
        name=name,
        version=version,
        release=f"sha256:{digit * 64}",
    )


def _named() -> bytes:
    """Return the line by which a signer of a module names the one after it."""
    return sign_statement(succession_statement(keys_of_module("words"), _key(5).public), _key(4))


def _entries() -> list[bytes]:
    words = _published("words", "1.0", "a")
    changes: list[dict[str, Any]] = [
        {"action": "yank"},
        {"action": "deprecate", "successor": "tools>=2"},
        {"action": "remove"},
    ]
    about: dict[str, Any] = {"name": words.name, "version": words.version, "release": words.release}
    return [
        canonical_json(entry)
        for entry in (
            words,
            private_entry(_published("secret", "1.0", "b"), ORIGIN),
            *(LogEntry(spec=SPEC, at=AT, **about, **change) for change in changes),
            transfer_entry("words", "bob", AT),
            succeed_entry("words", digest_bytes(_named()), AT),
            void_entry("words", "2.0", f"sha256:{'c' * 64}", AT),
        )
    ]


class _Tree:
    """A tree, all of whose hashes are worked out when they are asked for."""

    def __init__(self, leaves: list[bytes]) -> None:
        self._leaves = [leaf_hash(leaf) for leaf in leaves]

    def root(self, size: int) -> str:
        tree = GrowingTree()
        for leaf in self._leaves[:size]:
            tree.add(leaf)
        return tree.root.hex()

    def __call__(self, node: Node) -> bytes:
        level, index = node
        tree = GrowingTree()
        for leaf in self._leaves[index << level : (index + 1) << level]:
            tree.add(leaf)
        return tree.root

    def included(self, index: int, size: int) -> dict[str, Any]:
        proof = proof_over(inclusion_ranges(index, size), self)
        return {"index": index, "size": size, "proof": [part.hex() for part in proof]}

    def continued(self, before: int, size: int) -> dict[str, Any]:
        proof = proof_over(consistency_ranges(before, size), self)
        return {"before": before, "size": size, "proof": [part.hex() for part in proof]}

    def tiles(self) -> dict[str, bytes]:
        tiles = grown_tiles(0, {}, self._leaves)
        return {tile.path: b"".join(hashes) for tile, hashes in tiles.items()}


def log_vectors() -> dict[str, Any]:
    """Return the content of log.json."""
    entries = _entries()
    small = _Tree(entries)
    large = _Tree([str(number).encode() for number in range(COUNTED)])
    key, witness, successor = _key(1), _key(2), _key(3)
    root = subtree_hash(0, len(entries), small)
    checkpoint = LogCheckpoint(ORIGIN, len(entries), root).signed_by(ORIGIN, key)
    seen = checkpoint.cosigned_by(WITNESS, witness, SEEN_AT)
    first = logged_path(parse_digest(f"sha256:{'a' * 64}"))
    files = small.tiles() | {
        Tile(None, 0, len(entries)).path: bundle_of(entries),
        first: canonical_json(LoggedRelease(0, entries[0].decode())) + b"\n",
    }
    return {
        "origin": ORIGIN,
        "key": str(key.public),
        "entries": [
            {"entry": entry.decode(), "leaf_hash": leaf_hash(entry).hex()} for entry in entries
        ],
        "roots": {str(size): small.root(size) for size in range(len(entries) + 1)},
        "inclusion": [small.included(*case) for case in ((0, 1), (0, 2), (2, 5), (4, 7), (6, 7))],
        "consistency": [
            small.continued(*case) for case in ((1, 2), (2, 4), (3, 7), (4, 7), (6, 7), (7, 7))
        ],
        "files": {path: data.hex() for path, data in sorted(files.items())},
        "checkpoint": {
            "note": bytes(seen).decode(),
            "key_id": key_id(ORIGIN, key.public, ED25519).hex(),
            "witness": WITNESS,
            "witness_key": str(witness.public),
            "witness_key_id": key_id(WITNESS, witness.public, COSIGNATURE).hex(),
            "witness_time": SEEN_AT,
        },
        "succession": {
            "file": SUCCESSORS,
            "key": str(successor.public),
            "bundle": named_successor(ORIGIN, key, successor.public).decode(),
        },
        "statement": {"file": successors_path("words"), "bundle": _named().decode()},
        "numbers": {
            "size": COUNTED,
            "root": large.root(COUNTED),
            "inclusion": [large.included(index, COUNTED) for index in (0, 255, 700, 999)],
            "consistency": [large.continued(before, COUNTED) for before in (255, 256, 999)],
            "tiles": {
                path: hashlib.sha256(data).hexdigest()
                for path, data in sorted(large.tiles().items())
            },
        },
        "paths": [
            {"level": tile.level, "index": tile.index, "width": tile.width, "path": tile.path}
            for tile in (Tile(0, 0), Tile(1, 1000, 7), Tile(None, 1_234_067, 255), Tile(2, 999))
        ],
    }
