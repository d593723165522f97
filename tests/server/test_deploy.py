"""The files of ``deploy``: each is read by the program that it is for, or run as far as can be."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import click
import pytest
import tomli
import yaml

from modpkg.cli import cli
from modpkg.core.digests import blob_path, parse_digest
from modpkg.registry.reader import Registry
from modpkg.server.settings_file import read_server_settings
from modpkg.server.state import PRIVATE
from tests.documents import ROOT
from tests.modules import publish_collection
from tests.registry.places.store import free_port
from tests.registry.places.unpacked import find_program
from tests.registry.servers import make_certificate
from tests.server.live import live_server

DEPLOY = ROOT / "deploy"
NGINX = """
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def check_command(words: list[str]) -> None:
    """Check that modpkg takes a command line."""
    assert words[0] == "modpkg"
    command: click.Command = cli
    context, left = click.Context(cli), words[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, left.pop(0))
        assert found is not None
        command = found
    with command.make_context(command.name, left):
        pass


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_container_is_made_of_files_that_there_are_and_runs_the_server() -> None:
    found = instructions()
    assert found[0][0] == "FROM"
    copied = [rest.split()[:-1] for name, rest in found if name == "COPY"]
    for path in (path for paths in copied for path in paths):
        assert (ROOT / path).exists(), path
    only = dict(found)
    check_command([*json.loads(only["ENTRYPOINT"]), *json.loads(only["CMD"])])
    assert only["USER"] != "root"
    assert only["STOPSIGNAL"] == "SIGTERM"
    (check,) = re.findall(r"CMD (\[.*\])", only["HEALTHCHECK"])
    assert "/readyz" in json.loads(check)[-1]


def server_requirements(folder: Path) -> Path:
    """Return the file of requirements that the container's build makes."""
    (script,) = re.findall(r'python -c "(import tomllib.*?)"', dict(instructions())["RUN"])
    script = script.replace("tomllib", "tomli")  # Python 3.10
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    path = folder / "requirements-server.txt"
    path.write_text(done.stdout)
    return path


def test_the_container_has_what_the_extras_say(tmp_path: Path) -> None:
    extras = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = server_requirements(tmp_path).read_text().splitlines()
    assert {*lines} == {
        line for line in extras["server"] + extras["postgresql"] if "modpkg" not in line
    }


def test_compose() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    registry, database = services["registry"], services["database"]
    entry = json.loads(dict(instructions())["ENTRYPOINT"])
    check_command([*entry, *(re.sub(r"\$\{.*", "https://x", word) for word in registry["command"])])
    assert (DEPLOY / registry["build"]["context"] / registry["build"]["dockerfile"]).is_file()
    assert registry["volumes"] == [f"registry:{dict(instructions())['VOLUME']}"]
    assert all(port.startswith("127.0.0.1:") for port in registry["ports"])
    assert "ports" not in database
    assert registry["read_only"] is True
    secret = re.compile(r"\$\{POSTGRES_PASSWORD:\?[^}]*\}")
    assert secret.search(registry["environment"]["MODPKG_DATABASE"])
    assert secret.fullmatch(database["environment"]["POSTGRES_PASSWORD"])


def test_the_settings_are_settings() -> None:
    settings = read_server_settings(DEPLOY / "server.toml", storage="x")
    assert settings.is_secure
    assert settings.proxies == ("127.0.0.1", "::1")


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    text = (DEPLOY / "modpkg-registry.service").read_text()
    unit = configparser.RawConfigParser(strict=False)  # a key may be there twice
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    words = shlex.split(unit["Service"]["ExecStart"])
    config = words[words.index("--config") + 1]
    assert config == "/etc/modpkg/server.toml"
    words[words.index("--config") + 1] = str(DEPLOY / "server.toml")
    check_command(["modpkg", *words[1:]])
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is missing")
    program = tmp_path / "modpkg"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "modpkg-registry.service").write_text(
        text.replace("/opt/modpkg/bin/modpkg", str(program))
    )
    done = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / "modpkg-registry.service"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def behind_nginx(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server behind the site of nginx: its address, and the storage."""
    storage = tmp_path / "registry"
    certificate = make_certificate(tmp_path / "certificate.pem")
    port = free_port()
    with live_server(storage, proxies=("127.0.0.1",)) as server:
        site = (DEPLOY / "nginx.conf").read_text()
        for old, new in (
            ("127.0.0.1:8420", server.settings.url.removeprefix("http://")),
            ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
            ("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl http2;"),
            ("/etc/letsencrypt/live/models.example/fullchain.pem", str(certificate)),
            ("/etc/letsencrypt/live/models.example/privkey.pem", str(certificate)),
            ("/var/lib/modpkg/registry", str(storage)),
        ):
            assert old in site
            site = site.replace(old, new)
        (tmp_path / "site.conf").write_text(site)
        text = NGINX.format(folder=tmp_path)
        if os.geteuid() != 0:
            text = text.replace("user root;\n", "")
        (tmp_path / "nginx.conf").write_text(text)
        program, variables = find_program("nginx", "nginx")
        command = [program, "-p", tmp_path, "-e", tmp_path / "error.log"]
        running = subprocess.Popen(
            [*command, "-c", tmp_path / "nginx.conf"], env=os.environ | variables
        )
        try:
            yield f"https://127.0.0.1:{port}", storage
        finally:
            running.terminate()
            running.wait(120)


def test_nginx_serves_public_blobs_and_asks_the_server_for_all_else(
    behind_nginx: tuple[str, Path],
) -> None:
    url, storage = behind_nginx
    publish_collection(storage, "words", "1.0")
    publish_collection(storage / PRIVATE, "hidden", "1.0")
    context = ssl.create_default_context(cafile=str(storage.parent / "certificate.pem"))

    def get(path: str) -> tuple[int, Message]:
        try:
            with urlopen(url + path, context=context) as answer:
                return answer.status, answer.headers
        except HTTPError as error:
            return error.code, error.headers

    until = time.monotonic() + 120
    while True:
        with contextlib.suppress(ConnectionError, URLError):
            assert get("/healthz")[0] == 200
            break
        assert time.monotonic() < until
    public, hidden = (
        blob_path(parse_digest(Registry(str(folder)).line(name, "1.0").release))
        for folder, name in ((storage, "words"), (storage / PRIVATE, "hidden"))
    )
    status, headers = get(f"/{public}")
    assert (status, headers["Server"].startswith("nginx")) == (200, True)
    assert "immutable" in headers["Cache-Control"]
    for path in (hidden, f"private/{hidden}", ".server/server.sqlite3", f"blobs/../{PRIVATE}/x"):
        assert get(f"/{path}")[0] in (400, 404), path
    assert get("/index/words.jsonl")[0] == 200
    assert get("/index/hidden.jsonl")[0] == 404
    status, headers = get("/api/1/me")
    assert (status, len(headers["X-Request-ID"])) == (200, 32)  # nginx has given it
