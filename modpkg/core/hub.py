"""The hub of Hugging Face, turned off before transformers is imported.

`huggingface_hub` reads once, when it is imported, whether it may ask. In modpkg's own processes it
may not. As a library in a process of somebody else, modpkg leaves it to them what their other uses
of transformers may do: there the environment and what was read of it are as they were after the
import, and `modpkg.compose.confinement` keeps modpkg itself from asking.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")
_CONSTANTS = "huggingface_hub.constants"
_own = False


def turn_off_hub() -> None:
    """Let no import in this process turn the hub on: the process is modpkg's own.

    Its environment stays as it is, for the commands that it starts.
    """
    global _own
    _own = True


@contextlib.contextmanager
def hub_off() -> Iterator[None]:
    """Import in this: packages that are new read that they may not ask a hub."""
    new = _CONSTANTS not in sys.modules
    before = {key: os.environ.get(key) for key in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
        constants = sys.modules.get(_CONSTANTS)
        if constants is not None and (new or _own):
            wanted = any((value or "").upper() in _TRUE for value in before.values())
            constants.HF_HUB_OFFLINE = _own or wanted  # type: ignore[attr-defined]
