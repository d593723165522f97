"""What object stores say when they refuse a request, as a clause and what to do about it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from modpkg.core.home import config_path

_CODE = re.compile(r"<Code>([A-Za-z]{1,100})</Code>|\"(?:code|error)\": ?\"([A-Za-z_]{1,100})\"")
_REGION = re.compile(r"<Region>([A-Za-z0-9-]{1,64})</Region>")
_EXPECTED = re.compile(r"expecting '([A-Za-z0-9-]{1,64})'")
_TIMES = re.compile(
    r"<RequestTime>([0-9TZ:.-]{1,40})</RequestTime>.*?<ServerTime>([0-9TZ:.-]{1,40})</ServerTime>",
    re.DOTALL,
)
_BUCKET = {"NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "FilesystemNotFound"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_OVER = ("not valid in the specified time frame", "oken is expired", "oken has been expired")
"""What Azure and Google say of credentials that have expired."""
_REJECTED = {
    *("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "SignatureDoesNotMatch"),
    *("AuthenticationFailed", "InvalidAuthenticationInfo", "InvalidSecurity", "invalid_grant"),
    *("NotSignedUp", "NoAuthenticationInformation", "AuthenticationRequired"),
}
_ELSEWHERE = {
    *("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
    *("TemporaryRedirect", "Redirect"),
}
ELSEWHERE = "redirect without LOCATION"
"""What obstore says of an answer of 301, whose body it leaves out."""
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}


class Refusal(NamedTuple):
    """Why a store refuses, as a clause, and what to do."""

    reason: str
    remedy: str


def refusal_of(text: str, url: str) -> Refusal | None:
    """Return what the text of a failed request says that is of stores; None if that is nothing."""
    parts = urlsplit(url)
    bucket = parts.username or parts.hostname or parts.netloc  # abfs://CONTAINER@ACCOUNT
    kind = "container" if parts.scheme in ("az", "abfs", "abfss") else "bucket"
    codes = {code for match in _CODE.finditer(text) for code in match.groups() if code}
    if codes & _BUCKET:
        return Refusal(f"there is no {kind} {bucket!r}", "create it, or correct the address")
    if "RequestTimeTooSkewed" in codes or "date header too old" in text:
        return Refusal(f"the clock of this machine is off{_offset(text)}", "set it, and try again")
    if codes & _EXPIRED or any(sign in text for sign in _OVER):
        return Refusal("the credentials have expired", "log in again, or set new ones")
    if codes & _REJECTED:
        return Refusal(
            "the credentials that were found are not valid there",
            f"set others ({variables_of(url)})",
        )
    if codes & _ELSEWHERE or ELSEWHERE in text:
        match = _REGION.search(text) or _EXPECTED.search(text)
        where = f"in the region {match[1]}" if match else "in another region"
        region = match[1] if match else "that region"
        return Refusal(
            f"the {kind} is {where}",
            f'set AWS_REGION to {region}, or write region under [registry."{url}"] in '
            f"{config_path()}",
        )
    if codes & _FULL:
        return Refusal(f"the {kind} is full", "make room, or have its quota raised")
    return None


def variables_of(url: str) -> str:
    """Return how the variables begin that have credentials of a store."""
    scheme = urlsplit(url).scheme
    return {"s3": "AWS_…", "gs": "GOOGLE_…"}.get(scheme, "AZURE_…")


def _offset(text: str) -> str:
    """Return by how much a clock is off, if the answer tells."""
    if (match := _TIMES.search(text)) is None:
        return ""
    try:
        own = datetime.fromisoformat(_with_separators(match[1]))
        theirs = datetime.fromisoformat(_with_separators(match[2]))
        minutes = abs((own - theirs).total_seconds()) / 60
    except (ValueError, TypeError):
        return ""
    return f" by {minutes:.0f} minutes"


def _with_separators(text: str) -> str:
    """Return a time as ISO 8601 writes it, with separators and without a fraction.

    >>> _with_separators("20260101T000000Z"), _with_separators("2026-01-01T00:00:00.123Z")
    ('2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00')
    """
    digits = re.sub(r"\.[0-9]+|[^0-9]", "", text)
    day, time = digits[:8], digits[8:14]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}+00:00"
