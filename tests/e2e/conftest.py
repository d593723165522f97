"""The demo, run once for all end-to-end tests: real weights, real commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from modpkg.cli import main
from tests import forkserver, tiny
from tests.e2e.remedies import Run
from tests.modules import publish_collection
from tests.tiny import APP

ROOT = Path(__file__).parents[2]


class Demo(msgspec.Struct):
    """What the demo printed, and the home it left."""

    home: Path
    output: str


def run_demo(home: Path, *before: str, commands: Path = Path(sys.executable).parent) -> str:
    """Run examples/demo.sh with a separate home, and return its output.

    ``commands`` is the folder of ``python`` and ``modpkg``.
    """
    done = subprocess.run(
        [*before, "bash", str(ROOT / "examples" / "demo.sh")],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "MODPKG_HOME": str(home),
            "MODPKG_WORK": str(home / "work"),
            "PATH": f"{commands}:{os.environ['PATH']}",
        },
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo once per test run, whatever the number of workers.

    Its commands are forked processes; `test_a_second_run_needs_no_network` starts real ones.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    home, output = shared / "demo-home", shared / "demo-output.txt"
    with FileLock(shared / "demo.lock"):
        if not output.exists():
            (commands := shared / "demo-commands").mkdir()
            (commands / "python").symlink_to(forkserver.python())
            (commands / "modpkg").write_text('#!/bin/sh\nexec python -m modpkg "$@"\n')
            (commands / "modpkg").chmod(0o755)
            output.write_text(run_demo(home, commands=commands))
    return Demo(home, output.read_text())


@pytest.fixture
def examples(demo: Demo, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """Use the example registry from a fresh home; return the registry's folder."""
    registry = demo.home / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
    return registry


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line within this process: its exit status, and all that it printed."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        assert isinstance(left.value.code, int)
        return left.value.code, out + err

    return call


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a base, an adapter and a collection; tests use copies of it."""
    folder = tmp_path_factory.mktemp("published") / "registry"
    projects = folder.parent / "projects"
    tiny.publish(tiny.write_base(projects / "tiny"), folder)
    tiny.publish(tiny.write_adapter(projects / "lora"), folder)
    publish_collection(folder, "several")
    return folder


@pytest.fixture
def registry(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry like `published`; the working folder is an app's on it."""
    shutil.copytree(published.parent, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(folder))
    Path("modpkg.toml").write_text(APP)
    return folder
