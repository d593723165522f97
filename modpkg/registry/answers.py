"""What a server's refusal means, in a sentence: from obstore's account of it."""

from __future__ import annotations

import re

from modpkg.errors import RegistryGone, RegistryUnreachable

_STATUS = re.compile(r"status code: ([0-9]{3})\b")
_STATUSES = {
    401: "it wants credentials for {path} (401)",
    403: "it forbids reading {path} (403)",
    429: "it is asked too often (429)",
}
_SILENCES = (
    ("dns error", "there is no host of that name"),
    ("ConnectionRefused", "nothing answers there (the connection was refused)"),
    ("IncompleteMessage", "it closed the connection without an answer"),
    ("ConnectionReset", "it closed the connection without an answer"),
    ("TimedOut", "it did not answer in time"),
    ("timed out", "it did not answer in time"),
    ("certificate", "its certificate is not trusted"),
)


def refusal(error: Exception, url: str, path: str) -> RegistryUnreachable:
    """Return the error that tells what went wrong when ``path`` was read.

    Nothing that the server wrote is repeated but its status.
    """
    text = str(error)
    if found := _STATUS.search(text):
        status = int(found[1])
        if status == 410:
            return RegistryGone(url=url, path=path)
        reason = "it failed on {path} (status {status})" if status >= 500 else ""
        reason = _STATUSES.get(status) or reason or "it answered {path} with status {status}"
        return RegistryUnreachable(url=url, reason=reason.format(path=path, status=status))
    for sign, reason in _SILENCES:
        if sign in text:
            return RegistryUnreachable(url=url, reason=reason)
    plain = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return RegistryUnreachable(url=url, reason=f"{path}: {plain[:300]}")
