"""Publishing over HTTP, as `modpkg publish` does: what is sent, again and again, and what comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.manifest.config import Settings
from modpkg.manifest.logins import SentToken
from modpkg.registry import request_tries
from modpkg.registry.copying import copy_releases
from modpkg.registry.opening import open_place
from modpkg.registry.place import Blob
from modpkg.registry.publishing_client import PublishingClient
from modpkg.registry.reader import Registry
from modpkg.registry.server_place import ServerPlace
from modpkg.registry.server_writer import writer_at
from modpkg.registry.session_records import Uploaded
from modpkg.registry.writer import RegistryWriter
from modpkg.server.state import Server
from tests.changing import a_little, build_for, numbers, write
from tests.raising import raises
from tests.server.conftest import token_for
from tests.server.live import live_server
from tests.server.publisher import built

TENSORS = numbers("a", "b", "c")


class Killed(Exception):
    """What stands for the end of a publisher."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with live_server(tmp_path_factory.mktemp("live") / "registry") as server:
        yield server


@pytest.fixture(scope="module")
def token(live: Server) -> str:
    return token_for(live, "ada")


@pytest.fixture
def place(live: Server, token: str, monkeypatch: pytest.MonkeyPatch) -> ServerPlace:
    monkeypatch.setattr(request_tries, "_PAUSE", 0.001)
    url = live.settings.url
    made = open_place(url, Settings(logins={url: SentToken(token)}))
    assert isinstance(made, ServerPlace)
    return made


def publish(place: ServerPlace, folder: Path, **options: object) -> IndexLine:
    tree, line = built(folder, place)
    return writer_at(place).publish(Registry(str(tree.root)), line, **options)  # type: ignore[arg-type]


def test_a_release_and_its_update(place: ServerPlace, tmp_path: Path) -> None:
    told: list[int] = []
    first = publish(place, write(tmp_path / "1", TENSORS, "one"), progress=told.append)
    assert (first.version, first.published != "") == ("1.0", True)
    assert 0 < first.size - sum(told) < 2000  # the record is sent as what is declared
    registry = Registry(place.source.url)
    assert registry.index("one") == [first]
    update = write(tmp_path / "2", a_little(TENSORS, "b"), "one", "1.0.1")
    tree, line = built(update, place)
    writer = writer_at(place)
    preview = writer.preview(Registry(str(tree.root)), line)
    second = writer.publish(Registry(str(tree.root)), line)
    assert second.size == preview.size < first.size / 3
    assert writer.publish(Registry(str(tree.root)), line) == second
    read = Registry(place.source.url)
    assert [one.version for one in read.index("one")] == ["1.0", "1.0.1"]
    with raises("M307", match="one 1.0"):
        publish(place, write(tmp_path / "3", a_little(TENSORS, "c"), "one"))


def test_who_is_killed_goes_on_where_he_was(
    live: Server, place: ServerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, line = built(write(tmp_path / "1", numbers("a", count=3_000_000), "killed"), place)
    sent = 0

    def die(count: int) -> None:
        nonlocal sent
        sent += count
        if sent > 4_000_000:
            raise Killed

    dist = Registry(str(tree.root))
    with pytest.raises(Killed):
        writer_at(place).publish(dist, line, progress=die)
    assert Registry(place.source.url).index("killed") == []
    offsets: list[int] = []
    put = PublishingClient._put

    def noted(self: PublishingClient, path: str, digest: Digest, blob: Blob, *at: int) -> Uploaded:
        offsets.append(at[0])
        return put(self, path, digest, blob, *at)

    monkeypatch.setattr(PublishingClient, "_put", noted)
    done = writer_at(place).publish(dist, line)
    assert max(offsets) > 0
    assert Registry(place.source.url).index("killed") == [done]


def test_a_registry_is_copied_to_a_server(place: ServerPlace, tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    line = build_for(write(tmp_path / "1", TENSORS, "copied"), folder).line
    RegistryWriter(folder).publish(Registry(str(tmp_path / "1/dist")), line)
    copied = copy_releases(Registry(str(folder)), writer_at(place), {"copied": [line]}, Progress())
    assert copied.releases == 1
    read = Registry(place.source.url)
    assert read.index("copied")[0].release == line.release
    pack = parse_digest(next(iter(read.record(read.index("copied")[0]).packs)))
    assert place.size(blob_path(pack)) == (folder / blob_path(pack)).stat().st_size
