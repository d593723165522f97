"""Addresses that are none are refused before any library gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.registry.address import check_address
from modpkg.registry.reader import Registry
from tests.cli.test_everywhere import run
from tests.raising import raises

BAD = [
    ("http://[::1", "its host is not one"),
    ("http://", "its host is not one"),
    ("http:///x", "its host is not one"),
    ("http://:80", "its host is not one"),
    ("http://127.0.0.1:1\\@other.example/", "its host is not one"),
    ("http://models example", "its host is not one"),
    ("s3://", "its host is not one"),
    ("http://127.0.0.1:99999", "its port is no number up to 65535"),
    ("http://127.0.0.1:-1", "its port is no number"),
    ("http://127.0.0.1:1:2", "its port is no number"),
    ("http://127.0.0.1/" + "a" * 5000, "it is over 4,000 characters"),
    ("http://127.0.0.1/a\nb", "it has a control character"),
    ("folder\0", "it has a control character"),
    ("ftp://models.example", "a registry is at one of http, https, s3, .* and not at 'ftp'"),
    ("oci://models.example/chat", "modpkg export NAME oci://"),
    ("memory:///", "and not at 'memory'"),
    ("file://models.example/acme", "a file of another machine"),
]


@pytest.mark.parametrize(("address", "reason"), BAD)
def test_what_is_no_address_is_refused(address: str, reason: str) -> None:
    with raises("M845", match=reason):
        Registry(address)


@pytest.mark.parametrize(
    "address",
    ["http://[::1]:8080/acme", "HTTPS://Models.example", "file:///srv/acme", "C:\\acme", "~/acme",
     "s3://models/acme", "file://localhost/srv", "http://127.0.0.1:0", "https://é.example", "a b"],
)  # fmt: skip
def test_what_may_be_one_is_not(address: str) -> None:
    check_address(address)


def test_it_is_told_wherever_it_is_named(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("http://[::1", "ftp://models.example", "http://127.0.0.1:99999"):
        assert "error[M845]" in run(capfd, "install", "lib", "--registry", address)[2]
        monkeypatch.setenv("MODPKG_REGISTRY", address)
        assert "error[M845]" in run(capfd, "install", "lib")[2]
        monkeypatch.delenv("MODPKG_REGISTRY")
        for place in ("acme", "default"):
            Path("modpkg.toml").write_text(
                f"[app]\nname = 'a'\n[registries]\n{place} = '{address}'\n"
                f"[dependencies]\nlib = {{ version = '*', registry = '{place}' }}\n"
            )
            err = run(capfd, "lock")[2]
            assert "error[M845]" in err or "modpkg.toml:4" in err
        Path("modpkg.toml").unlink()
