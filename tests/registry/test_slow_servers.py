"""Servers that trickle, flood, lie or never end: a sentence tells which, and a signal ends it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import bounds
from modpkg.core.errors import RegistryUnreachable
from modpkg.registry import requests
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.source import FolderSource
from tests.changing import numbers, write
from tests.modules import publish
from tests.planted import write_app
from tests.raising import raises
from tests.registry.servers import Handler, answering, serve

ROOT = Path(__file__).parents[2]
PATIENCE = timedelta(seconds=0.4)
OK = b"HTTP/1.1 200 OK\r\n"


def trickling(head: bytes, drop: bytes = b"a", pause: float = 0.05) -> Callable[[Any], None]:
    """Send a head, and then a few bytes at a time until the other side hangs up."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(drop)
            time.sleep(pause)

    return talk


def flooding(head: bytes, drop: bytes) -> Callable[[Any], None]:
    return trickling(head, drop * 1000, 0)


def saying(text: bytes) -> Callable[[Any], None]:
    def talk(connection: socket.socket) -> None:
        connection.sendall(text)
        connection.recv(1)  # until the other side hangs up

    return talk


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {to}\r\n\r\n".encode()


def part(span: bytes, body: bytes = b"cde") -> bytes:
    size = str(len(body)).encode()
    head = b"HTTP/1.1 206 P\r\nContent-Length: " + size + b"\r\nContent-Range: " + span
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (part(b"bytes 0-2/8"), "it sent another part of f than was asked for"),
        (part(b"bytes 2-7/8", b"cdefgh"), "it sent another part of f than was asked for"),
        (part(b"bytes two-four/8"), "it does not say which part of f it sent"),
        (part(b"bytes 2-99999999999999999999999/8"), "it does not say which part of f it sent"),
        (
            OK.replace(b"200", b"206") + b"Content-Length: 3\r\n\r\ncde",
            "it does not say which part",
        ),
    ],
)
def test_a_part_that_is_another_one_is_refused(answer: bytes, sentence: str) -> None:
    with answering(saying(answer)) as address, raises("M302", match=sentence):
        [*ObjectSource(address).stream("f", 2, 5)]


@pytest.mark.parametrize(
    "talk",
    [saying(b""), trickling(OK), flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
)
def test_a_server_that_does_not_answer(talk: Callable[[Any], None]) -> None:
    silence = "it did not answer in time: its answer to f did not begin for 0.4 seconds"
    with answering(talk) as address, raises("M302", match=silence):
        ObjectSource(address, patience=PATIENCE).read("f")


@pytest.mark.parametrize(
    ("talk", "sentence"),
    [
        (saying(OK + b"Content-Length: 9\r\n\r\nabc"), "nothing came of f for {} seconds"),
        (trickling(OK + b"Content-Length: 99999\r\n\r\n"), "bytes of f in [0-9]+ seconds"),
    ],
)
def test_a_server_that_does_not_go_on(talk: Callable[[Any], None], sentence: str) -> None:
    for seconds in (0.4, 4, 40):  # on a busy machine the answer may not begin within the first
        with answering(talk) as address, pytest.raises(RegistryUnreachable) as error:
            ObjectSource(address, patience=timedelta(seconds=seconds)).read("f")
        if "did not begin" not in str(error.value):
            break
    assert error.value.code == "M302"
    assert re.search(sentence.format(seconds), str(error.value))


@pytest.mark.parametrize(
    ("talk", "sentence"),
    [
        (flooding(OK, b"X-A: " + b"a" * 90 + b"\r\n"), "the headers of its answer to f are too"),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n"), "its answer to f is not one of HTTP"),
        (saying(OK + b"Content-Length: -7\r\n\r\n"), "its answer to f is not one of HTTP"),
        (saying(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"), "how long f is"),
        (saying(OK + b"Content-Length: 3, 3\r\n\r\nabc"), "how long f is"),
        (saying(redirect("file:///etc/passwd")), "it redirects f to where nothing can be read"),
        (saying(redirect("data:,x")), "it redirects f to what is no address of HTTP"),
        (saying(redirect("http://127.0.0.1:99999/")), "it redirects f to what is no address of"),
        (saying(b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n\r\n"), "it redirects f to nowhere"),
        (
            saying(OK + b"Content-Length: 3\r\nLast-Modified: Fri, 99 Nov 2026\r\n\r\nabc"),
            "the date that it gives for f, with Last-Modified, is none",
        ),
    ],
)
def test_a_server_that_answers_what_is_no_answer(
    talk: Callable[[Any], None], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectSource, "RETRIES", 0)
    with answering(talk) as address, raises("M302", match=sentence):
        ObjectSource(address).read("f")


def test_a_flood_before_the_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all attempts of the library."""
    monkeypatch.setattr("modpkg.core.bounds.ANSWER_SECONDS", 0.2)
    flood = flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    with answering(flood) as address, raises("M302", match=r"f did not begin for 0\.2 seconds"):
        ObjectSource(address, patience=PATIENCE).read("f")


@pytest.mark.parametrize(
    "talk",
    [
        saying(OK + b"Content-Length: 9000000000\r\n\r\n"),
        flooding(OK + b"Content-Length: 5001\r\n\r\n", b"a"),
    ],
)
def test_a_file_that_is_too_large_is_not_read(talk: Callable[[Any], None]) -> None:
    with answering(talk) as address, raises("M327", match="f of the registry at .* over .* 5.0 kB"):
        ObjectSource(address).read("f", most=5000)


def test_a_file_of_a_folder_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abcd")
    assert FolderSource(tmp_path).read("f", 4) == b"abcd"
    with raises("M327", match="over its bound of 3 B"):
        FolderSource(tmp_path).read("f", 3)


def test_a_slow_file_has_a_time_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SMALL_FILE_SECONDS", 0.5)
    monkeypatch.setattr(bounds, "SLOWEST_BYTES_PER_SECOND", 1)
    talk = trickling(OK + b"Content-Length: 99999\r\n\r\n")
    with (
        answering(talk) as address,
        raises("M302", match=r"it took over 0.5 seconds to send f"),
    ):
        ObjectSource(address).read("f")


def test_a_slow_stream_yields_what_has_come() -> None:
    talk = trickling(OK + b"Content-Length: 99999\r\n\r\n")
    with answering(talk) as address:
        assert len(next(ObjectSource(address).stream("f"))) < 10_000


def test_a_compressed_answer_stays_as_it_came() -> None:
    body = b"\x1f\x8b\x08\x00\x00"
    talk = saying(OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n" + body)
    with answering(talk) as address:
        assert ObjectSource(address).read("f") == body


def test_a_wait_that_is_abandoned_ends_at_once() -> None:
    errors: list[BaseException] = []

    def read(address: str) -> None:
        try:
            ObjectSource(address).read("f")
        except BaseException as error:
            errors.append(error)

    asked = threading.Semaphore(0)

    def silent(connection: socket.socket) -> None:
        asked.release()
        connection.recv(1)

    with answering(silent) as address:
        threads = [threading.Thread(target=read, args=(address,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert asked.acquire(timeout=300)
        assert requests.any_abandoned()
        requests.abandon()
        for thread in threads:
            thread.join()
    assert [type(error) for error in errors] == [requests.Abandoned] * 3


@pytest.mark.parametrize(
    ("silent", "sent", "status", "word"),
    [
        ("/registry.json", signal.SIGINT, 130, "Interrupted"),
        ("/index/", signal.SIGTERM, 143, "Terminated"),
        ("/blobs/", signal.SIGINT, 130, "Interrupted"),
        ("/signatures/", signal.SIGINT, 130, "Interrupted"),
    ],
)
def test_a_signal_ends_a_command_that_waits(
    tmp_path: Path, silent: str, sent: signal.Signals, status: int, word: str
) -> None:
    registry, project, home = tmp_path / "registry", tmp_path / "app", tmp_path / "home"
    project.mkdir()
    for name in ("m", "n", "o"):
        folder = write(tmp_path / name, numbers(name), name)
        publish(folder, registry)
    if silent == "/signatures/":
        for index in (registry / "index").iterdir():
            index.write_bytes(index.read_bytes().replace(b"{", b'{"signed":true,', 1))
        (registry / "modules.jsonl").unlink()
    write_app(project, dict.fromkeys(("m", "n", "o"), "*"))
    asked, is_over = threading.Event(), threading.Event()
    with serve(registry) as server:

        def fault(handler: Handler, number: int) -> bool:
            waits = handler.path.startswith(silent) and (
                silent != "/blobs/" or "range" in {name.lower() for name in handler.headers}
            )
            if waits:
                asked.set()
                is_over.wait(300)
                handler.hang_up()
            return waits

        server.fault = fault
        command = subprocess.Popen(
            [sys.executable, "-m", "modpkg", "install", "--registry", server.url],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MODPKG_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert asked.wait(200)
            time.sleep(0.2)  # in which a command of many threads comes to other waits
            command.send_signal(sent)
            _, errors = command.communicate(timeout=200)
        finally:
            command.kill()
            is_over.set()
    assert command.returncode == status
    assert errors.splitlines()[-1] == f"{word}; no partial results are left behind."
    assert "Traceback" not in errors
    assert [*tmp_path.rglob(".tmp-*")] == []
    assert not (project / "modpkg.lock").exists()
