"""Cut-offs for ``exclude-newer``: a time, or a span before the time of locking."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from msgspec import Struct

from modpkg.core.errors import InvalidValue
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.records import SPAN

_SPAN = lazy_pattern(SPAN)
_TIME = lazy_pattern(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)


class Cutoff(Struct, frozen=True):
    """``exclude-newer``: exactly one of the two is set."""

    moment: datetime | None = None
    """In UTC, without fractions of a second."""
    span: timedelta | None = None

    def at(self, now: datetime) -> datetime:
        """Return the cut-off as a time, for a lock made at ``now``."""
        if self.moment is not None:
            return self.moment
        return now.astimezone(timezone.utc).replace(microsecond=0) - (self.span or timedelta())

    @property
    def text(self) -> str:
        """The normal spelling."""
        if self.moment is not None:
            return moment_text(self.moment)
        minutes = int((self.span or timedelta()).total_seconds()) // 60
        for unit, size in (("day", 1440), ("hour", 60), ("minute", 1)):
            if minutes % size == 0:
                return f"{minutes // size} {unit}{'s' * (minutes != size)}"
        raise AssertionError("a span is of whole minutes")


def parse_cutoff(text: str) -> Cutoff:
    """Parse a cut-off: ``7 days``, ``2026-01-01``, or a time.

    >>> parse_cutoff("1 week").text, parse_cutoff("2026-01-01").text
    ('7 days', '2026-01-01T00:00:00Z')

    Raises:
        InvalidValue: `text` is not a cut-off.
    """
    if span := _SPAN.fullmatch(text):
        return Cutoff(span=timedelta(**{span[2] + "s": int(span[1])}))
    return Cutoff(moment=parse_moment(text))


def parse_moment(text: str) -> datetime:
    """Parse a date (its beginning) or a time; without a time zone it is UTC.

    Raises:
        InvalidValue: `text` is neither.
    """
    match = _TIME.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day, clock, seconds, zone = match.groups()
        zone = "+00:00" if zone in (None, "Z", "z") else zone
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}:{seconds or '00'}{zone}")
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise InvalidValue("M109", cutoff=text) from None


def moment_text(moment: datetime | None = None) -> str:
    """Return a time as records and locks store it; the present one if None.

    >>> moment_text(datetime(2026, 1, 1, tzinfo=timezone.utc))
    '2026-01-01T00:00:00Z'
    """
    moment = moment or datetime.now(timezone.utc)
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")[:19] + "Z"
