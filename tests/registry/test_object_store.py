"""A token goes over plain HTTP to this machine alone, however its address is written."""

from __future__ import annotations

import pytest

from modpkg.registry.object_store import is_private


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8420",
        "127.0.0.1:1",
        "127.1",
        "0x7f000001",
        "0X7F.1",
        "2130706433",
        "0177.0.0.01",
        "127.9.9.9",
        "[::1]:8420",
        "[0:0:0:0:0:0:0:1]",
    ],
)
def test_this_machine(host: str) -> None:
    assert is_private(f"http://{host}/models")


@pytest.mark.parametrize(
    "host",
    # names, whatever they begin with
    [
        "127.1.evil.example",
        "localhost.evil.example",
        "evil.localhost",
        "0x7f000001.evil.example",
        # names that a resolver may look up, and addresses of other machines
        "localhost.",
        "127.0.0.1.",
        "127.1.",
        "127.0x",
        "0x7f.0x",
        "0x7f00000g",
        "1.127",
        "0",
        "0x7f00000100",
        "128.0.0.1",
        "127.0.0.256",
        "127.0.0.0.1",
        "08.1",
        "127..1",
        "localhost:99999",
        "127.1:x",
        "",
        "8.8.8.8",
        "[::ffff:8.8.8.8]",
        "[::2]",
        "[2001:db8::1]",
        "[::127.0.0.1]",
        # what one client reads as one host and another one as another
        "127.0.0.1@evil.example",
        "127.1:80@evil.example",
        "evil.example\\@127.0.0.1",
        "127%2e1",
        "127\u30021",
        "\uff11\uff12\uff17.1",
        "127.1\\.evil.example",
        "127.1 .evil.example",
    ],
)
def test_others(host: str) -> None:
    assert not is_private(f"http://{host}/models")
    assert is_private(f"https://{host}/models")


def test_a_proxy_has_to_be_bypassed_for_either_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients ask for ``127.0.0.1`` where ``127.1`` is written, or for that."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    for bypassed, passes in (("127.1", False), ("127.0.0.1", False), ("127.1,127.0.0.1", True)):
        monkeypatch.setenv("no_proxy", bypassed)
        assert is_private("http://127.1/models") is passes
    assert not is_private("http://localhost/models")
