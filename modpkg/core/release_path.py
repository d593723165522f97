"""Paths of files in releases: those that are safe and portable on every system."""

from __future__ import annotations

from modpkg.core.errors import InvalidValue
from modpkg.core.printable import printable


def safe_path(text: str) -> str:
    """Return a path from a release, checked to stay inside the module's folder.

    Raises:
        InvalidValue: The path is absolute, contains "..", has a drive, a backslash, a NUL, an
            empty or over-long part, or a name that Windows reserves.
    """
    reason = None
    parts = text.split("/")
    if not text or len(text.encode("utf-8", "replace")) > 512:
        reason = "it is empty or longer than 512 bytes"
    elif text.startswith("/") or ":" in text:
        reason = "it is absolute or has a ':'"
    elif "\\" in text or "\n" in text or "\t" in text or printable(text) != text:
        reason = "it has a backslash or an invisible character"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "it has an empty part, '.' or '..'"
    elif any(part.startswith(".") for part in parts):
        reason = "a part of it is hidden, and some tools run what a hidden file says"
    elif any(
        part != part.rstrip(" .") or part.split(".")[0].rstrip(" ").upper() in _RESERVED
        for part in parts
    ):
        reason = "a part of it is not a portable file name"
    if reason is not None:
        raise InvalidValue("M105", path=text, reason=reason)
    return text


_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    "CONIN$",
    "CONOUT$",
    *(f"{name}{digit}" for name in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"),
}
