"""From where a request comes, and whose word on it counts."""

from __future__ import annotations

from typing import Any

import pytest
from litestar.connection import ASGIConnection

from modpkg.server.addresses import NOWHERE, address_of, is_loopback
from modpkg.server.settings import ServerSettings

PROXIES = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


def asked(client: str, *forwarded: str, proxies: tuple[str, ...] = PROXIES) -> str:
    headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    scope: Any = {"type": "http", "client": (client, 1), "headers": headers}
    settings = ServerSettings(storage="x", proxies=proxies)
    return address_of(settings, ASGIConnection(scope))


def test_only_a_proxy_that_is_named_is_believed() -> None:
    assert asked("192.0.2.1", "198.51.100.1") == "192.0.2.1"
    assert asked("127.0.0.1", "198.51.100.1", proxies=()) == "127.0.0.1"
    assert asked("127.0.0.1", "198.51.100.1") == "198.51.100.1"


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (("8.8.8.8, 198.51.100.1",), "198.51.100.1"),  # the first was written by the client
        (("8.8.8.8", "198.51.100.1"), "198.51.100.1"),
        (("8.8.8.8, 198.51.100.1, 10.0.0.7",), "198.51.100.1"),
        (("nonsense",), "127.0.0.1"),
        (("",), "127.0.0.1"),
        (("2001:db8:1:2:3::4",), "2001:db8:1:2::/64"),
        (("::ffff:198.51.100.1",), "198.51.100.1"),
    ],
)
def test_the_last_address_that_no_proxy_has_counts(
    forwarded: tuple[str, ...], address: str
) -> None:
    assert asked("127.0.0.1", *forwarded) == address


def test_addresses_that_are_none_and_this_machines_own() -> None:
    assert asked("testclient") == NOWHERE
    assert is_loopback(asked("::1", proxies=()))
    assert not is_loopback(asked("2001:db8::1"))
