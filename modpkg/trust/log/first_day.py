"""What a log took in when it began: releases that the registry had before it had a log.

They may have been published long before. From the second day on a registry that says so of a
release has not shown it to anybody who looked at its log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from modpkg.core.errors import InvalidValue, TrustError
from modpkg.core.records import IndexLine
from modpkg.manifest.cutoff import parse_moment
from modpkg.registry.reader import Registry
from modpkg.trust.log.checking import log_hashes, read_tile
from modpkg.trust.log.entries import parse_entry
from modpkg.trust.log.log_checkpoint import LogCheckpoint
from modpkg.trust.log.merkle import inclusion_ranges, is_included, leaf_hash, nodes_of, proof_over
from modpkg.trust.log.tiles import TILE_WIDTH, Tile, entries_in, tile_of

DAY = timedelta(days=1)
SOON = timedelta(hours=1)
"""How long after it was published a release may be logged."""


def dated_back(published: str, at: str, slack: timedelta = DAY) -> bool:
    """Return whether a release says that it was published before it was logged, by more than that.

    One that does not say when says nothing that is wrong.
    """
    try:
        return parse_moment(at) - parse_moment(published) > slack
    except InvalidValue:
        return False


def other_date(line: IndexLine, logged: Sequence[str], began: str) -> str | None:
    """Return how a release's date is none of a log's, as the end of a sentence; None if it is one.

    Args:
        line: Its index line.
        logged: When it was logged, each time.
        began: When the log's first entry was.
    """
    for at in logged:
        is_old = not dated_back(began, at)  # the registry may have had it before it had a log
        is_later = dated_back(at, line.published)
        if not is_later and (is_old or not dated_back(line.published, at)):
            return None
    return f"says that it was published {line.published}, and was logged {logged[0]}"


def log_began(registry: Registry, checkpoint: LogCheckpoint) -> str:
    """Return when the first entry of a log was logged, with one more round trip or two.

    Raises:
        TrustError: The entry is missing, malformed, or not the first of the tree that is signed.
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    bundle = Tile(None, 0, min(checkpoint.size, TILE_WIDTH))
    first = entries_in(bundle, read_tile(registry, bundle), registry.url)[0]
    ranges = inclusion_ranges(0, checkpoint.size)
    tiles = {tile_of(node, checkpoint.size) for node in nodes_of(ranges)}
    proof = proof_over(ranges, log_hashes(registry, checkpoint.size, tiles))
    try:
        if is_included(leaf_hash(first), 0, checkpoint.size, proof, checkpoint.root):
            return parse_entry(first).at
        reason = "its first entry is none of the tree that is signed"
    except ValueError as error:  # msgspec's are such
        reason = f"its first entry is malformed ({error})"
    raise TrustError("M555", registry=registry.url, path=bundle.path, reason=reason)
