"""The settings of a server in a file: TOML with the fields of `ServerSettings`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modpkg.core import bounds
from modpkg.core.errors import ManifestError
from modpkg.core.files import shown
from modpkg.core.regular_file import read_file
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
        return msgspec.convert(data, ServerSettings)
    except msgspec.ValidationError as error:
        message = f"{str(error)[:1].lower()}{str(error)[1:]}."
        raise ManifestError("M110", where=name, message=message) from None
