"""Mirrors, credentials and faults of a network, as a person meets them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.command import modpkg, refused
from tests.registry.servers import Handler, Server, failing, serve

TOKEN = "s3cret-s3cret"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    tiny.publish_talker(tmp_path / "registry", tmp_path / "projects")
    with serve(tmp_path / "registry") as running:
        monkeypatch.setenv("MODPKG_REGISTRY", running.url)
        yield running


def write_config(home: Path, text: str, mode: int = 0o600) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)
    (home / "config.toml").chmod(mode)


def private(handler: Handler, number: int) -> bool:
    """Refuse whoever does not know the token."""
    known: bool = handler.headers.get("Authorization") == f"Bearer {TOKEN}"
    if not known:
        handler.answer(401)
    return not known


def test_a_mirror_serves_an_install_and_the_lock_is_the_same(
    server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\ntalker = "*"\n')
    modpkg("install")
    lock = Path("modpkg.lock").read_bytes()
    Path("modpkg.lock").unlink()
    shutil.rmtree(".modpkg")
    server.seen.clear()
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "another-home"))
    shutil.copytree(tmp_path / "registry", tmp_path / "mirror/models")
    with serve(tmp_path / "mirror") as mirror:
        text = f'[registry."{server.url}/"]\nmirrors = ["{mirror.url}/models/"]\n'
        write_config(tmp_path / "another-home", text)
        assert "warning" not in modpkg("install").stderr
        assert Path("modpkg.lock").read_bytes() == lock
        assert set(server.paths()) == {"/registry.json"}
        assert any(path.startswith("/models/blobs/") for path in mirror.paths())
        mirror.fault = failing(1000, 404)
        warned = modpkg("install", "tiny-lora<2", "talker<2").stderr
    assert warned.count("skipping the mirror ") == 1


def test_a_private_registry_wants_its_token(server: Server, home: Path) -> None:
    server.fault = private
    message = refused("install", "talker")
    assert "error[M314]" in message
    assert "requires credentials for index/talker.jsonl (401); put them into" in message
    assert f'{home}/config.toml, under [registry."{server.url}"].' in message
    write_config(home, f'[registry."{server.url}"]\ntoken-env = "ACME_TOKEN"\n')
    message = refused("install", "talker")
    assert "config.toml:2: registry.'http" in message
    assert "names an environment variable ACME_TOKEN that is not set; set it." in message
    modpkg("install", "talker", ACME_TOKEN=TOKEN)


def test_a_token_is_printed_nowhere(server: Server, home: Path) -> None:
    server.fault = private
    write_config(home, f'[registry."{server.url}"]\ntoken = "{TOKEN}!"\n', 0o644)
    done = modpkg("install", "talker", check=False)
    assert done.returncode == 1
    assert f"other users of this machine can read it; run: chmod 600 {home}/config" in done.stderr
    assert done.stderr.count("warning") == 1
    assert "rejects the credentials" in done.stderr
    as_json = modpkg("install", "talker", "--json", check=False)
    command = [sys.executable, "-m", "modpkg", "--debug", "install", "talker"]
    debug = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "Traceback" in debug.stderr
    for text in (done.stdout, done.stderr, as_json.stdout, debug.stdout, debug.stderr):
        assert TOKEN not in text


def test_an_address_with_a_password_is_refused(server: Server) -> None:
    message = refused("install", "talker", "--registry", f"https://ann:{TOKEN}@models.example")
    assert "error[M316]: The address of https://models.example contains a user or " in message
    assert TOKEN not in message


def test_a_mistake_in_the_configuration_is_reported(server: Server, home: Path) -> None:
    write_config(home, f'[registry."{server.url}"]\nmirors = []\n')
    message = refused("install", "talker")
    assert "config.toml:2: registry.'http://127.0.0.1:" in message
    assert "is not a key of [registry.'http" in message
    assert "; did you mean 'mirrors'?" in message


def test_a_failing_server_is_retried(server: Server) -> None:
    def fault(handler: Handler, number: int) -> bool:
        return failing(2, 503)(handler, server.paths().count(handler.path) - 1)

    server.fault = fault
    assert "warning" not in modpkg("install", "talker").stderr
    assert server.paths().count("/index/talker.jsonl") == 3


def test_a_failed_request_is_not_repeated(server: Server) -> None:
    server.fault = failing(1000, 418)
    assert "it answered index/talker.jsonl with status 418" in refused("install", "talker")
    assert sorted(server.paths()) == ["/index/talker.jsonl", "/registry.json"]
