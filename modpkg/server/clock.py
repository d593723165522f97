"""What time it is."""

from __future__ import annotations

import datetime


def now() -> datetime.datetime:
    """Return the present moment, in UTC and whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def shown(moment: datetime.datetime | None) -> str:
    """Return a moment as the API writes it; empty for none.

    >>> shown(datetime.datetime(2026, 11, 28, 10, tzinfo=datetime.timezone.utc))
    '2026-11-28T10:00:00Z'
    """
    if moment is None:
        return ""
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
