"""Errors of requests, as sentences: from the text of obstore's exceptions."""

from __future__ import annotations

from urllib.parse import urlsplit

from modpkg.core import bounds
from modpkg.core.errors import PublishError, RegistryUnreachable
from modpkg.core.home import config_path
from modpkg.registry.attempts import STATUS as _STATUS
from modpkg.registry.credentials import INCOMPLETE, endpoint_of, missing_credentials
from modpkg.registry.refusals import Refusal, refusal_of, variables_of

_METADATA = ("//169.254.169.254/", "//metadata.google.internal/", "//metadata/")
"""Where a cloud's machines get credentials; asked last, when nothing else has any."""
_STATUSES = {
    429: "it limits the rate of requests (429)",
}
_SILENCE = "it did not answer in time: {what} for {silence:g} seconds"
_KEPT = ". What was sent already is kept, and publishing again goes on with the rest"
_FAILURES = (
    ("kind: Redirect", "{path} is a redirect loop, or redirects from https to http"),
    ("kind: Builder", "it redirects {path} to what is no address of HTTP"),
    ("redirect without LOCATION", "it redirects {path} to nowhere"),
    ("rror: Requested ", "it sent another part of {path} than was asked for"),
    ("ontent-Range", "it does not say which part of {path} it sent, with a Content-Range"),
    ("CONTENT_RANGE", "it does not say which part of {path} it sent, with a Content-Range"),
    ("nvalid last modified", "the date that it gives for {path}, with Last-Modified, is none"),
    ("nvalid content length", "it does not say how long {path} is, with a Content-Length"),
    ("TooLarge", "the headers of its answer to {path} are too large"),
    ("MissingContentLength", "it does not say how long {path} is, with a Content-Length"),
    ("Parse(", "its answer to {path} is not one of HTTP"),
    ("dns error", "its host name cannot be resolved"),
    ("ConnectionRefused", "the connection was refused"),
    ("IncompleteBody", "it closed the connection in the middle of {path}"),
    ("RangeNotSupported", "it closed the connection in the middle of {path}"),
    ("IncompleteMessage", "it closed the connection without an answer"),
    ("ConnectionReset", "it closed the connection without an answer"),
    ("TimedOut", _SILENCE),
    ("timed out", _SILENCE),
    ("NotValidForName", "its certificate is of another name"),
    ("InvalidCertificate", "its certificate is not trusted"),
    ("InvalidContentType", "it does not speak TLS, as https does"),
)


def request_error(
    text: str,
    url: str,
    path: str,
    *,
    logged_in: bool = False,
    login_remedy: str = "",
    silence: float = bounds.SILENCE_SECONDS,
    begun: bool = False,
    asked: float | None = None,
) -> RegistryUnreachable:
    """Return the error to raise for the text of what obstore raised when it read ``path``.

    Of the server's answer only the status is repeated. ``logged_in`` is whether credentials were
    sent, ``login_remedy`` what helps where they are not accepted and are not in the settings,
    ``silence`` how long it may be silent, in seconds, and ``begun`` whether its answer had
    begun; ``asked`` is for how many seconds it wants to be left alone, if that is too long.
    """
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https"):
        if any(sign in text for sign in (*_METADATA, *INCOMPLETE)):
            return missing_credentials(url)
        if (refusal := refusal_of(text, url)) is not None:
            return RegistryUnreachable("M849", url=url, **refusal._asdict())
    if asked is not None:
        reason = f"it limits the rate of requests, and wants to be left alone for {asked:.0f} s"
        return RegistryUnreachable("M302", url=url, reason=reason)
    if match := _STATUS.search(text):
        status = int(match[1])
        if status == 410:
            return RegistryUnreachable(
                "M313", url=url, path=path, reason="it was removed for good (410)"
            )
        if status in (401, 403):
            return _forbidden(status, url, path, logged_in, login_remedy)
        reason = "it failed on {path} (status {status})" if status >= 500 else ""
        if 300 <= status < 400:
            reason = "it redirects {path} to where nothing can be read (status {status})"
        reason = _STATUSES.get(status) or reason or "it answered {path} with status {status}"
        return RegistryUnreachable("M302", url=url, reason=reason.format(path=path, status=status))
    what = f"nothing came of {path}" if begun else f"its answer to {path} did not begin"
    if (of_proxy := _of_proxy(text, url)) is not None:
        return RegistryUnreachable("M302", url=url, reason=of_proxy)
    for sign, reason in _FAILURES:
        if sign in text:
            reason = reason.format(path=path, what=what, silence=silence)
            return RegistryUnreachable("M302", url=url, reason=reason)
    text = text.partition("Debug source:")[0]
    plain = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return RegistryUnreachable("M302", url=url, reason=f"{path}: {plain[:300]}")


def write_error(
    error: Exception, url: str, known: RegistryUnreachable, *, kept: bool
) -> PublishError:
    """Return the error to raise for what obstore raised when it wrote.

    ``known`` is what would be raised if it had read; ``kept`` is whether blobs were sent before.
    """
    refusal, status = None, _STATUS.search(str(error))
    if known.code == "M849":
        refusal = Refusal(str(known.values["reason"]), str(known.values["remedy"]))
    elif status is not None and status[1] in ("401", "403"):
        refusal = Refusal(
            f"these credentials may not write there ({status[1]})",
            f"ask its owner for access, or set others ({variables_of(url)})",
        )
    if refusal is None and status is not None and status[1] == "404":
        refusal = Refusal("there is nothing at this address", "create it, or correct the address")
    if refusal is None:
        refusal = Refusal(str(known.values.get("reason", "")), "try again")
    return PublishError("M846", url=url, kept=_KEPT if kept else "", **refusal._asdict())


def _of_proxy(text: str, url: str) -> str | None:
    """Return what is wrong with the proxy that is between; None if nothing or nobody is."""
    connected = any(sign in text for sign in ("ConnectionRefused", "dns error", "tunnel"))
    return proxy_failure(url, text) if connected and proxy_of(url) is not None else None


def proxy_failure(url: str, text: str) -> str:
    """Return what a proxy did in place of leading to an address, from the text of an error."""
    variable, address = proxy_of(url) or ("the environment", "between")
    if "407" in text or "roxyAuth" in text:
        return f"the proxy {address}, which {variable} names, requires a login"
    if "tunnel" in text:
        return f"the proxy {address}, which {variable} names, does not lead there"
    return f"the proxy {address}, which {variable} names, cannot be reached"


def proxy_of(url: str) -> tuple[str, str] | None:
    """Return the variable that names the proxy for an address, and the proxy; None without one."""
    from urllib.request import getproxies_environment, proxy_bypass  # slow to import

    parts = urlsplit(endpoint_of(url, {}) or url)
    scheme = parts.scheme if parts.scheme in ("http", "https") else "https"
    if parts.scheme in ("http", "https") and parts.netloc and proxy_bypass(parts.netloc):
        return None
    proxies = getproxies_environment()
    for kind in (scheme, "all"):
        if kind in proxies:
            shown = proxies[kind].rpartition("@")[2].rpartition("//")[2].rstrip("/")
            return f"{kind.upper()}_PROXY", shown
    return None


def _forbidden(
    status: int, url: str, path: str, logged_in: bool, login_remedy: str
) -> RegistryUnreachable:
    if urlsplit(url).scheme not in ("http", "https"):
        reason = f"forbids reading {path} with the credentials that were found"
        remedy = f"ask its owner for access, or use others ({variables_of(url)})"
    elif logged_in:
        reason = f"rejects the credentials for {path}"
        remedy = login_remedy or f"correct them in {config_path()}"
    elif status == 401:
        reason = f"requires credentials for {path}"
        remedy = f'put them into {config_path()}, under [registry."{url}"]'
    else:
        reason = f"forbids reading {path}"
        remedy = f"ask its owner for access, or put credentials into {config_path()}"
    return RegistryUnreachable("M314", url=url, reason=reason, status=status, remedy=remedy)
