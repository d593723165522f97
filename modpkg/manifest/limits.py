"""``[limits]`` of ``config.toml``: how much one command may take from one registry."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.files import human_bytes, parse_bytes
from modpkg.toml.node import Node, brief

MOST = 10**15


class Limit(Struct, frozen=True):
    """A budget."""

    default: int
    things: str
    """What it counts."""
    in_bytes: bool = False


LIMITS = {
    "names": Limit(bounds.RESOLVED_NAMES, "names of modules"),
    "releases": Limit(bounds.RESOLVED_RELEASES, "releases to choose from"),
    "requirements": Limit(bounds.RESOLVED_REQUIREMENTS, "requirements of releases"),
    "index-bytes": Limit(bounds.INDEX_BYTES, "index files", in_bytes=True),
    "index-values": Limit(bounds.INDEX_VALUES, "values in index files"),
    "file-bytes": Limit(bounds.FILE_BYTES, "records and other small files", in_bytes=True),
    "requests": Limit(bounds.REQUESTS, "requests for small files"),
    "solver-work": Limit(bounds.SOLVER_WORK, "steps of the solver"),
    "unpacked": Limit(
        bounds.UNPACKED_BYTES, "tensors that unpack from next to nothing", in_bytes=True
    ),
}
"""By key."""

Limits = Mapping[str, int]
"""By key of `LIMITS`."""

DEFAULTS: Limits = {key: limit.default for key, limit in LIMITS.items()}


def parse_limits(node: Node | None) -> Limits:
    """Return the limits of a table, and for what it lacks the defaults.

    Raises:
        ManifestError: A key or a value is wrong; the message names the line.
    """
    if node is None:
        return DEFAULTS
    return {**DEFAULTS, **{k: _limit(k, v) for k, v in node.table((*LIMITS,)).entries.items()}}


def _limit(key: str, node: Node) -> int:
    if not LIMITS[key].in_bytes:
        return node.integer(1, MOST)
    count = parse_bytes(node.text())
    if not count:
        raise node.fail(f"is {brief(node.text())}; write it like '2 GB'")
    return count


def shown_limit(key: str, value: int, *, quoted: bool = False) -> str:
    """Return a limit as it is shown, or with ``quoted`` as it is written.

    >>> shown_limit("names", 20000), shown_limit("unpacked", 2 * 10**9, quoted=True)
    ('20,000', '"2 GB"')
    """
    if not LIMITS[key].in_bytes:
        return str(value) if quoted else f"{value:,}"
    return f'"{-(-value // 10**9)} GB"' if quoted else f"{human_bytes(value)} of"
