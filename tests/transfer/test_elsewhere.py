"""Blobs that a registry does not hold: fetched from the places that it lists, and verified."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.elsewhere import elsewhere_path, places_document
from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.registry import outside
from modpkg.store.store import Store
from modpkg.transfer import fetch as fetching
from modpkg.transfer import pieces
from tests.changing import numbers, publish_to, record_of
from tests.raising import raises
from tests.registry.servers import Handler, Server, failing, serve
from tests.transfer.helpers import asked_for, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = f"/org/base/resolve/{COMMIT}/model.safetensors"
PLACE = f"hf://org/base@{COMMIT}/model.safetensors"


class Stage:
    """A registry whose one pack lies on a hub, which redirects to where it keeps files."""

    def __init__(self, folder: Path, hub: Server, keeper: Server, own: Server) -> None:
        self.registry, self.hub, self.keeper, self.own = folder / "registry", hub, keeper, own
        self.line: IndexLine = publish_to(self.registry, numbers("a", "b", "c"), deltas=False)
        (self.pack,) = record_of(self.registry, self.line).packs
        blob = self.registry / blob_path(parse_digest(self.pack))
        self.file = keeper.folder / FILE.lstrip("/")
        self.file.parent.mkdir(parents=True)
        blob.rename(self.file)
        self.size = self.file.stat().st_size
        self.told = hashlib.sha256(self.file.read_bytes()).hexdigest()
        hub.fault = self.redirect
        self.write(PLACE)

    def redirect(self, handler: Handler, number: int) -> bool:
        location = f"{self.keeper.url}{handler.path}?signature=a%2Fb"
        handler.answer(302, Location=location, X_Linked_ETag=f'"{self.told}"')
        return True

    def write(self, *places: str) -> None:
        path = self.registry / elsewhere_path(parse_digest(self.pack))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(places_document(places))

    def fetch(self, store: Path, *hosts: str, url: str | None = None) -> None:
        fetch(
            Store(store),
            url or str(self.registry),
            self.line,
            settings=Settings(place_hosts=frozenset(hosts)),
        )


class Signed(Handler):
    """Storage whose addresses have a query, which is no part of a file's name."""

    def file(self) -> bytes | None:
        self.path = self.path.partition("?")[0]
        return super().file()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(fetching, "PIECE", 4096)
    monkeypatch.setattr(fetching, "GAP", 0)
    monkeypatch.setattr(pieces, "PAUSE", 0.001)
    monkeypatch.setattr(outside, "_PAUSE", 0.001)
    with (
        serve(tmp_path / "hub") as hub,
        serve(tmp_path / "kept", Signed) as keeper,
        serve(tmp_path / "registry") as own,
    ):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield Stage(tmp_path, hub, keeper, own)


def test_a_registry_in_a_folder_or_on_a_server(stage: Stage, tmp_path: Path) -> None:
    for number, url in enumerate([str(stage.registry), stage.own.url]):
        stage.keeper.seen.clear()
        stage.fetch(tmp_path / f"store{number}", url=url)
        length = sum(
            entry.length for entry in record_of(stage.registry, stage.line).tensors.values()
        )
        assert asked_for(stage.keeper) == length  # each byte once
    assert {seen.headers.get("authorization") for seen in stage.hub.seen} == {"Bearer hf_secret"}
    assert {seen.headers.get("authorization") for seen in stage.keeper.seen} == {None}
    misses = [
        path for path in stage.own.paths() if path == f"/{blob_path(parse_digest(stage.pack))}"
    ]
    assert len(misses) <= fetching.CONNECTIONS  # what begins at once; nobody asks again


def test_the_registrys_own_copy_comes_first(stage: Stage, tmp_path: Path) -> None:
    blob = stage.registry / blob_path(parse_digest(stage.pack))
    blob.write_bytes(stage.file.read_bytes())
    stage.fetch(tmp_path / "store")
    stage.fetch(tmp_path / "other", url=stage.own.url)
    assert not stage.hub.seen


def test_no_document_is_a_missing_blob(stage: Stage, tmp_path: Path) -> None:
    (stage.registry / elsewhere_path(parse_digest(stage.pack))).unlink()
    with raises("M306"):
        stage.fetch(tmp_path / "store")
    with raises("M306"):
        stage.fetch(tmp_path / "store", url=stage.own.url)


@pytest.mark.parametrize("tells", [True, False])
def test_other_bytes_are_refused(stage: Stage, tmp_path: Path, tells: bool) -> None:
    data = bytearray(stage.file.read_bytes())
    data[-1] ^= 1
    stage.file.write_bytes(data)
    stage.told = hashlib.sha256(data).hexdigest() if tells else "an etag of another kind"
    with raises("M877", match="other bytes"):
        stage.fetch(tmp_path / "store")
    if tells:
        assert not stage.keeper.seen


def test_another_place_is_taken_where_one_fails(stage: Stage, tmp_path: Path) -> None:
    other = f"hf://org/gone@{COMMIT}/model.safetensors"
    stage.write(other, PLACE)
    stage.fetch(tmp_path / "store")


def test_a_token_that_the_hub_does_not_know(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    stage.hub.fault = failing(99, 401)
    with raises("M878", match="does not know the token"):
        stage.fetch(tmp_path / "store")


@pytest.mark.parametrize(
    ("fault", "code", "match"),
    [
        (failing(99, 404), "M877", "is gone"),
        (failing(99, 410), "M877", "is gone"),
        (failing(99, 403), "M878", "hf auth login"),
        (failing(99, 500), "M878", "status 500"),
        (failing(99, 418), "M878", "status 418"),
        (lambda handler, _: handler.answer(302, Location=handler.path) or True, "M878", "loop"),
        (lambda handler, _: handler.answer(302) or True, "M878", "loop"),
        (
            lambda handler, _: handler.answer(302, Location="http://models.example/a") or True,
            "M878",
            "without TLS",
        ),
        (
            lambda handler, _: handler.answer(302, Location="https://localhost:1/a") or True,
            "M879",
            "localhost",
        ),
        (
            lambda handler, _: handler.answer(302, Location="https://169.254.169.254/a") or True,
            "M879",
            "169.254",
        ),
        (
            lambda handler, _: handler.answer(429, Retry_After="3600") or True,
            "M878",
            "status 429",
        ),
    ],
)
def test_what_a_hub_may_answer(
    fault: Callable[[Handler, int], bool], code: str, match: str, stage: Stage, tmp_path: Path
) -> None:
    stage.hub.fault = fault
    with raises(code, match=match):
        stage.fetch(tmp_path / "store")


def test_a_passing_failure_is_tried_again(stage: Stage, tmp_path: Path) -> None:
    busy, redirect = failing(3, 503), stage.redirect
    stage.hub.fault = lambda handler, number: busy(handler, number) or redirect(handler, number)
    broken = {0, 2}

    def cut(handler: Handler, number: int) -> bool:
        if number in broken:
            handler.give(stage.keeper, cut=100)
        return number in broken

    stage.keeper.fault = cut
    stage.fetch(tmp_path / "store")


def test_an_address_that_expired_is_asked_for_again(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)
    expired = failing(2, 403)
    stage.keeper.fault = lambda handler, number: number > 0 and expired(handler, number)
    stage.fetch(tmp_path / "store")
    assert len(stage.hub.seen) == 2


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("https://models.example/model.safetensors", "M879"),
        ("http://models.example/model.safetensors", "M879"),
        ("https://127.0.0.1.nip.example/model.safetensors", "M879"),
        ("https://user:secret@models.example/a", "M879"),
        ("file:///etc/passwd", "M860"),
        ("hf://org/base@main/../../etc/passwd", "M860"),
        ("ftp://models.example/a", "M860"),
        ("hf://org/base", "M860"),
        ("", "M860"),
    ],
)
def test_only_allowed_hosts_are_asked(place: str, code: str, stage: Stage, tmp_path: Path) -> None:
    stage.write(place)
    with raises(code):
        stage.fetch(tmp_path / "store")
    assert not stage.hub.seen


def test_another_port_of_the_hubs_host_is_another_server(stage: Stage, tmp_path: Path) -> None:
    stage.write(f"{stage.keeper.url}{FILE}")
    with raises("M879"):
        stage.fetch(tmp_path / "store")
    assert not stage.keeper.seen


def test_a_host_that_the_user_names(stage: Stage, tmp_path: Path) -> None:
    stage.write(f"http://localhost:{stage.keeper.url.rpartition(':')[2]}{FILE}")
    with raises("M879"):
        stage.fetch(tmp_path / "store")
    stage.fetch(tmp_path / "store", "localhost")
    stage.write("http://models.example/model.safetensors")
    with raises("M878", match="without TLS"):
        stage.fetch(tmp_path / "other", "models.example")


def test_a_document_that_is_none(stage: Stage, tmp_path: Path) -> None:
    path = stage.registry / elsewhere_path(parse_digest(stage.pack))
    for data in (b"{}", b"[", b'{"places":[1],"spec":1}', b'{"places":["a\\u0007"],"spec":1}'):
        path.write_bytes(data)
        with raises("M209"):
            stage.fetch(tmp_path / "store")
    path.write_bytes(b" " * (1 << 20))
    with raises("M327"):
        stage.fetch(tmp_path / "store")
