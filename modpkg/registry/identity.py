"""What a registry says of itself in ``registry.json``, and changing it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from modpkg.core import bounds
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.records import RegistryInfo, canonical_json, decode_record
from modpkg.manifest.cutoff import Cutoff
from modpkg.registry.module_list import ModuleList
from modpkg.registry.place import Place, RegistryChange


def set_cool_down(place: Place, span: timedelta) -> None:
    """Let a registry's releases be locked when they are as old as a span, which may be 0.

    Raises:
        What `set_info` raises.
    """
    set_info(place, "cool_down", Cutoff(span=span).text if span else None)


def set_info(place: Place, key: str, value: Any, check: Callable[[Any], None] | None = None) -> Any:
    """Set a field of ``registry.json``, or remove it; return what it was if that is another.

    Fields that are not known here stay. ``check`` is called with what it is, if that is another.

    Raises:
        PublishError: Nothing can be written there.
        RecordError: The file is malformed, or would be.
    """

    def edit(change: RegistryChange) -> tuple[bool, Any]:
        data = change.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES) or b""
        what = f"{place.url}/{REGISTRY_INFO}"
        decode_record(data, RegistryInfo, what)
        info = msgspec.json.decode(data)
        if (before := info.get(key)) == value:
            return False, None
        if check is not None:
            check(before)
        info[key] = value
        if value is None:
            del info[key]
        changed = canonical_json(info) + b"\n"
        decode_record(changed, RegistryInfo, what)
        change.replace(REGISTRY_INFO, changed)
        return True, before

    is_changed, before = place.change(edit)
    if is_changed:
        place.change(ModuleList(place).write_all)  # it has the digest of the file
    return before
