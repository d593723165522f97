"""What is written to a registry stays such that readers take it: each file has a bound."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.errors import PublishError
from modpkg.core.files import human_bytes
from modpkg.core.records import IndexLine
from modpkg.registry.index import format_index
from modpkg.registry.standing import is_succeeded

_SHORTER = (
    "give shorter reasons where releases of it are yanked or deprecated, or publish under another "
    "name"
)


def check_length(path: str, data: bytes, most: int, remedy: str) -> None:
    """Check that readers take a file as it would be written.

    Raises:
        PublishError: It has more than ``most`` bytes.
    """
    if len(data) > most:
        raise PublishError("M593", path=path, most=human_bytes(most), remedy=remedy)


def index_file(name: str, lines: Sequence[IndexLine], before: bytes) -> bytes:
    """Return the index file of a module's releases, which takes the place of the one ``before``.

    Raises:
        PublishError: It has more bytes than readers take.
    """
    if is_succeeded(lines):  # of the module, whichever line is read
        lines = [replace(line, succeeded=True) for line in lines]
    data = format_index(lines, before)
    check_length(f"index/{name}.jsonl", data, bounds.INDEX_BYTES, _SHORTER)
    return data
