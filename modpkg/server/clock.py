"""What time it is."""

from __future__ import annotations

import datetime


def now() -> datetime.datetime:
    """Return the present moment, in UTC and whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
