"""A publisher who speaks to a server by its API alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
from httpx import Response

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.known import known_tensors
from modpkg.registry.place import Place
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import Relatives
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.session_records import OFFSET, DeclaredBlob, SessionRequest
from modpkg.release.build import build


def built(folder: Path, at: Place) -> tuple[BlobTree, IndexLine]:
    """Build a module for a place; return the tree and the line."""
    manifest = read_manifest(folder / "modpkg.toml")
    module = manifest.module
    assert module is not None
    known = known_tensors(at, Relatives(module.name, module.version))
    line = build(manifest, module, folder / "dist", known=known).line
    return BlobTree(folder / "dist"), line


class Publisher:
    """Somebody with a token."""

    def __init__(self, client: httpx.Client, token: str) -> None:
        self.client = client
        self.headers = {"Authorization": f"Bearer {token}"}

    def request(self, method: str, path: str, **options: Any) -> Response:
        """Send a request; ``path`` is relative to the API."""
        headers = self.headers | options.pop("headers", {})
        path = path.removeprefix("http://127.0.0.1:8420").removeprefix("/api/1/")
        return self.client.request(method, f"/api/1/{path}", headers=headers, **options)

    def declare(self, tree: BlobTree, line: IndexLine, **options: Any) -> Response:
        """Declare a release."""
        record = Registry(str(tree.root)).release(line.release, "the record")
        digests = [*(digest for digest, _ in blobs_of(record)), parse_digest(line.release)]
        blobs = [
            DeclaredBlob(digest, tree.path(digest).stat().st_size)
            for digest in digests
            if tree.has(digest)
        ]
        request = SessionRequest(line=line, blobs=blobs, **options)
        return self.request("POST", "sessions", content=msgspec.json.encode(request))

    def put(self, session: str, digest: str, data: bytes, offset: int = 0) -> Response:
        """Upload bytes of a blob."""
        headers = {OFFSET: str(offset)}
        return self.request(
            "PUT", f"sessions/{session}/blobs/{digest}", content=data, headers=headers
        )

    def upload(self, tree: BlobTree, session: dict[str, Any]) -> None:
        """Upload what is missing of a session."""
        for blob in session["missing"]:
            data = tree.read(Digest(blob["digest"]), "a blob")[blob["offset"] :]
            answer = self.put(session["id"], blob["digest"], data, blob["offset"])
            assert answer.json() == {"offset": blob["size"], "complete": True}

    def commit(self, session: str) -> Response:
        """Commit a session."""
        return self.request("POST", f"sessions/{session}/commit")

    def publish(self, tree: BlobTree, line: IndexLine, **options: Any) -> dict[str, Any]:
        """Publish a release, and return the answer to its commit."""
        session = self.declare(tree, line, **options).json()
        self.upload(tree, session)
        answer = self.commit(session["id"])
        assert answer.status_code == 200, answer.text
        done: dict[str, Any] = answer.json()
        return done
