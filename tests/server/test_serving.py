"""``modpkg registry serve`` in a process of its own: its log, its metrics, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

import modpkg.server.serving as serving_module
from modpkg.server.accounts import make_administrator
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account
from tests.raising import raises
from tests.registry.places.store import PATIENCE, free_port
from tests.server.conftest import token_for


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
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and running.poll() is None:
        with suppress(OSError):
            urlopen(f"{url}/readyz").close()
            return
        time.sleep(0.02)
    raise TimeoutError(url)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder.parent / "log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def workers_of(process: int) -> set[int]:
    workers = set()
    for number in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end at any moment
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                workers.add(int(number))
    return workers


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds, which on a busy machine takes its time."""
    until = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


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

        def counted(*figures: str) -> bool:
            """Return whether figures are counted, which happens when an answer has been sent."""
            text = urlopen(Request(f"{url}/metrics", headers=headers)).read().decode()
            return all(figure in text for figure in figures)

        answered = 'modpkg_requests_total{method="GET",route="/api/1/me",status="200"} 20.0'
        read = 'modpkg_file_reads_total{kind="registry.json",status="200"} 20.0'
        wait_until(lambda: counted(answered, read))

        killed = min(workers_of(running.pid))
        os.kill(killed, signal.SIGSTOP)
        time.sleep(1)  # for the parent to wait for its sign of life, as twice a second
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(workers_of(running.pid) - {killed}) == 2)

        host, port = "127.0.0.1", int(url.rpartition(":")[2])
        body = json.dumps({"name": "nobody", "password": "wrong-password"}).encode()
        head = (
            f"POST /api/1/login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, port), timeout=120) as under_way:
            under_way.sendall(head.encode() + body[:10])
            wait_until(lambda: counted("requests_under_way 2"))
            running.send_signal(signal.SIGTERM)
            wait_until(lambda: not answers(url))
            under_way.sendall(body[10:])
            answer = under_way.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 401")
        assert running.wait(120) == 0
    events = [line["event"] for line in lines(folder)]
    assert (events[0], events[-1]) == ("started", "stopped")
    assert "wrong-password" not in (tmp_path / "log").read_text()
    assert not [line for line in lines(folder) if line["level"] == "error"]


def test_an_address_has_one_server_whose_workers_end_when_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "FREE_SECONDS", 0.1)
    with serving(tmp_path / "registry", "--workers", "2") as (running, url):
        port = int(url.rpartition(":")[2])
        with raises("M901", match="in use"):
            serving_module.serve(ServerSettings(storage=str(tmp_path / "other")), "127.0.0.1", port)
        assert not (tmp_path / "other").exists()
        running.kill()
        wait_until(lambda: not answers(url))
