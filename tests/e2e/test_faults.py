"""Kills at chosen changes to the file system, and many processes at once; all of it with
``python -m benchmarks.faults``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from modpkg.store.contents import scan_store
from modpkg.store.corruption import find_corruption
from modpkg.store.store import Store
from tests import forkserver, tiny
from tests.command import modpkg, modpkg_json
from tests.e2e.scenarios import SCENARIOS, Killings

KILLS = {"install": 6, "rollback": 2, "publish": 4, "gc": 4, "verify": 3, "vendor": 2}
"""How many of a command's changes are tried here, evenly spread; the benchmark tries each."""
DAY = 86400


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_a_change(name: str, tmp_path: Path) -> None:
    killings = Killings(name, tmp_path)
    step = killings.points / KILLS[name]
    for number in range(KILLS[name]):
        assert killings.kill(1 + int((number + 0.5) * step)) is not None


def test_eight_processes_at_once(home: Path, tmp_path: Path) -> None:
    """Installing, publishing, collecting and verifying in one store and one registry."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    work = []
    for number in range(4):
        app = tmp_path / f"app-{number}"
        app.mkdir()
        (app / "modpkg.toml").write_text('[app]\nname = "app"\n')
        versions = ("1.0", "2.0") if number % 2 else ("2.0", "1.0")
        work.append((app, [["install", f"talker=={version}"] for version in versions]))
    for number in range(2):
        folders = []
        for version in (3 + number, 5 + number):
            folder = tmp_path / "new" / f"{version}"
            tiny.write_adapter(folder, f"{version}.0", seed=version)
            modpkg("build", folder)
            folders.append(folder)
        work.append((tmp_path, [["publish", str(folder)] for folder in folders]))
    work.append((tmp_path, [["store", "gc", "--max-size", "0 B"]] * 4))
    work.append((tmp_path, [["store", "verify"]] * 3))
    code = "import subprocess, sys, json\nfor a in json.loads(sys.argv[1]):\n"
    code += "    subprocess.run([sys.executable, '-m', 'modpkg', *a], check=True)"
    processes = [
        subprocess.Popen(  # sys.executable is the forked one in each, too
            [forkserver.python(), "-c", code, json.dumps(commands)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ,
        )
        for folder, commands in work
    ]
    for process in processes:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, (out, err)
    for number in range(4):
        models = modpkg_json("list", cwd=tmp_path / f"app-{number}")["models"]
        assert models == {"talker": "2.0" if number % 2 else "1.0"}
    store = Store(home / "store")
    assert find_corruption(store, scan_store(store)) == []
    line_count = (home / "registry" / "index" / "tiny-lora.jsonl").read_text().count("\n")
    assert line_count == 2 + 4


@pytest.mark.parametrize("jump", [-3650 * DAY, 3650 * DAY], ids=["back", "forth"])
def test_a_clock_that_jumps(home: Path, tmp_path: Path, jump: float) -> None:
    """Times on files from a clock that was ten years off: nothing is lost or stays for ever."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    modpkg("install", "talker==1.0")
    moment = time.time() + jump
    for path in home.rglob("*"):
        if path.is_file():
            os.utime(path, (moment, moment))
    modpkg("install", "talker==2.0")
    assert modpkg_json("store", "gc")["releases"] == [] or jump < 0
    result = modpkg_json("store", "gc", "--max-size", "0 B")
    assert modpkg_json("store", "info")["releases"] == 3, result
    assert modpkg_json("store", "verify")["damaged"] == []
    modpkg("install", "--frozen", "--offline")
