"""The keys of a log, one after the other: each is named by the one before it, which signs that.

A log keeps its origin and its entries. So who has seen it with an earlier key takes the new one,
and holds the log to what he has seen of it as before.
"""

from __future__ import annotations

from modpkg.core.records import LogInfo
from modpkg.trust.bundle import Signer, sign_statement
from modpkg.trust.log.tiles import LOG
from modpkg.trust.public_key import PublicKey, parse_key
from modpkg.trust.signatures import verified_bundles
from modpkg.trust.statement import keys_of_log, succession_statement
from modpkg.trust.successors import check_may_name, successions_in

SUCCESSORS = f"{LOG}/successors.jsonl"
"""The file of what a log's keys have signed of the ones after them."""


def named_successor(origin: str, old: Signer, new: PublicKey) -> bytes:
    """Return the bundle by which the key of a log names its successor."""
    return sign_statement(succession_statement(keys_of_log(origin), new), old)


def is_successor(data: bytes, old: LogInfo, new: LogInfo) -> bool:
    """Return whether a log's key was named, directly or through others, by an earlier one of it.

    Args:
        data: The file at `SUCCESSORS`.
        old: The log as it was.
        new: The log as it is.
    """
    if old.origin != new.origin:
        return False
    said = successions_in(verified_bundles(data), keys_of_log(old.origin))
    return said.follows(old.key, parse_key(new.key)) is not None


def check_may_follow(
    data: bytes, registry: str, origin: str, old: PublicKey, new: PublicKey
) -> None:
    """Check that a log's key may name another as its successor: neither has named one before.

    Of two that one has named, readers take none; what it named already, it may name again.

    Args:
        data: The file at `SUCCESSORS`.
        registry: Its address, for messages.
        origin: That of the log.
        old: The key so far.
        new: The one after it.

    Raises:
        TrustError: It may not.
    """
    said = successions_in(verified_bundles(data), keys_of_log(origin))
    if {one.after for one in said.of(old)} != {str(new)}:
        check_may_name(said, f"the log of {registry}", old, new)
