"""A server as a process: two on one storage, ended while it is at work, and what is beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modpkg.core.digests import blob_path, parse_digest
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.place import registry_at
from modpkg.server.accounts import make_administrator
from modpkg.server.settings import ServerSettings
from modpkg.server.settings_file import read_server_settings
from modpkg.server.state import Server
from tests.changing import numbers, write
from tests.command import modpkg, modpkg_json
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.places.store import PATIENCE
from tests.server.conftest import token_for
from tests.server.processes import served
from tests.server.publisher import Publisher, built


def race(folder: Path, publishers: Sequence[Publisher], version: str) -> None:
    """Publish one version by two servers at once: one release is there, the other is refused."""
    place, sessions = FolderPlace(folder / "registry"), []
    for number, publisher in enumerate(publishers):
        made = write(folder / f"{version}-{number}", numbers("c", seed=number), "m0", version)
        tree, line = built(made, place)
        sessions.append(publisher.declare(tree, line).json())
        publisher.upload(tree, sessions[-1])
    with ThreadPoolExecutor(len(publishers)) as pool:
        answers = [*pool.map(lambda one, session: one.commit(session["id"]), publishers, sessions)]
    won, lost = sorted((one.json() for one in answers), key=lambda found: "code" in found)
    assert lost["code"] == "M307"
    registry = registry_at(place)
    assert [line.version for line in registry.index("m0")].count(version) == 1
    assert registry.line("m0", version).release == won["line"]["release"]


def test_two_servers_share_a_storage_and_a_database(tmp_path: Path) -> None:
    storage = tmp_path / "registry"
    place = FolderPlace(storage)
    trees = [
        built(write(tmp_path / str(i), numbers("a", "b", seed=i), name=f"m{i}"), place)
        for i in range(4)
    ]
    with served(storage, "--name", "test") as one, served(storage, "--name", "test") as two:
        clients = [one.wait(), two.wait()]
        server = Server(ServerSettings(storage=str(storage)))
        token = token_for(server, "ada")
        server.close()
        first, second = (Publisher(client, token) for client in clients)
        session = first.declare(*trees[0]).json()
        half = session["missing"][: len(session["missing"]) // 2]
        first.upload(trees[0][0], session | {"missing": half})
        second.upload(trees[0][0], second.request("GET", f"sessions/{session['id']}").json())
        done = second.commit(session["id"]).json()
        assert first.commit(session["id"]).json() == done
        work = [
            threading.Thread(target=publisher.publish, args=tree)
            for publisher, tree in zip([first, second, first], trees[1:], strict=True)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert registry_at(place).names() == ["m0", "m1", "m2", "m3"]
        for client in clients:
            assert client.get("/modules.jsonl").text.count('"index"') == 4
        for version in ("2.0", "3.0"):  # each has a release of it, and they are committed at once
            race(tmp_path, (first, second), version)
        ranged = clients[0].get(
            f"/{blob_path(parse_digest(trees[0][1].release))}", headers={"Range": "bytes=0-9"}
        )
        assert (ranged.status_code, len(ranged.content)) == (206, 10)
        for process in (one, two):
            assert process.end()[0] == 0


def test_a_server_that_is_asked_to_end_answers_what_is_under_way(tmp_path: Path) -> None:
    storage = tmp_path / "registry"
    with served(storage) as process:
        client = process.wait()
        server = Server(ServerSettings(storage=str(storage)))
        ada = Publisher(client, token_for(server, "ada"))
        make_administrator(server.database, "ada")
        server.close()
        tree, line = built(write(tmp_path / "m", numbers("a", "b")), FolderPlace(storage))
        session = ada.declare(tree, line).json()
        blob = max(session["missing"], key=lambda blob: blob["size"])
        data = tree.read(blob["digest"], "a blob")
        go_on = threading.Event()

        def slowly() -> Iterator[bytes]:
            yield data[:1000]
            go_on.wait(PATIENCE)
            yield data[1000:]

        answers = []
        path = f"/api/1/sessions/{session['id']}/blobs/{blob['digest']}"
        upload = threading.Thread(
            target=lambda: answers.append(client.put(path, content=slowly(), headers=ada.headers))
        )
        upload.start()
        figure = "modpkg_requests_under_way 2.0"  # with the one that asks
        until = time.monotonic() + PATIENCE
        while figure not in client.get("/metrics", headers=ada.headers).text:
            assert time.monotonic() < until
            time.sleep(0.05)
        threading.Timer(0.5, go_on.set).start()
        status, text = process.end()
        upload.join()
    assert (status, "Traceback" in text) == (0, False), text
    assert [answer.json()["complete"] for answer in answers] == [True]


def test_the_first_administrator_and_a_database_that_was_lost(tmp_path: Path) -> None:
    storage = tmp_path / "registry"
    publish_collection(storage, "words")
    assert modpkg_json("registry", "rebuild", storage)["modules"] == ["words"]
    assert modpkg_json("registry", "rebuild", storage)["modules"] == []
    done = modpkg("registry", "admin", "chief", storage, check=False)
    assert (done.returncode, "--password-stdin" in done.stderr) == (2, True)


def test_a_repository_of_a_hub_is_no_storage_of_a_server() -> None:
    with raises("M901", match="hub"):
        Server(ServerSettings(storage="hf://acme/models"))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "https://models.example/registry"])
def test_what_is_served_is_no_storage_of_a_server(address: str) -> None:
    with raises("M309", match="where they lie"):
        Server(ServerSettings(storage=address))


def test_settings_come_from_a_file_and_options_come_before_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('url = "https://models.example/"\n[limits]\nopen_sessions = 3\n')
    settings = read_server_settings(file, storage="x", name=None)
    assert settings.api == "https://models.example/api/1/"
    assert settings.limits.open_sessions == 3
    assert read_server_settings(file, storage="x", url="http://y").url == "http://y"
    for text, match in [
        ("[limits]\nopen_session = 3\n", "open_session"),
        ('url = "a\n', "TOML"),
        ("url = 3\n", "url"),
        ('proxies = ["somewhere"]\n', "somewhere"),
        ('publishing_issuers = ["http://ci.example"]\n', "https"),
        ('[[login_issuers]]\nurl = "x"\ntitle = "X"\nclient_id = "x"\n', "https"),
    ]:
        file.write_text(text)
        with raises("M110", match=match):
            read_server_settings(file, storage="x")
