"""Installing from a registry behind a real HTTP server, and without it."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.command import modpkg, modpkg_json, refused
from tests.registry.servers import LoopbackHttpServer


class Quiet(http.server.SimpleHTTPRequestHandler):
    status = 0
    """If set, the only answer: 200 is an unrelated web page."""

    def do_GET(self) -> None:
        if not Quiet.status:
            super().do_GET()
            return
        self.send_response(Quiet.status)
        self.send_header("Content-Length", "13")
        self.end_headers()
        self.wfile.write(b"<html></html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    monkeypatch.setattr(Quiet, "status", 0)
    tiny.publish_talker(tmp_path / "registry", tmp_path / "projects")
    handler = functools.partial(Quiet, directory=str(tmp_path / "registry"))
    with LoopbackHttpServer(("127.0.0.1", 0), handler) as running:
        monkeypatch.setenv("MODPKG_REGISTRY", f"http://127.0.0.1:{running.server_port}")
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_install_then_work_without_the_server(server: http.server.HTTPServer) -> None:
    modpkg("install", "talker<2")
    assert modpkg_json("install", "talker>=2", "--dry-run")["fetch"] > 0
    server.shutdown()
    server.server_close()
    assert "Nothing to do" in modpkg("install").stdout
    assert "Nothing to do" in modpkg("install", "--offline").stdout
    modpkg("install", "--offline", "talker<2", "tiny")  # all of it is here already
    assert modpkg_json("list")["models"].keys() == {"talker", "tiny"}
    message = refused("install", "--offline", "talker>=2")
    assert "error[M501]" in message
    assert "talker 2.0" in message or "tiny-lora 2.0" in message
    with socket.socket() as held:  # or a server of another test may get the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(server.server_address)
        assert "could not be read" in refused("install", "talker>=2")
    assert modpkg_json("list")["models"]["talker"] == "1.0"


def test_the_lock_holds_the_address_and_all_else_does_not_depend_on_it(
    server: http.server.HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "a"\n')
    modpkg("install", "talker")
    over_http = Path("modpkg.lock").read_text()
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "another-home"))
    Path("modpkg.lock").unlink()
    modpkg("install")
    from_folder = Path("modpkg.lock").read_text()
    server_url = f"http://127.0.0.1:{server.server_port}"
    assert from_folder == over_http.replace(server_url, str(tmp_path / "registry"))


def test_a_near_name_is_suggested(server: http.server.HTTPServer) -> None:
    assert "; did you mean 'talker'?" in refused("install", "talkr")


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (200, "/registry.json"),
        (404, "There is no registry at"),
        (410, "410"),
        (500, "it failed on index/talker.jsonl (status 500); try again"),
    ],
)
def test_each_answer_of_a_server_has_its_own_message(
    server: http.server.HTTPServer, status: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quiet, "status", status)
    message = refused("install", "talker")
    assert sentence in message
    assert sum(line.startswith("error[") for line in message.splitlines()) == 1


def test_publishing_to_an_address_is_refused(server: http.server.HTTPServer) -> None:
    modpkg("init", "words", "--kind", "collection")
    modpkg("build", "words")
    assert "error[M309]" in refused("publish", "words")
