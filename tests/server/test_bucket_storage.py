"""A server whose storage is an object store: uploads go there by signed addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from litestar.testing import TestClient
from msgspec import convert

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.records import IndexLine
from modpkg.server.app import make_app
from modpkg.server.file_answers import ServerApp
from modpkg.server.settings import ServerSettings
from modpkg.server.spool import BucketSpool, spooled_sessions
from modpkg.server.state import Server
from tests.changing import numbers, write
from tests.registry.s3 import running_s3, use_s3
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with running_s3() as url:
        yield url


@pytest.fixture
def bucket(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, TestClient[ServerApp], Publisher]]:
    """A server on a bucket, a client of it, and a publisher."""
    use_s3(monkeypatch, s3_url)
    # What moto holds is this process's: tests before this one may have left something.
    httpx.post(f"{s3_url}/moto-api/reset", trust_env=False, timeout=120)
    httpx.put(f"{s3_url}/bucket", trust_env=False, timeout=120)
    database = f"sqlite:///{tmp_path / 'server.sqlite3'}"
    server = Server(ServerSettings(storage="s3://bucket/models", database=database, name="test"))
    server.prepare()
    with TestClient(make_app(server)) as client:
        yield server, client, Publisher(client, token_for(server, "ada"))
    httpx.post(f"{s3_url}/moto-api/reset", trust_env=False, timeout=120)


def test_a_release_is_put_into_the_bucket_and_published_from_there(
    bucket: tuple[Server, TestClient[ServerApp], Publisher], tmp_path: Path
) -> None:
    server, client, ada = bucket
    tree, line = built(write(tmp_path / "1", numbers("a", "b")), server.place)
    declared = ada.declare(tree, line)
    assert declared.status_code == 200, declared.text
    session = declared.json()
    assert {blob["direct"] for blob in session["missing"]} == {True}
    for blob in session["missing"]:
        data = tree.read(blob["digest"], "a blob")
        assert httpx.put(blob["url"], content=data, trust_env=False, timeout=120).status_code == 200
    assert ada.request("GET", f"sessions/{session['id']}").json()["missing"] == []
    done = ada.commit(session["id"]).json()
    assert server.registry().index("m") == [convert(done["line"], IndexLine)]
    assert session["id"] not in spooled_sessions(server.place)
    assert client.get("/registry.json").json()["api"] == server.settings.api
    index = client.get("/index/m.jsonl")
    assert index.content.count(b"\n") == 1
    known = {"If-None-Match": index.headers["etag"]}
    assert client.get("/index/m.jsonl", headers=known).status_code == 304
    record = server.registry().record(convert(done["line"], IndexLine))
    for digest, size in record.packs.items():
        path = f"/{blob_path(parse_digest(digest))}"
        whole = client.get(path)
        assert len(whole.content) == size
        part = client.get(path, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert client.get("/index/none.jsonl").status_code == 404


def test_an_upload_through_the_server_goes_on_and_what_was_put_in_its_place_is_found_out(
    bucket: tuple[Server, TestClient[ServerApp], Publisher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, _, ada = bucket
    tree, line = built(write(tmp_path / "1", numbers("a", "b")), server.place)
    signed = ada.declare(tree, line).json()["missing"]
    monkeypatch.setattr(BucketSpool, "address", lambda self, digest: None)
    session = ada.declare(tree, line).json()
    large = max(session["missing"], key=lambda blob: blob["size"])
    digest, data = large["digest"], tree.read(large["digest"], "a blob")
    ada.put(session["id"], digest, data[:1000])
    assert ada.put(session["id"], digest, data[500:], 500).json()["code"] == "M454"
    assert ada.put(session["id"], digest, b"wrong", 0).json()["code"] == "M454"
    ada.upload(tree, ada.declare(tree, line).json())
    (url,) = [blob["url"] for blob in signed if blob["digest"] == digest]
    assert httpx.put(url, content=data[:1000], trust_env=False, timeout=120).status_code == 200
    assert httpx.put(url, content=b"\1" * 1000, trust_env=False, timeout=120).status_code == 200
    refused = ada.commit(session["id"])
    assert (refused.status_code, refused.json()["code"]) == (422, "M305")
    assert server.registry().names() == []
    ada.upload(tree, ada.declare(tree, line).json())
    assert ada.commit(session["id"]).status_code == 200
