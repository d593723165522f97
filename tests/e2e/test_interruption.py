"""SIGINT and SIGTERM end local work, whatever it is in, and leave nothing half-made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.command import modpkg

ROOT = Path(__file__).parents[2]

STUCK = """
import ctypes, importlib, sys, threading, time
where, within, *arguments = sys.argv[1:]

def library():  # a call from which no signal brings Python back
    lock = ctypes.create_string_buffer(128)
    hold = ctypes.CDLL(None).pthread_mutex_lock
    hold(lock), hold(lock)

def stuck(*_, **__):
    print("stuck", flush=True)
    if within == "library":
        library()
    thread = threading.Thread(target=time.sleep, args=(600,))  # the interpreter waits for it
    thread.start()
    thread.join()

module, name = where.split(":")
setattr(importlib.import_module(module), name, stuck)
from modpkg.cli import main
main(arguments)
"""
"""A command of modpkg that comes to a step which does not end."""

COMMANDS = {
    "build": ("modpkg.release.build:write_stamps", ["build", "new"]),
    "import": (
        "modpkg.interop.hf:write_manifest",
        ["import", "hf", "new", "--out", "out", "--license", "MIT"],
    ),
    "publish": ("modpkg.registry.release_blobs:verify_release", ["publish", "built"]),
    "verify": ("modpkg.store.corruption:digest_file", ["store", "verify"]),
}


def listing(folder: Path) -> dict[str, bytes]:
    """Return all files but locks, hints, results of checks, and what makes a folder a registry."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not {"lookup", "tested"} & set(path.parts)
        and not path.name.endswith("lock")
        and path.name != "registry.json"
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="blocks as Linux does")
@pytest.mark.parametrize(
    ("name", "within", "sent", "word"),
    [
        ("build", "library", signal.SIGTERM, "Terminated"),
        ("import", "thread", signal.SIGINT, "Interrupted"),
        ("publish", "library", signal.SIGINT, "Interrupted"),
        ("verify", "thread", signal.SIGTERM, "Terminated"),
    ],
)
def test_a_signal_ends_local_work(
    name: str, within: str, sent: signal.Signals, word: str, home: Path, tmp_path: Path
) -> None:
    tiny.write_base(tmp_path / "new", "2.0")
    if name == "publish":
        modpkg("build", tiny.write_base(tmp_path / "built", "3.0"), cwd=tmp_path)
    if name == "verify":
        tiny.publish_talker(home / "registry", tmp_path / "projects")
        (tmp_path / "modpkg.toml").write_text('[app]\nname = "app"\n')
        modpkg("install", "talker==1.0", cwd=tmp_path)
    before = listing(tmp_path)
    where, arguments = COMMANDS[name]
    command = subprocess.Popen(
        [sys.executable, "-c", STUCK, where, within, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    try:
        assert "stuck" in iter(command.stdout.readline, "").__next__(), command.stderr.read()
        command.send_signal(sent)
        assert command.wait(300) == 128 + sent
        told = command.stderr.read().splitlines()
    finally:
        command.kill()
        command.communicate()
    assert told[-1] == f"{word}; no partial results are left behind."
    assert len([line for line in told if "partial" in line]) == 1
    assert listing(tmp_path) == before
    assert [*tmp_path.rglob(".tmp-*")] == []
