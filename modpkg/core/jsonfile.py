"""Reading small JSON files of a module that were not validated yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.errors import RecordError


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        RecordError: The file is not JSON, or not an object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("M209", what=path, kind=f"{path.name} file", reason=str(error)) from None
