"""``--offline`` opens no socket, seen from outside the process; and says what it would need."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.command import modpkg
from tests.registry.servers import Server, serve

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="strace watches the system calls")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    tiny.publish_talker(tmp_path / "registry", tmp_path / "projects")
    with serve(tmp_path / "registry") as running:
        monkeypatch.setenv("MODPKG_REGISTRY", running.url)
        yield running


def watched(*arguments: str | Path) -> tuple[int, str, list[str]]:
    """Run a command; return its status, its output, and the sockets it opened."""
    trace = Path("trace").absolute()
    # With a filter in the kernel, other system calls run at their usual speed.
    watch = [str(STRACE), "-f", "--seccomp-bpf", "-e", "trace=socket,connect", "-o", str(trace)]
    done = subprocess.run(
        [*watch, sys.executable, "-m", "modpkg", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    sockets = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    return done.returncode, done.stdout + done.stderr, sockets


def offline(*arguments: str | Path) -> str:
    """Run a command that has to do without a network and can."""
    status, output, sockets = watched(*arguments, "--offline")
    assert status == 0, output
    assert sockets == []
    return output


def refused(*arguments: str | Path) -> str:
    status, output, sockets = watched(*arguments, "--offline")
    assert status == 1, output
    assert sockets == []
    assert "error[M501]: Cannot fetch " in output
    return output


def test_the_watch_sees_a_socket(server: Server) -> None:
    status, output, sockets = watched("install", "talker")
    assert status == 0, output
    assert sockets != []


def test_nothing_to_fetch_needs_no_socket(server: Server, tmp_path: Path) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "a"\n')
    modpkg("install", "talker")
    modpkg("why-not", "tiny-lora==1.0")
    asked = len(server.seen)
    offline("install")
    shutil.rmtree(".modpkg")
    assert "Installed" in offline("install", "--frozen")
    Path("modpkg.lock").unlink()
    offline("lock")
    offline("update")
    assert "cannot be selected" in offline("why-not", "tiny-lora==1.0")
    offline("outdated")
    offline("build", tmp_path / "projects/lora-1")
    assert len(server.seen) == asked


def test_missing_files_are_named_without_a_socket(server: Server, tmp_path: Path) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\ntalker = "*"\n')
    prefix = f"Cannot fetch {server.url}/index/"
    assert f"{prefix}talker.jsonl" in refused("install")
    assert f"{prefix}talker.jsonl" in refused("lock")
    assert f"{prefix}talker.jsonl" in refused("update")
    assert f"{prefix}talker.jsonl" in refused("why-not", "talker==1.0")
    assert f"{prefix}tiny.jsonl" in refused("build", tmp_path / "projects/lora-1")
    modpkg("lock")
    Path("modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\nother = "*"\n')
    assert f"{prefix}other.jsonl" in refused("install")
    assert server.paths().count("/index/talker.jsonl") == 1


def test_a_blob_that_is_missing_is_named(server: Server) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\ntalker = "*"\n')
    modpkg("lock")
    message = refused("install", "--frozen")
    assert " of ti" in message or " of talker" in message
    assert not Path(".modpkg/current").exists()
