"""A registry that sends a file without an end: each reader stops at its bound, and says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from modpkg.core import bounds
from modpkg.trust.log import checking
from modpkg.trust.private_key import key_path, new_key
from tests.cli.test_everywhere import run
from tests.modules import write_module
from tests.registry.servers import Handler, serve
from tests.trust.log.logged import LoggedRegistry
from tests.trust.signed_registry import SignedRegistry

Capture = pytest.CaptureFixture[str]
MOST = 4 << 20
"""Bounds of files here."""
TAKEN = 200 << 20
"""More than is taken of any of them: the largest bounds, of an index and a blob, are 128 MiB."""
LOWERED = ("REGISTRY_INFO_BYTES", "SIGNATURES_BYTES", "CANDIDATES_BYTES", "ADVISORIES_BYTES")
PIECE = b" " * 65_536
MOST_SENT = 1 << 30


def endless(at: str, sent: list[int]) -> Callable[[Handler, int], bool]:
    """Return a fault: the files under a path have no end."""

    def fault(handler: Handler, number: int) -> bool:
        if at not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")  # nobody knows how long it is
        handler.end_headers()
        for _ in range(MOST_SENT // len(PIECE)):
            sent.append(len(PIECE))  # whoever asked may have gone after any of them
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        return True

    return fault


FILES = {
    "registry.json": ("install",),
    "/index/": ("install",),
    "/signatures/": ("install",),
    "/successors/": ("update",),
    "/blobs/": ("install",),
    "/candidates/": ("install", "--candidate", "words#1"),
    "advisories.jsonl": ("audit",),
}


@pytest.mark.parametrize("at", FILES)
def test_a_file_without_an_end_ends_the_command(
    at: str,
    home: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in LOWERED:
        monkeypatch.setattr(bounds, name, MOST)
    keys = {name: new_key(key_path(name), "ed25519", None) for name in ("ada", "bob")}
    models = str(tmp_path / "models")

    def publish(version: str, key: str) -> None:
        folder = write_module(tmp_path / "projects" / f"words-{version}", "words", version)
        assert run(capfd, "build", str(folder))[0] == 0
        assert run(capfd, "publish", str(folder), "--registry", models, "--sign", key)[0] == 0

    publish("1.0", "ada")
    sent: list[int] = []
    with serve(tmp_path / "models") as server:
        Path("modpkg.toml").write_text(
            f'[app]\nname = "app"\n[registries]\ndefault = "{server.url}"\n'
            '[dependencies]\nwords = "*"\n'
        )
        if FILES[at][0] in ("update", "audit"):
            assert run(capfd, "lock")[0] == 0
            named = ("--from", "ada", "--to", str(keys["bob"]), "--registry", models)
            assert run(capfd, "key", "succeed", "words", *named)[0] == 0
            publish("1.1", "bob")
        server.fault = endless(at, sent)
        status, _, err = run(capfd, *FILES[at])
    assert (status, "error[M" in err) == (1, True), err
    assert sent, err
    assert sum(sent) < TAKEN


LOGGED = {
    ("/log/checkpoint", "small"): ("lock",),
    ("/log/releases/", "large"): ("lock",),
    ("/log/tile/0/", "large"): ("lock",),
    ("/log/tile/entries/", "small"): ("lock",),
    ("/log/tile/entries/", "audited"): ("registry", "audit"),
}
SIGNED = ("root", "timestamp", "snapshot", "targets", "index-")


@pytest.mark.parametrize(("at", "log"), LOGGED)
def test_a_file_of_a_log_without_an_end_ends_the_command(
    at: str, log: str, home: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if log == "large":
        monkeypatch.setattr(checking, "SMALL", 0)
    logged = LoggedRegistry(tmp_path / "models").begin()
    for version in ("1.0", "1.1"):
        logged.publish("words", version)
    check(capfd, tmp_path / "models", at, LOGGED[at, log])


@pytest.mark.parametrize("at", SIGNED)
def test_a_file_of_signed_metadata_without_an_end_ends_the_command(
    at: str, home: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "TUF_FILE_BYTES", MOST)
    SignedRegistry(tmp_path / "models", now=datetime.now(timezone.utc))
    path = f"/tuf/{'' if at == 'timestamp' else '1.'}{at}"
    check(capfd, tmp_path / "models", path, ("lock",))


def check(capfd: Capture, folder: Path, at: str, words: tuple[str, ...]) -> None:
    """Check that a command of a new project ends soon, as a file has no end."""
    sent: list[int] = []
    with serve(folder) as server:
        Path("modpkg.toml").write_text(
            f'[app]\nname = "app"\n[registries]\ndefault = "{server.url}"\n'
            '[dependencies]\nwords = "*"\n'
        )
        server.fault = endless(at, sent)
        address = (server.url,) if words[0] == "registry" else ()
        status, _, err = run(capfd, *words, *address)
    assert (status, "error[M" in err) == (1, True), err
    assert sent, err
    assert sum(sent) < TAKEN
