"""Connections of HTTP to the very address that was checked, straight or through a proxy."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from modpkg.core import bounds
from modpkg.registry.http_errors import proxy_failure

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def open_connection(
    parts: SplitResult, silence: float, check: Callable[[str, Sequence[IpAddress]], None]
) -> http.client.HTTPConnection:
    """Return a connection for one request, which is made when the request is.

    Args:
        parts: The address that will be asked; plain HTTP never goes through a proxy.
        silence: How long the server may be silent, in seconds.
        check: Raises if a host with these addresses must not be asked. Through a proxy, which
            resolves the name, it is only asked about a host that is an address.

    Raises:
        OSError: The name cannot be resolved.
    """
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    seconds = float(bounds.CONNECT_SECONDS)
    proxy = None if parts.scheme == "http" or proxy_bypass(host) else _proxy()
    if proxy is not None:
        with contextlib.suppress(ValueError):
            check(host, [ipaddress.ip_address(host)])
        through = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port or 80, timeout=seconds, context=_tls()
        )
        through.set_tunnel(host, port, _proxy_login(proxy))
        _tell_of_proxy(through, f"https://{host}:{port}")
        return through
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    check(host, [ipaddress.ip_address(address.split("%")[0]) for address in addresses])
    connection: http.client.HTTPConnection
    if parts.scheme == "http":
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=_tls())

    def connect(*args: Any, **options: Any) -> socket.socket:
        made = _connected(addresses, port, seconds)
        made.settimeout(silence)
        return made

    # The connection is made to an address that was checked: a name may lead elsewhere later.
    connection._create_connection = connect  # type: ignore[attr-defined]
    return connection


class ProxyFailure(OSError):
    """A proxy did not lead to a server; its text is a clause that names the proxy."""


def _tell_of_proxy(connection: http.client.HTTPSConnection, url: str) -> None:
    """Let a connection through a proxy raise `ProxyFailure` where the proxy fails."""
    begin: Callable[[], None] = connection._tunnel  # type: ignore[attr-defined]

    def reach(*args: Any, **options: Any) -> socket.socket:
        try:
            return socket.create_connection(*args, **options)
        except OSError:
            raise ProxyFailure(proxy_failure(url, "")) from None

    def tunnel() -> None:
        try:
            begin()
        except OSError as error:
            raise ProxyFailure(proxy_failure(url, f"tunnel {error}")) from None

    connection._create_connection = reach  # type: ignore[attr-defined]
    connection._tunnel = tunnel  # type: ignore[attr-defined]


def failure_of(error: Exception) -> str:
    """Return why a request got no answer, or not all of it, as a clause."""
    if isinstance(error, ProxyFailure):
        return str(error)
    if isinstance(error, ssl.SSLError):
        return "its certificate is not trusted, or it does not speak TLS"
    if isinstance(error, socket.gaierror):
        return "its host name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, http.client.HTTPException):
        return "its answer is not one of HTTP, or broke off"
    return error.strerror or "the connection failed" if isinstance(error, OSError) else str(error)


def _connected(addresses: list[str], port: int, seconds: float) -> socket.socket:
    failures = []
    for address in dict.fromkeys(addresses):
        try:
            return socket.create_connection((address, port), timeout=seconds)
        except OSError as error:  # noqa: PERF203
            failures.append(error)
    raise failures[0]


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _proxy() -> SplitResult | None:
    proxies = getproxies_environment()
    found = proxies.get("https") or proxies.get("all")
    return urlsplit(found if "://" in found else f"http://{found}") if found else None


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
