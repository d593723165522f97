"""What a server does not have for a caller may be private: errors name the command that helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.digests import digest_bytes
from modpkg.core.tree import BlobTree
from modpkg.registry.missing import no_such_module
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.server.state import Server
from tests.modules import publish_collection
from tests.raising import raises
from tests.server.live import live_server


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with live_server(tmp_path_factory.mktemp("live") / "registry") as server:
        yield server


def test_a_module_or_blob_that_a_server_does_not_show_may_be_private(live: Server) -> None:
    registry = Registry(live.settings.url)
    command = f"modpkg login {live.settings.url}"
    with raises("M304", match=command):
        raise no_such_module("secret", registry)
    digest = digest_bytes(b"hidden")
    with raises("M306", match=command):
        registry.blob(digest, "a record")
    with raises("M306", match=command):
        list(registry.stream(digest, "a blob"))


def test_who_may_not_read_a_module_any_more_gets_one_sentence(live: Server, tmp_path: Path) -> None:
    assert live.place.folder is not None
    publish_collection(live.place.folder, "lib", "1.0")
    warnings: list[str] = []

    def opened() -> Registry:
        cache = BlobTree(tmp_path / "store")
        return Registry(live.settings.url, cache=cache, warn=warnings.append)

    assert opened().line("lib", "1.0")
    (live.place.folder / "index" / "lib.jsonl").unlink()
    RegistryWriter(live.place.folder).describe_all()
    with raises("M304", match=f"any more: it had 1.0.*modpkg login {live.settings.url}"):
        opened().line("lib", "1.0")
    assert not warnings


def test_a_folder_has_nothing_to_log_in_to(live: Server) -> None:
    folder: Path | None = live.place.folder
    registry = Registry(str(folder))
    assert "login" not in str(no_such_module("secret", registry))
    with raises("M306") as failed:
        list(registry.stream(digest_bytes(b"hidden"), "a blob"))
    assert "login" not in str(failed.value)
