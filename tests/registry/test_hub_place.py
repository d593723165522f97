"""A registry in a repository of a hub: read by its addresses there, changed by single commits."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.records import IndexLine
from modpkg.manifest.read import read_manifest
from modpkg.registry.opening import open_place
from modpkg.registry.place import registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from tests import forkserver
from tests.hub_server import TOKEN, Handler, Hub, hub_server
from tests.modules import write_module
from tests.raising import raises

REGISTRY = "hf://team/models"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        state.repository("team/models")
        yield state


def built(folder: Path, name: str, version: str, size: int = 5000) -> tuple[Registry, IndexLine]:
    files = {"README.md": f"{name} {version}".encode(), "large.txt": name.encode() * size}
    project = write_module(folder / f"{name}-{version}", name, version, files=files)
    manifest = read_manifest(project / "modpkg.toml")
    assert manifest.module is not None
    line = build(manifest, manifest.module, project / "dist").line
    return Registry(str(project / "dist")), line


def publish(folder: Path, name: str, version: str, size: int = 5000) -> IndexLine:
    return RegistryWriter(open_place(REGISTRY)).publish(*built(folder, name, version, size))


def commits(hub: Hub) -> list[str]:
    """Return the titles of the commits on the branch, the oldest first."""
    repository = hub.repositories["team/models"]
    commit, titles = repository.head, []
    while True:
        titles.insert(0, commit.title)
        if commit.parent is None:
            return titles
        commit = repository.commits[commit.parent]


def check_whole(reader: Registry, name: str) -> list[str]:
    lines = reader.index(name)
    for line in lines:
        for digest, what in blobs_of(reader.record(line)):
            assert b"".join(reader.stream(digest, what))
    return [line.version for line in lines]


def test_a_release_is_one_commit(hub: Hub, tmp_path: Path) -> None:
    line = publish(tmp_path, "words", "1.0")
    assert commits(hub) == ["x", "modpkg: registry", "modpkg: words"]
    files = hub.repositories["team/models"].head.files
    assert {"registry.json", "modules.jsonl", "index/words.jsonl"} <= files.keys()
    assert json.loads(files["registry.json"])["name"].startswith("models-")
    reader = Registry(REGISTRY)
    assert check_whole(reader, "words") == ["1.0"]
    assert reader.index("words") == [line]
    assert [json.loads(text)["name"] for text in files["modules.jsonl"].splitlines()] == ["words"]
    again = RegistryWriter(open_place(REGISTRY))
    assert again.publish(*built(tmp_path / "again", "words", "1.0")) == line
    assert len(commits(hub)) == 3
    with raises("M307"):
        publish(tmp_path / "other", "words", "1.0", size=10)
    RegistryWriter(open_place(REGISTRY)).yank("words", "1.0", "broken")
    assert Registry(REGISTRY).index("words")[0].yanked == "broken"
    assert len(commits(hub)) == 4


def test_large_blobs_lie_elsewhere_and_no_token_goes_there(hub: Hub, tmp_path: Path) -> None:
    publish(tmp_path, "words", "1.0", size=400_000)
    assert check_whole(Registry(REGISTRY), "words") == ["1.0"]
    there = [headers for _, path, headers in hub.seen if "signature=" in path]
    assert there
    assert not any("authorization" in headers for headers in there)
    before = hub.received
    publish(tmp_path / "b", "words", "1.1", size=400_000)
    assert hub.received - before < 100_000


def test_publishers_at_once_lose_nothing(hub: Hub, tmp_path: Path) -> None:
    RegistryWriter(open_place(REGISTRY)).prepare()
    todo = [built(tmp_path, "words", "1.0"), built(tmp_path, "words", "2.0")]
    todo += [built(tmp_path, "other", "1.0"), built(tmp_path, "third", "1.0")]
    for one, line in todo:  # `huggingface_hub` has one client in a process
        place = open_place(REGISTRY)
        writer, raced = RegistryWriter(place), threading.Event()

        def race(handler: Handler) -> bool:
            if "/commit/" in handler.path and not raced.is_set():  # noqa: B023
                raced.set()  # noqa: B023
                head = handler.hub.repositories["team/models"].head
                handler.hub.repositories["team/models"].commit(dict(head.files), title="race")
            return False

        hub.fault = race
        writer.publish(one, line)
    reader = Registry(REGISTRY)
    assert check_whole(reader, "words") == ["1.0", "2.0"]
    assert check_whole(reader, "other") == check_whole(reader, "third") == ["1.0"]
    assert commits(hub).count("race") == 4


def test_a_commit_whose_answer_was_lost_is_found(hub: Hub, tmp_path: Path) -> None:
    RegistryWriter(open_place(REGISTRY)).prepare()
    lost: list[int] = []

    def lose(handler: Handler) -> bool:
        if "/commit/" not in handler.path or lost:
            return False
        lost.append(1)
        handler.wfile = open("/dev/null", "wb")  # type: ignore[assignment]  # noqa: SIM115
        handler.give()
        handler.close_connection = True
        handler.connection.close()
        return True

    hub.fault = lose
    publish(tmp_path, "words", "1.0")
    assert commits(hub) == ["x", "modpkg: registry", "modpkg: words"]


def test_who_may_not_write_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with raises("M867", match="hf auth login"):
        publish(tmp_path, "words", "1.0")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fault = lambda handler: "/preupload/" in handler.path and handler.answer(403) is None
    with raises("M867", match="does not let you write"):
        publish(tmp_path, "words", "1.0")
    hub.fault = lambda handler: False
    with raises("M867", match="commit never changes"):
        open_place(f"{REGISTRY}@{hub.repositories['team/models'].head.sha}")
    with raises("M867", match="hf repos create team/none"):
        RegistryWriter(open_place("hf://team/none")).prepare()
    with raises("M867", match="hf repos branch create team/models v1"):
        RegistryWriter(open_place(f"{REGISTRY}@v1")).prepare()


def test_a_private_registry_is_read_with_the_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "words", "1.0")
    hub.repositories["team/models"].private = True
    assert check_whole(Registry(REGISTRY), "words") == ["1.0"]
    monkeypatch.delenv("HF_TOKEN")
    with raises("M861", match="hf auth login"):
        Registry(REGISTRY).index("words")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with raises("M861", match="does not know the token"):
        Registry(REGISTRY).index("words")


def test_a_branch_and_a_commit_are_read(hub: Hub, tmp_path: Path) -> None:
    publish(tmp_path, "words", "1.0")
    repository = hub.repositories["team/models"]
    first = repository.branches["stable"] = repository.head.sha
    publish(tmp_path, "words", "2.0")
    assert check_whole(Registry(f"{REGISTRY}@stable"), "words") == ["1.0"]
    assert check_whole(Registry(f"{REGISTRY}@{first}"), "words") == ["1.0"]
    place = open_place(REGISTRY)
    paths = {file.path for file in place.stored("index")}
    assert paths == {"index/words.jsonl"}
    place.remove("index/words.jsonl")
    assert place.size("index/words.jsonl") is None
    assert registry_at(place).name.startswith("models-")


_KILLED = """
import os, signal
from modpkg.registry.hub_place import HubPlace
from modpkg.cli import main

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(HubPlace, {at!r}, killed)
main(["publish", {folder!r}, "--registry", {registry!r}])
"""


@pytest.mark.parametrize("at", ["_upload", "commit"])
def test_a_publisher_that_is_killed_leaves_nothing(at: str, hub: Hub, tmp_path: Path) -> None:
    publish(tmp_path, "words", "1.0")
    head = hub.repositories["team/models"].head.sha
    built(tmp_path, "words", "2.0", size=400_000)
    folder = str(tmp_path / "words-2.0")
    code = _KILLED.format(at=at, folder=folder, registry=REGISTRY)
    assert forkserver.run("-c", code).returncode == -signal.SIGKILL
    assert hub.repositories["team/models"].head.sha == head
    publish(tmp_path / "again", "words", "2.0", size=400_000)
    assert check_whole(Registry(REGISTRY), "words") == ["1.0", "2.0"]
