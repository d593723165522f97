"""Progress: a bar with a rate on a terminal, a line per module elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import modpkg
from tests.modules import publish, write_module
from tests.registry.servers import Handler, Server, serve

SIZE = 3_000_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    files = {"notes.txt": os.urandom(SIZE)}
    publish(write_module(tmp_path / "slow", "slow", files=files), tmp_path / "registry")
    with serve(tmp_path / "registry") as running:
        monkeypatch.setenv("MODPKG_REGISTRY", running.url)
        yield running


def trickle(handler: Handler, number: int) -> bool:
    """Answer with a large file in pieces, a little later each."""
    data = handler.file()
    if data is None or len(data) < SIZE:
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    for begin in range(0, len(data), 300_000):
        handler.wfile.write(data[begin : begin + 300_000])
        time.sleep(0.15)
    return True


def test_a_pipe_gets_a_line_per_module_and_no_bar(server: Server) -> None:
    server.fault = trickle
    done = modpkg("install", "slow")
    assert done.stderr == "Fetched slow 1.0 (3.0 MB)\n"
    assert modpkg("install", "slow>=1").stderr == "", "nothing was fetched"


def test_json_is_alone_on_standard_output(server: Server) -> None:
    assert modpkg("install", "slow", "--json").stdout.startswith("{")


def test_a_terminal_gets_a_bar_with_rate_and_time_left(server: Server) -> None:
    server.fault = trickle
    main, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "modpkg", "install", "slow"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=side, stdin=side, env=environment
    )
    os.close(side)
    shown = b""
    while True:
        try:
            piece = os.read(main, 1 << 16)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    out, _ = child.communicate(timeout=300)
    assert child.returncode == 0
    assert b"Installed 1 module " in out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"Fetching .*[0-9.]+/3\.0 MB .*[0-9.]+ MB/s .*0:00:0[0-9]", plain), plain
    assert "Fetched" not in plain
