"""Tokens that are kept: where, who can read them, and for which origin they are."""

from __future__ import annotations

import stat
import sys
import types
from pathlib import Path

import pytest

from modpkg.manifest import stored_logins as stored_logins_module
from modpkg.manifest.config import read_settings
from modpkg.manifest.stored_logins import (
    StoredLogin,
    check_token,
    forget_login,
    logins_path,
    store_login,
    stored_logins,
)
from tests.raising import raises

ORIGIN = "https://models.example"
TOKEN = "modpkg_" + "x1" * 20


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "home"))
    for name in ("MODPKG_TOKEN", "MODPKG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setattr(stored_logins_module, "_found", {})
    return tmp_path / "home"


class MemoryKeyring:
    """The part of the package ``keyring`` that is used, with a place for secrets in memory."""

    name = "memory"

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_keyring(self) -> MemoryKeyring:
        return self

    def set_password(self, service: str, name: str, secret: str) -> None:
        self.kept[service, name] = secret

    def get_password(self, service: str, name: str) -> str | None:
        return self.kept.get((service, name))

    def delete_password(self, service: str, name: str) -> None:
        del self.kept[service, name]


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> MemoryKeyring:
    made = MemoryKeyring()
    backends = types.ModuleType("keyring.backends")
    for name, kind in (("fail", type("Fail", (), {})), ("null", type("Null", (), {}))):
        module = types.ModuleType(f"keyring.backends.{name}")
        module.Keyring = kind  # type: ignore[attr-defined]
        setattr(backends, name, module)
        monkeypatch.setitem(sys.modules, f"keyring.backends.{name}", module)
    monkeypatch.setitem(sys.modules, "keyring", made)
    monkeypatch.setitem(sys.modules, "keyring.backends", backends)
    return made


def sent_to(address: str) -> str | None:
    login = read_settings().of(address).login
    return None if login is None else login.authorization()


def test_a_token_in_a_file_is_its_owners_and_for_one_origin(home: Path) -> None:
    assert "logins.json" in store_login(ORIGIN, TOKEN, StoredLogin("ada"))
    assert stat.S_IMODE(logins_path().stat().st_mode) == 0o600
    assert sent_to(f"{ORIGIN}/acme/") == f"Bearer {TOKEN}"
    assert sent_to("https://MODELS.example:443") == f"Bearer {TOKEN}"
    for other in ("http://models.example", f"{ORIGIN}:444", "https://models.example.evil.example"):
        assert sent_to(other) is None
    assert TOKEN not in repr(stored_logins()) + repr(read_settings())


def test_settings_come_before_what_is_kept(home: Path) -> None:
    store_login(ORIGIN, TOKEN, StoredLogin("ada"))
    (home / "config.toml").write_text(f'[registry."{ORIGIN}"]\ntoken = "own"\n')
    (home / "config.toml").chmod(0o600)
    assert sent_to(ORIGIN) == "Bearer own"


def test_a_keyring_has_the_token_where_there_is_one(keyring: MemoryKeyring) -> None:
    assert store_login(ORIGIN, TOKEN, StoredLogin("ada", made=3)) == "the keyring (memory)"
    assert TOKEN not in logins_path().read_text()
    assert sent_to(ORIGIN) == f"Bearer {TOKEN}"
    gone = forget_login(ORIGIN)
    assert gone is not None
    assert (gone.reveal(), gone.login.made) == (TOKEN, 3)
    assert (keyring.kept, sent_to(ORIGIN)) == ({}, None)


def test_a_keyring_that_breaks_is_none(keyring: MemoryKeyring) -> None:
    keyring.set_password = None  # type: ignore[assignment,method-assign]
    assert "logins.json" in store_login(ORIGIN, TOKEN, StoredLogin("ada"))
    assert sent_to(ORIGIN) == f"Bearer {TOKEN}"


def test_a_token_that_is_gone_from_the_keyring_is_told(keyring: MemoryKeyring) -> None:
    store_login(ORIGIN, TOKEN, StoredLogin("ada"))
    keyring.kept.clear()
    with raises("M523", match=f"modpkg login {ORIGIN}"):
        sent_to(ORIGIN)


def test_what_others_can_read_is_refused(home: Path) -> None:
    store_login(ORIGIN, TOKEN, StoredLogin("ada"))
    logins_path().chmod(0o644)
    with raises("M524", match="chmod 600"):
        read_settings()
    logins_path().chmod(0o600)
    assert sent_to(ORIGIN) is not None


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{" * 2000, "\xff", '{"a": {"name": 3}}'])
def test_a_damaged_file_is_a_sentence(text: str, home: Path) -> None:
    home.mkdir()
    logins_path().write_bytes(text.encode("latin-1"))
    logins_path().chmod(0o600)
    with raises("M510", match="log in again"):
        read_settings()


def test_what_has_expired_is_not_sent() -> None:
    store_login(ORIGIN, TOKEN, StoredLogin("ada", expires="2020-01-01T00:00:00Z"))
    assert sent_to(ORIGIN) is None
    store_login(ORIGIN, TOKEN, StoredLogin("ada", expires="2999-01-01T00:00:00Z"))
    assert sent_to(ORIGIN) is not None


def test_a_token_of_the_environment_is_for_the_registry_that_it_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODPKG_TOKEN", TOKEN)
    assert sent_to(ORIGIN) is None
    monkeypatch.setenv("MODPKG_REGISTRY", f"{ORIGIN}/acme")
    assert sent_to(ORIGIN) == f"Bearer {TOKEN}"
    assert sent_to("https://other.example") is None
    home.mkdir()
    (home / "config.toml").write_text(f'[registries]\nacme = "{ORIGIN}/acme"\n')
    monkeypatch.setenv("MODPKG_REGISTRY", "acme")
    assert sent_to(ORIGIN) == f"Bearer {TOKEN}"
    monkeypatch.setenv("MODPKG_REGISTRY", str(home))
    assert sent_to(ORIGIN) is None


def test_a_token_is_one_word() -> None:
    check_token(TOKEN)
    for text in ("", "a b", "a\nb", "é"):
        with raises("M901", match="one word"):
            check_token(text)
