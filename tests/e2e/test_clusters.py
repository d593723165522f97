"""Composing on a Dask cluster from the command line: the same bytes as on threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.command import modpkg, modpkg_json

APP = '[app]\nname = "app"\n[dependencies]\ntalker = "*"\n'


@pytest.mark.filterwarnings("ignore")  # distributed's own, about ports and sockets
def test_a_cluster_composes_what_threads_do(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    tiny.publish_talker(home / "registry", tmp_path / "projects")
    app = tmp_path / "app"
    app.mkdir()
    (app / "modpkg.toml").write_text(APP)
    monkeypatch.setenv("MODPKG_REGISTRY", str(home / "registry"))
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "threads"))
    threads = modpkg_json("compose", "--threads", "2", cwd=app)
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "dask"))
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        assert modpkg_json("compose", "--executor", address, cwd=app) == threads
    packs = [
        sorted(path.read_bytes() for path in (tmp_path / each / "store").rglob("weights.*"))
        for each in ("threads", "dask")
    ]
    assert packs[0] == packs[1] != []
    # An install finds them in the store, and composes nothing.
    written = [path.stat().st_mtime_ns for path in (tmp_path / "dask").rglob("weights.*")]
    modpkg("install", cwd=app)
    assert written == [path.stat().st_mtime_ns for path in (tmp_path / "dask").rglob("weights.*")]
    unknown = modpkg("compose", "--executor", "ray://x:1", cwd=app, check=False)
    assert unknown.returncode == 2
    assert "dask://" in unknown.stderr
