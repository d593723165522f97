"""For how long metadata counts, and what that says of a clock.

Nothing of the online key counts for more than a year, and bins count for just that: one that counts
for longer by a clock was signed after the time that the clock has.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from msgspec import Struct

from modpkg.core import system
from modpkg.core.errors import TrustError
from modpkg.trust.metadata import (
    RootMetadata,
    SnapshotMetadata,
    TargetsMetadata,
    TimestampMetadata,
    moment_text,
)

YEAR = datetime.timedelta(days=365)
"""The longest that anything of the online key counts."""
SLACK = datetime.timedelta(days=7)
"""How far the clocks of who signs and who reads may be apart."""
SILENT = datetime.timedelta(days=400)
"""After which nobody goes on signing without saying so: rather, the clock is ahead."""


class Lives(Struct, frozen=True):
    """For how long metadata counts after it was signed."""

    timestamp: datetime.timedelta
    snapshot: datetime.timedelta
    bins: datetime.timedelta = YEAR


SERVED = Lives(datetime.timedelta(days=1), datetime.timedelta(days=7))
"""Of a registry whose server signs again all the time."""


def counts_too_long(until: datetime.datetime, now: datetime.datetime) -> bool:
    """Return whether what counts until then was signed after now, or by who had no right clock."""
    return until - now > YEAR + SLACK


def check_clock(
    signed: Iterable[TimestampMetadata | SnapshotMetadata | TargetsMetadata],
    url: str,
    now: datetime.datetime,
) -> None:
    """Check that what was signed so far can have been signed before now, and not long ago.

    Nobody would read what is signed by a clock that is behind, and everybody for years what is
    signed by one that is ahead.

    Raises:
        TrustError: It cannot.
    """
    for one in signed:
        is_silent = isinstance(one, TimestampMetadata) and now - one.until > SILENT
        if is_silent or counts_too_long(one.until, now):
            raise TrustError(
                "M597",
                url=url,
                expires=one.expires,
                now=moment_text(now),
                word=system.shell_word(url),
            )


def check_next_root(
    url: str, before: RootMetadata, root: RootMetadata, now: datetime.datetime
) -> None:
    """Check that the next root, whose life nobody has named, is not made by a wrong clock.

    Raises:
        TrustError: It ends before the one so far, or that one has ended long ago.
    """
    if root.until < before.until or now - before.until > SILENT:
        reason = (
            f"the root so far counts until {before.expires}, the next one would until "
            f"{root.expires}, and it is {moment_text(now)} by this machine's clock; set that, or "
            "if it is right, name --root-days"
        )
        raise TrustError("M568", url=url, reason=reason)
