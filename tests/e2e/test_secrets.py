"""No command prints or keeps a secret of an address, of config.toml or of a server's answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.e2e.remedies import Run, fails, works
from tests.registry.servers import Handler, Server, serve
from tests.tiny import APP

SECRETS = ("pathSecret42", "querySecret43")
PREFIX = f"/t/{SECRETS[0]}/r"
QUERY = f"?sv=1&sig={SECRETS[1]}"


class Signed(Handler):
    """Answers only what has the token in its path and the signature in its query."""

    def file(self) -> bytes | None:
        path, _, query = self.path.partition("?")
        if not path.startswith(PREFIX) or f"?{query}" != QUERY:
            return None
        self.path = path[len(PREFIX) :]
        return super().file()


@pytest.fixture
def address(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a copy of the registry that needs a token and a signature."""
    monkeypatch.delenv("MODPKG_REGISTRY")
    with serve(registry, Signed) as server:
        yield f"{server.url}{PREFIX}{QUERY}"


def kept(*folders: Path) -> list[str]:
    """Return the files that have a secret in them."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            if any(secret.encode() in data for secret in SECRETS):
                found.append(str(path))
    return found


READING = [
    ["lock"],
    ["install"],
    ["registry", "list", "--json"],
    ["info", "tiny"],
    ["info", "nothing", "--json"],
    ["search", "tiny"],
    ["outdated"],
    ["update", "--json"],
    ["show", "tiny"],
    ["tree"],
    ["why-not", "tiny==9"],
    ["log", "tiny==1.0"],
    ["diff", "tiny==9", "mine"],
    ["changelog", "tiny==9", "tiny==1.0"],
    ["fork", "tiny==9", "new"],
    ["vendor", "vendored"],
    ["yank", "tiny==1.0"],
    ["lock", "--upgrade", "--offline"],
]


def test_a_secret_of_the_registrys_address_is_not_shown(
    address: str, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODPKG_REGISTRY", address)
    for command in READING:
        text = run(*command, "-v")[1]
        assert not any(secret in text for secret in SECRETS), (command, text)
    assert "sig=***" in works(run, "registry", "list")
    assert Path("modpkg.lock").is_file()
    assert kept(home, Path()) == []


def test_m896_of_what_the_manifest_would_keep(address: str, run: Run, home: Path) -> None:
    text = fails(run, "M896", "install", "several", "--registry", address)
    assert "sig=***" in text
    assert not any(secret in text for secret in SECRETS)
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(f'[registries]\ndefault = "{address}"\n')
    (home / "config.toml").chmod(0o600)
    works(run, "install", "several")
    assert "sig" not in Path("modpkg.toml").read_text()
    (home / "config.toml").unlink()
    assert kept(home, Path()) == []


@pytest.mark.parametrize("fault", ["another server", "no server"])
def test_a_secret_is_not_shown_where_the_registry_fails(
    fault: str, registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(registry) as server:
        address = f"{server.url}{PREFIX}{QUERY}"
    if fault == "no server":
        monkeypatch.setattr("modpkg.registry.object_source.ObjectSource.RETRIES", 0)
    with serve(registry) as other:
        if fault == "another server":
            address = f"{other.url}{PREFIX}{QUERY}"
        for command in (["lock"], ["info", "tiny"], ["search"], ["build", "../projects/lora"]):
            text = run(*command, "--registry", address)[1]
            assert "error[" in text
            assert not any(secret in text for secret in SECRETS), text
    Path("modpkg.toml").write_text(APP + f'[registries]\ndefault = "{address}"\n')
    text = fails(run, "M110", "lock")
    assert not any(secret in text for secret in SECRETS), text


@pytest.mark.parametrize("login", ["token", "password"])
def test_m897_of_a_server_that_echoes(
    login: str, registry: Path, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "tok-0123456789"
    lines = {"token": f'token = "{secret}"', "password": f'username = "u"\npassword = "{secret}"'}
    sent = base64.b64encode(f"u:{secret}".encode()).decode()

    def echo(state: Server) -> None:
        name = json.loads((registry / "registry.json").read_text())
        name["name"] = f"r {sent}" if login == "password" else f"r-{secret}"
        state.fault = lambda handler, number: (
            handler.path == "/registry.json"
            and handler.answer(200, json.dumps(name).encode()) is None
        )

    with serve(registry) as server:
        monkeypatch.setenv("MODPKG_REGISTRY", server.url)
        home.mkdir(exist_ok=True)
        config = home / "config.toml"
        config.write_text(f'[registry."{server.url}"]\n{lines[login]}\n')
        config.chmod(0o600)
        echo(server)
        text = fails(run, "M897", "lock")
        assert secret not in text
        assert sent not in text
        config.unlink()
        found = [path for folder in (home, Path()) for path in folder.rglob("*") if path.is_file()]
        assert not any(secret.encode() in path.read_bytes() for path in found)
        server.fault = lambda handler, number: False
        works(run, "lock")


def test_publishing_shows_no_secret(address: str, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "3.0")
    for command in (["build", folder], ["publish", folder], ["check", folder], ["vet", folder]):
        text = run(*command, "--registry", address)[1]
        assert not any(secret in text for secret in SECRETS), text
