"""The settings of a server in a file: TOML with the fields of `ServerSettings`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core import bounds
from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import ManifestError
from modpkg.core.files import shown
from modpkg.core.regular_file import read_file
from modpkg.server.issuers import is_issuer_address
from modpkg.server.settings import ServerSettings
from modpkg.toml.document import decoded, read_document


def read_server_settings(path: Path | None, **given: Any) -> ServerSettings:
    """Return the settings of a file, and those ``given`` in place of it, where they are not None.

    Raises:
        ManifestError: The file is not TOML, or has a field or value that is none.
        OSError: It cannot be read.
    """
    data: dict[str, Any] = {}
    name = "the options" if path is None else shown(path)
    if path is not None:
        text = decoded(read_file(path, bounds.MANIFEST_BYTES), name)
        data = read_document(text, name, is_private=True).data
    data |= {key: value for key, value in given.items() if value is not None}
    if isinstance(data.get("url"), str):
        data["url"] = data["url"].rstrip("/")
    try:
        settings = msgspec.convert(data, ServerSettings)
    except msgspec.ValidationError as error:
        message = f"{decoding_reason(error)}."
        raise ManifestError("M110", where=name, message=message) from None
    if (problem := _problem(settings)) is not None:
        raise ManifestError("M110", where=name, message=problem)
    return settings


def _problem(settings: ServerSettings) -> str | None:
    """Return what is wrong with addresses in settings; None if nothing is."""
    issuers = [one.url for one in settings.login_issuers]
    for url in (*issuers, *settings.publishing_issuers):
        if not is_issuer_address(url):
            return f"an issuer has an address of https, or of this machine, and {url!r} is none."
    for text in settings.proxies:
        try:
            ipaddress.ip_network(text)
        except ValueError:  # noqa: PERF203
            return f"'proxies' are addresses or networks, and {text!r} is none."
    return None
