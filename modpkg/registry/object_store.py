"""Opening HTTP servers and object stores through obstore."""

from __future__ import annotations

import functools
import os
import threading
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from modpkg.core import bounds
from modpkg.core.errors import RegistryError, RegistryUnreachable
from modpkg.core.home import config_path
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.manifest.config import StoreAccess
from modpkg.manifest.logins import Login
from modpkg.manifest.normal_address import origin
from modpkg.registry.credentials import INCOMPLETE, endpoint_of, missing_credentials, store_options
from modpkg.registry.http_errors import proxy_of

_IMPORTING = threading.Lock()
_LOCAL_HOST = lazy_pattern(
    r"localhost|[0-9a-f:.]*:[0-9a-f:.]*|(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+))*"
)
"""A host, in lower case, that may be this machine, and that every client takes for the same one."""


@functools.cache
def library() -> Any:
    """Return the package obstore, which is slow to import.

    One thread at a time imports it: a thread that imports ``obstore`` and one that imports
    ``obstore.store`` would each hold the lock that the other waits for.
    """
    with _IMPORTING:
        import obstore.exceptions
        import obstore.store
    return obstore


def open_store(
    url: str,
    login: Login | None,
    access: StoreAccess,
    *,
    silence: timedelta,
    retries: int,
) -> Any:
    """Return obstore's object for an address.

    Args:
        url: The address.
        login: Sent with every request, over connections that nobody can read.
        access: What the settings say of an object store.
        silence: How long an answer may take to begin, with the time that a body is sent, and how
            long it may pause.
        retries: How often the library tries a request again.

    Raises:
        RegistryError: The login would be sent in plain text.
        RegistryUnreachable: The address is none, or there are no credentials, or its service would
            be asked in clear.
    """
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=bounds.CONNECT_SECONDS),
        "read_timeout": silence,
        "timeout": timedelta(days=7),  # of a whole file: packs are large
    }
    if login is not None:
        if not is_private(url):
            raise RegistryError("M315", url=url, config=config_path())
        # reqwest drops this header when it follows a redirect to another origin
        client["default_headers"] = {"Authorization": login.authorization()}
    options = store_options(url, access)
    endpoint = endpoint_of(url, options)
    client["allow_http"] = _plain_http(url, endpoint)
    if endpoint is not None and endpoint.lower().startswith("http://") and not client["allow_http"]:
        raise _in_clear(url, endpoint)
    retry = {"max_retries": retries, "retry_timeout": silence}
    try:
        return library().store.from_url(
            url, **(options | {"client_options": client, "retry_config": retry})
        )
    except Exception as error:
        if any(sign in str(error) for sign in ("Account must be specified", *INCOMPLETE)):
            raise missing_credentials(url) from None
        reason = str(error).splitlines()[0]
        raise RegistryUnreachable("M302", url=url, reason=reason) from None


def _plain_http(url: str, endpoint: str | None) -> bool:
    """Return whether plain HTTP may be spoken: the address or a variable allows it.

    To an object store on this machine it may always.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return scheme == "http"
    if endpoint is not None and endpoint.startswith("http://") and is_private(endpoint):
        return True
    variables = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in variables)


def _in_clear(url: str, endpoint: str) -> RegistryUnreachable:
    """Return the error for an object store that plain HTTP must not be spoken to."""
    parts = urlsplit(endpoint)
    where, remedies = "", ["use https"]
    if (proxy := proxy_of(endpoint)) is not None:
        where = f", through the proxy {proxy[1]} that {proxy[0]} names"
        if _is_local(endpoint):
            remedies = [f"add {parts.hostname} to NO_PROXY"]
    cloud = {"s3": "AWS", "gs": "GOOGLE"}.get(urlsplit(url).scheme, "AZURE")
    return RegistryUnreachable(
        "M849",
        url=url,
        reason=f"its service at {parts.netloc.rpartition('@')[2]} would be asked in clear{where}",
        remedy=" or ".join([*remedies, f"allow that with {cloud}_ALLOW_HTTP=true"]),
    )


def is_private(url: str) -> bool:
    """Return whether a request cannot be read in transit: by TLS, or on this machine."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return True
    if not _is_local(url):
        return False
    from urllib.request import getproxies_environment, proxy_bypass

    proxied = {"http", "all"} & getproxies_environment().keys()
    hosts = {parts.hostname or "", origin(url)[1]}  # some clients ask for one, some for the other
    return not proxied or all(map(proxy_bypass, hosts))


def _is_local(url: str) -> bool:
    """Return whether the host of a URL is this machine by its very text.

    It has to be for whatever reads it: not all clients take escapes, backslashes and a dot at the
    end as `normal_address` does, and may ask a resolver for such a host.
    """
    import ipaddress  # slow to import

    parts = urlsplit(url)
    host = parts.hostname or ""
    if "\\" in parts.netloc or not _LOCAL_HOST.fullmatch(host):
        return False
    try:
        name = origin(url)[1]
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:  # neither an address, or its port is none
        return False
