"""The files of the registry as readers ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar.testing import TestClient

from modpkg.core.digests import blob_path, digest_bytes, parse_digest
from modpkg.core.tree import BlobTree
from modpkg.server import reading
from modpkg.server.file_answers import ServerApp
from modpkg.server.reading import FILES
from modpkg.server.state import Server
from tests.modules import publish_collection

ODD_PATHS = (
    "/index/../registry.json",
    "/index/%2e%2e/registry.json",
    "/index/..%2fregistry.json",
    "/index/Words.jsonl",
    "/index/words.jsonl/",
    "//index/words.jsonl",
    "/index/words.jsonl%00",
    "/index/.words.jsonl",
    "/blobs/sha256/aa/../../../registry.json",
    f"/blobs/sha256/ab/{'a' * 64}",
    f"/blobs/sha256/aa/{'a' * 63}",
    "/.server/server.sqlite3",
    "/private/registry.json",
    "/locks/words.lock",
    "/lookup/tensors.sqlite",
)


@pytest.fixture
def folder(server: Server) -> Path:
    """The registry's folder, with a module."""
    assert server.place.folder is not None
    publish_collection(server.place.folder, "words")
    return server.place.folder


def test_files_are_as_they_are_in_the_folder_and_asked_for_again_only_when_they_change(
    client: TestClient[ServerApp], folder: Path
) -> None:
    for path in ("registry.json", "modules.jsonl", "index/words.jsonl"):
        answer = client.get(f"/{path}")
        assert answer.content == (folder / path).read_bytes()
        again = client.get(f"/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    publish_collection(folder, "words", "1.1")
    etag = answer.headers["etag"]
    answer = client.get("/index/words.jsonl", headers={"If-None-Match": f"W/{etag}"})
    assert (answer.status_code, answer.content.count(b"\n")) == (200, 2)
    assert client.head("/index/words.jsonl").headers["content-length"] == str(len(answer.content))
    assert client.get("/index/others.jsonl").status_code == 404
    assert client.post("/index/words.jsonl").status_code == 405


@pytest.mark.parametrize("kept", [1 << 20, 10])
def test_blobs_are_immutable_and_come_in_ranges(
    kept: int, client: TestClient[ServerApp], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "KEPT_FILE", kept)
    digest = BlobTree(folder).add(bytes(range(100)))
    path = f"/{blob_path(parse_digest(digest))}"
    answer = client.get(path)
    assert digest_bytes(answer.content) == digest
    assert "immutable" in answer.headers["cache-control"]
    for asked, status, content in [
        ("bytes=0-0", 206, b"\0"),
        ("bytes=90-", 206, bytes(range(90, 100))),
        ("bytes=-5", 206, bytes(range(95, 100))),
        ("bytes=90-1000", 206, bytes(range(90, 100))),
        ("bytes=100-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=0-1,3-4", 200, bytes(range(100))),
        ("bytes=5-2", 200, bytes(range(100))),
        ("lines=1-2", 200, bytes(range(100))),
    ]:
        part = client.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (status, content), asked
    other = client.get(path, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ODD_PATHS)
def test_no_other_path_reaches_a_file(
    path: str, client: TestClient[ServerApp], folder: Path
) -> None:
    assert FILES.fullmatch(path) is None
    if ".." not in path:  # which a client resolves
        assert client.get(path).status_code in (400, 404)


def test_only_full_tiles_of_a_log_are_kept_for_ever(
    client: TestClient[ServerApp], folder: Path
) -> None:
    """Full ones never change; all else that a log has is asked for again."""
    release = f"log/releases/ab/{'ab' * 32}.json"
    lasting = ("log/tile/0/000", "log/tile/entries/x001/x234/067", "log/tile/1/000")
    changing = ("log/tile/0/001.p/7", "log/tile/entries/001.p/255", "log/checkpoint", release)
    for path in (*lasting, *changing):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x" * 32)
        answer = client.get(f"/{path}")
        again = client.get(f"/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (answer.status_code, again.status_code) == (200, 304)
        for one in (answer, again):
            assert ("immutable" in one.headers["cache-control"]) == (path in lasting), path
            assert (one.headers["cache-control"] == "no-cache") == (path in changing), path
    assert client.get("/log/tile/0/002").headers["cache-control"] == "no-cache"  # not there yet


def test_what_is_published_is_never_shown_as_a_page(
    client: TestClient[ServerApp], folder: Path
) -> None:
    digest = BlobTree(folder).add(b"<script>alert(1)</script>")
    headers = client.get(f"/{blob_path(digest)}").headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
