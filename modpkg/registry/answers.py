"""What a server's refusal means, in a sentence: from obstore's account of it."""

from __future__ import annotations

import re

from modpkg.core.errors import RegistryUnreachable
from modpkg.core.home import config_path

_STATUS = re.compile(r"status code: ([0-9]{3})\b")
_STATUSES = {
    429: "it is asked too often (429)",
}
_SILENCES = (
    ("kind: Redirect", "it redirects {path} in circles, or from https to http"),
    ("dns error", "there is no host of that name"),
    ("ConnectionRefused", "nothing answers there (the connection was refused)"),
    ("IncompleteBody", "it closed the connection in the middle of {path}"),
    ("RangeNotSupported", "it closed the connection in the middle of {path}"),
    ("IncompleteMessage", "it closed the connection without an answer"),
    ("ConnectionReset", "it closed the connection without an answer"),
    ("TimedOut", "it did not answer in time"),
    ("timed out", "it did not answer in time"),
    ("InvalidCertificate", "its certificate is not trusted"),
)


def refusal(
    error: Exception, url: str, path: str, *, logged_in: bool = False
) -> RegistryUnreachable:
    """Return the error that tells what went wrong when ``path`` was read.

    Nothing that the server wrote is repeated but its status. ``logged_in``: credentials were sent.
    """
    text = str(error)
    if found := _STATUS.search(text):
        status = int(found[1])
        if status == 410:
            return RegistryUnreachable(
                "M313", url=url, path=path, reason="it was taken away for good (410)"
            )
        if status in (401, 403):
            return _forbidden(status, url, path, logged_in)
        reason = "it failed on {path} (status {status})" if status >= 500 else ""
        reason = _STATUSES.get(status) or reason or "it answered {path} with status {status}"
        return RegistryUnreachable("M302", url=url, reason=reason.format(path=path, status=status))
    for sign, reason in _SILENCES:
        if sign in text:
            return RegistryUnreachable("M302", url=url, reason=reason.format(path=path))
    text = text.partition("Debug source:")[0]
    plain = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return RegistryUnreachable("M302", url=url, reason=f"{path}: {plain[:300]}")


def _forbidden(status: int, url: str, path: str, logged_in: bool) -> RegistryUnreachable:
    if logged_in:
        reason = f"does not accept the credentials for {path}"
        remedy = f"put others into {config_path()}"
    elif status == 401:
        reason = f"wants credentials for {path}"
        remedy = f'put them into {config_path()}, under [registry."{url}"]'
    else:
        reason = f"forbids reading {path}"
        remedy = f"ask its owner, or put credentials into {config_path()}"
    return RegistryUnreachable("M314", url=url, reason=reason, status=status, remedy=remedy)
