"""Keys: how they are written, what they sign, and which are refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.trust.agent import agent_key
from modpkg.trust.private_key import new_key, read_key
from modpkg.trust.public_key import Algorithm, parse_key
from tests.raising import raises

MESSAGE = b"a message"


def never() -> str:
    raise AssertionError("nobody should be asked")


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256"])
@pytest.mark.parametrize("passphrase", [None, "hush"])
def test_a_key_signs_and_its_text_verifies(
    tmp_path: Path, algorithm: Algorithm, passphrase: str | None
) -> None:
    path = tmp_path / "keys" / "one.pem"
    public = new_key(path, algorithm, passphrase)
    key = read_key(path, never if passphrase is None else lambda: "hush")
    assert key.public == public == parse_key(str(public))
    signature = key.sign(MESSAGE)
    assert public.verifies(signature, MESSAGE)
    assert not public.verifies(signature, MESSAGE + b"!")
    assert not public.verifies(b"", MESSAGE)
    other = new_key(tmp_path / "two.pem", algorithm, None)
    assert not other.verifies(signature, MESSAGE)


def test_a_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.pem"
    new_key(path, "ed25519", None)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with raises("M547", match="chmod 600"):
        read_key(path, never)


def test_wrong_keys_end_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "one.pem"
    new_key(path, "ed25519", "hush")
    with raises("M547", match="passphrase"):
        read_key(path, lambda: "wrong")
    with raises("M548"):
        new_key(path, "ed25519", None)
    with raises("M549"):
        read_key(tmp_path / "none.pem", never)
    rsa = tmp_path / "rsa.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA", "-out", rsa], check=True, capture_output=True
    )
    rsa.chmod(0o600)
    with raises("M547", match="neither"):
        read_key(rsa, never)
    damaged = path.read_text().replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\n!", 1)
    for text in ("no key", damaged):
        (tmp_path / "text.pem").write_text(text)
        (tmp_path / "text.pem").chmod(0o600)
        with raises("M547", match="damaged.$"):
            read_key(tmp_path / "text.pem", never)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_key_of_openssh_has_a_passphrase_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "my key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "hush", "-C", "", "-f", path], check=True)
    key = read_key(path, lambda: "hush")
    assert key.public.verifies(key.sign(MESSAGE), MESSAGE)
    with raises("M547", match="its passphrase is another"):
        read_key(path, lambda: "wrong")
    for mode in (0o600, 0o644):
        (tmp_path / "my key.pub").chmod(mode)
        with raises("M547", match="it is a public key"):
            read_key(tmp_path / "my key.pub", never)
    path.chmod(0o644)
    with raises("M547", match="others can read it") as caught:
        read_key(path, never)
    command = str(caught.value).split("run: ")[1].removesuffix(".")
    subprocess.run(command, shell=True, check=True)
    assert read_key(path, lambda: "hush").public == key.public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key:",
        "key:ed25519:",
        "key:ed25519:AAAA",
        "key:rsa:AAAA",
        "oidc:https://example.com",
        "key:ed25519:" + "A" * 42 + "B=",  # bits that say nothing
        "key:ed25519:" + "é" * 44,
        "key:ecdsa-p256:" + "A" * 44,  # no point
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with raises("M540"):
        parse_key(text).opened()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A running ssh agent without keys; its folder has room for keys."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it listens
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield tmp_path
    process.terminate()
    process.communicate()


def add_key(folder: Path, kind: str) -> None:
    path = folder / kind
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    subprocess.run(["ssh-add", "-q", path], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_an_ssh_agent_signs(agent: Path, kind: str) -> None:
    with raises("M547", match="ssh-add"):
        agent_key()
    add_key(agent, kind)
    key = agent_key()
    assert key.public.verifies(key.sign(MESSAGE), MESSAGE)
    assert read_key(agent / kind, never).public == key.public


def test_of_several_keys_of_an_agent_one_is_named(agent: Path) -> None:
    add_key(agent, "ed25519")
    add_key(agent, "ecdsa")
    with raises("M547", match="several"):
        agent_key()
    wanted = str(read_key(agent / "ecdsa", never).public)
    assert str(agent_key(wanted).public) == wanted


def test_no_agent_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with raises("M547", match="SSH_AUTH_SOCK"):
        agent_key()
    monkeypatch.setenv("SSH_AUTH_SOCK", os.fspath(tmp_path / "none"))
    with raises("M547", match="does not answer"):
        agent_key()
