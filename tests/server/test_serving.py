<<<<<<< HEAD
"""``modpkg registry serve`` in a process of its own: its log, its metrics, its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from modpkg.server.accounts import make_administrator
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account
from tests.server.conftest import token_for
from tests.server.live import free_port


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the command, and give the process and the address of the server."""
    port = free_port()
    command = [sys.executable, "-m", "modpkg", "registry", "serve", str(folder)]
    with (folder.parent / "log").open("wb") as log:
        running = subprocess.Popen([*command, "--port", str(port), *options], stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(url, running)
            yield running, url
        finally:
            running.kill()
            running.wait()


def _wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        with suppress(OSError):
            urlopen(f"{url}/readyz").close()
            return
        time.sleep(0.02)
    raise TimeoutError(url)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder.parent / "log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def answers(url: str) -> bool:
    try:
        urlopen(f"{url}/healthz", timeout=5).close()
    except OSError:
        return False
    return True


def test_a_server_of_two_processes_from_its_start_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    with serving(folder, "--workers", "2") as (running, url):
        state = Server(ServerSettings(storage=str(folder)))
        token = token_for(state, "ada")
        make_administrator(state.database, "ada")
        with state.database.begin() as db:
            assert db.query(Account).one().is_administrator
        state.close()
        for _ in range(20):
            urlopen(f"{url}/registry.json").close()
            with suppress(HTTPError):
                urlopen(f"{url}/api/1/me").close()
        headers = {"Authorization": f"Bearer {token}"}
        text = urlopen(Request(f"{url}/metrics", headers=headers)).read().decode()
        assert 'modpkg_requests_total{method="GET",route="/api/1/me",status="200"} 20.0' in text
        assert 'modpkg_file_reads_total{kind="registry.json",status="200"} 20.0' in text

        host, port = "127.0.0.1", int(url.rpartition(":")[2])
        body = json.dumps({"name": "nobody", "password": "wrong-password"}).encode()
        head = (
            f"POST /api/1/login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, port), timeout=30) as under_way:
            under_way.sendall(head.encode() + body[:10])
            until = time.monotonic() + 30
            while "requests_under_way 2" not in (
                urlopen(Request(f"{url}/metrics", headers=headers)).read().decode()
            ):
                assert time.monotonic() < until
            running.send_signal(signal.SIGTERM)
            while answers(url):
                assert time.monotonic() < until
            under_way.sendall(body[10:])
            answer = under_way.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 401")
        assert running.wait(30) == 0
    events = [line["event"] for line in lines(folder)]
    assert (events[0], events[-1]) == ("started", "stopped")
    assert "wrong-password" not in (tmp_path / "log").read_text()
    assert not [line for line in lines(folder) if line["level"] == "error"]
=======
"""A server as a process: two on one storage, ended while it is at work, and what is beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from modpkg.core.digests import blob_path, parse_digest
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.place import registry_at
from modpkg.server.settings import ServerSettings
from modpkg.server.settings_file import read_server_settings
from modpkg.server.state import Server
from tests.changing import numbers, write
from tests.command import modpkg, modpkg_json
from tests.modules import publish_collection
from tests.raising import raises
from tests.server.conftest import token_for
from tests.server.processes import served
from tests.server.publisher import Publisher, built


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
        server.close()
        tree, line = built(write(tmp_path / "m", numbers("a", "b")), FolderPlace(storage))
        session = ada.declare(tree, line).json()
        blob = max(session["missing"], key=lambda blob: blob["size"])
        data = tree.read(blob["digest"], "a blob")
        sent = threading.Event()

        def slowly() -> Iterator[bytes]:
            yield data[:1000]
            sent.set()
            time.sleep(1)
            yield data[1000:]

        answers = []
        path = f"/api/1/sessions/{session['id']}/blobs/{blob['digest']}"
        upload = threading.Thread(
            target=lambda: answers.append(client.put(path, content=slowly(), headers=ada.headers))
        )
        upload.start()
        sent.wait()
        time.sleep(0.2)
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
    assert (done.returncode, "M439" in done.stderr) == (1, True)


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
    ]:
        file.write_text(text)
        with raises("M110", match=match):
            read_server_settings(file, storage="x")
>>>>>>> 2f0c3bb (registry admin and rebuild, settings in a file; a server that is killed or asked to end, tested)
