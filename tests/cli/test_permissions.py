"""What a user may not read or write ends in one sentence with a code, whichever command it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modpkg.cli import main
from modpkg.core import home as home_module
from modpkg.core.files import denied
from tests.modules import publish_collection, write_module


def failing(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 1
    done = capsys.readouterr()
    return done.err + done.out


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_home_that_cannot_be_written(
    code: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "lib")
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    real = os.open

    def refuse(path: str, *arguments: object, **options: object) -> int:
        if str(path).startswith(str(home / "store")):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    told = failing(["install"], capsys)
    assert "error[M510]" in told
    assert str(home / "store") in told
    assert "set MODPKG_HOME to a folder that you can write to" in told
    error = json.loads(failing(["install", "--json"], capsys))["error"]
    assert error["code"] == "M510"


def test_only_what_is_denied_has_this_code(home: Path, tmp_path: Path) -> None:
    assert home_module.home() == home
    assert denied(OSError(errno.EIO, "Input/output error", str(home))) is None
    assert denied(OSError(errno.EACCES, "Permission denied")) is None
    refusal = denied(OSError(errno.EACCES, "Permission denied", str(tmp_path / "elsewhere")))
    assert refusal is not None
    assert "MODPKG_HOME" not in str(refusal)
    above = denied(OSError(errno.EROFS, "Read-only file system", str(home.parent)))
    assert "set MODPKG_HOME" in str(above)  # it cannot be made


WEAK = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to another user needs root")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_folders_of_another_user(home: Path, tmp_path: Path) -> None:
    publish_collection(home / "registry", "lib")
    theirs, registry = tmp_path / "theirs", tmp_path / "registry"
    (theirs / "store").mkdir(parents=True)
    shutil.copytree(home / "registry", registry)
    app = write_module(tmp_path / "app", "app")
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    for folder in (theirs, theirs / "store"):
        folder.chmod(0o755)  # whatever the umask is
        os.chown(folder, 4321, 4321)

    def install(**environment: str) -> str:
        done = subprocess.run(
            [*WEAK, sys.executable, "-m", "modpkg", "install"],
            cwd=app,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        return done.stderr

    told = install(MODPKG_HOME=str(theirs), MODPKG_REGISTRY=str(registry))
    assert "error[M510]" in told
    assert "it belongs to another user); set MODPKG_HOME" in told
    for path in (registry, *registry.rglob("*")):  # as published under umask 077 by somebody else
        os.chown(path, 4321, 4321)
        path.chmod(0o700 if path.is_dir() else 0o600)
    told = install(MODPKG_REGISTRY=str(registry))
    assert "error[M510]" in told
    assert "ask its owner for access" in told
