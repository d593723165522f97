"""A few commands on a disk that fails, that is full, or that is read-only.

All commands and every call: ``python -m benchmarks.faults --failing``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modpkg.core.files import write_atomically
from modpkg.environment import undo
from modpkg.environment.generations import Environment
from tests import tiny
from tests.command import modpkg, modpkg_json
from tests.failing_disk import FAULTS, build_library

ROOT = Path(__file__).parents[2]


def test_a_command_on_a_disk_that_fails(tmp_path: Path) -> None:
    """One fault of each kind, in the middle of a command that reads and writes a registry."""
    library = build_library(tmp_path)
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    failures = tmp_path / "failures"
    command = [sys.executable, "-m", "tests.failing_disk", tmp_path, "--scenario", "yank"]
    done = subprocess.run(
        [*command, "--faults", "1", "--failures", failures],
        env=os.environ | {"LD_PRELOAD": str(library)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert not failures.exists(), failures.read_text()
    assert len(rows) == len(FAULTS)
    assert sum(row.get("refused", 0) for row in rows) > 5


@pytest.fixture
def app(home: Path, tmp_path: Path) -> Path:
    """An app with talker 1.0 and then 2.0."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n')
    for version in ("1.0", "2.0"):
        modpkg("install", f"talker=={version}", cwd=folder)
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_read_only_is_read(app: Path, home: Path, tmp_path: Path) -> None:
    for folder in (app, home):
        subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        for folder in (app, home):
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        out = tmp_path / "out"
        for command in (
            ("store", "info"),
            ("store", "verify"),
            ("store", "gc", "--dry-run"),
            ("licenses",),
            ("list",),
            ("show", "talker"),
            ("why", "tiny"),
            ("tree",),
            ("install",),
            ("install", "--dry-run", "talker==1.0"),
            ("export", "talker", str(out / "model")),
            ("fork", "tiny==1.0", "mine", "--out", str(out / "mine")),
            ("vendor", str(out / "vendored")),
        ):
            modpkg(*command, cwd=app)
        refused = modpkg("rollback", cwd=app, check=False)
        assert "error[M510]" in refused.stderr
    finally:
        for folder in (app, home):
            subprocess.run(["umount", "-l", folder], check=True)


def test_damage_in_a_store_that_cannot_be_written_is_told(app: Path, home: Path) -> None:
    path = max((home / "store" / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    subprocess.run(["mount", "--bind", home, home], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", home], check=True)
        told = modpkg("store", "verify", cwd=app, check=False)
    finally:
        subprocess.run(["umount", "-l", home], check=True)
    assert told.returncode == 1
    assert "corrupt tensor" in told.stdout
    assert "M510" in told.stderr or "read-only" in told.stderr


def test_what_a_failed_rollback_changed_is_put_back(
    app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modpkg.environment.install import roll_back
    from modpkg.environment.project import project_in

    texts = {name: (app / name).read_bytes() for name in ("modpkg.toml", "modpkg.lock")}
    switch = Environment.switch
    calls = iter((True, False))

    def failing(self: Environment, number: int) -> None:
        switch(self, number)
        if next(calls):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Environment, "switch", failing)
    with pytest.raises(OSError, match="Input/output"):
        roll_back(project_in(app))
    assert {name: (app / name).read_bytes() for name in texts} == texts
    assert modpkg_json("list", cwd=app)["models"] == {"talker": "2.0"}
    assert undo.write_atomically is write_atomically


def test_an_export_of_weights_that_changed_is_refused(app: Path, tmp_path: Path) -> None:
    packs = sorted((app / ".modpkg" / "packs").iterdir(), key=lambda path: path.stat().st_size)
    packs[-1].chmod(0o644)
    with open(packs[-1], "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    out = tmp_path / "out"
    refused = modpkg("export", "talker", out, cwd=app, check=False)
    assert "error[M508]" in refused.stderr
    assert not out.exists()
    assert list(tmp_path.glob(".tmp-*")) == []


def test_m508_of_a_pack_that_is_a_copy_is_repaired_by_an_install(app: Path, tmp_path: Path) -> None:
    pack = max((app / ".modpkg" / "packs").iterdir(), key=lambda path: path.stat().st_size)
    data = pack.read_bytes()
    pack.unlink()
    pack.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused = modpkg("export", "talker", tmp_path / "out", cwd=app, check=False)
    told = " ".join(refused.stderr.split())
    assert f"; remove {pack} and run 'modpkg install'." in told
    pack.unlink()
    modpkg("install", cwd=app)
    assert pack.read_bytes() == data
    modpkg("export", "talker", tmp_path / "out", cwd=app)
