"""Addresses without their secrets, as they are shown and recorded.

An address can hold a user and a password, a signature in its query (``?sig=``,
``?X-Amz-Signature=``), or a token as a part of its path. Whoever sees the terminal, a log of CI or
a lock file is not meant to have it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from modpkg.core.lazy_pattern import lazy_pattern

HIDDEN = "***"
"""What stands in place of a secret."""

_ADDRESS = lazy_pattern(
    r"(?:(?<=(['\"`])))?\b([A-Za-z][A-Za-z0-9+.-]{0,30})://((?(1)(?:\\.|(?!\1)[^\s\\])+|\S+))"
)
"""An address that ends with the quote before it, or with a space."""
_CLOSING = "\"'`)]}>.,;:…"
"""What follows an address in a sentence, and is no part of it."""
_LOGIN = lazy_pattern(
    r"(?<![^\s\"'(=])[^\s/@:\"']{1,100}:[^\s/@\"']{1,1000}@(?=[\w-]{1,63}\.[\w.-]|localhost\b)"
)
"""A user and a password before a host, without a scheme."""
_PORT = lazy_pattern(r"[0-9]{0,5}")
_NAME = lazy_pattern(r"[A-Za-z0-9_.-]{1,40}")
_ANNOUNCING = frozenset(
    ["t", "token", "tokens", "key", "keys", "apikey", "api-key", "auth", "secret", "secrets"]
)
"""Parts of a path after which a token comes."""
_PREFIXED = lazy_pattern(
    r"(?:gh[a-z]_|github_pat_|glpat-|hf_|sk-|xox[a-z]-|AKIA|ASIA|npm_|pypi-|dckr_pat_|eyJ).{8,}"
)
_UUID = lazy_pattern(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_TELLING = lazy_pattern(r"secret|token|passw|api-?key", re.IGNORECASE)
_DIGEST = lazy_pattern(r"[0-9a-f]{64}")


def redacted(text: str) -> str:
    """Return a text whose addresses have ``***`` in place of each secret.

    >>> redacted("https://me:pw@models.example/t/x1/acme?sig=ab#c; try again")
    'https://***@models.example/t/***/acme?sig=***#***; try again'
    >>> redacted("s3://models/acme")
    's3://models/acme'
    """
    if "://" not in text and "@" not in text:
        return text
    return _LOGIN.sub(f"{HIDDEN}@", _ADDRESS.sub(_without_secrets, text))


def is_token(word: str) -> bool:
    """Return whether a word looks like a secret rather than a name that somebody chose.

    >>> is_token("ghp_0123456789abcdef"), is_token("acme-models-2026")
    (True, False)
    """
    if _PREFIXED.fullmatch(word) or _UUID.fullmatch(word):
        return True
    longest = max(re.split(r"[^A-Za-z0-9]+", word), key=len)
    has_digit = any(map(str.isdigit, longest))
    mixed = longest.lower() != longest and longest.upper() != longest
    least = 12 if mixed else 18
    if len(longest) >= least and has_digit and any(map(str.isalpha, longest)):
        return True
    return len(longest) >= 32


def _without_secrets(match: re.Match[str]) -> str:
    scheme, rest = match[2], match[3]
    if scheme.lower() == "file":
        return match[0]
    address = rest.rstrip(_CLOSING)
    end = rest[len(address) :]
    place, query, fragment = address, "", ""
    if "#" in place:
        place, fragment = place.split("#", 1)[0], f"#{HIDDEN}"
    if "?" in place:
        place, _, values = place.partition("?")
        query = "?" + "&".join(map(_parameter, values.split("&")))
    return f"{scheme}://{_place(scheme.lower(), place)}{query}{fragment}{end}"


def _place(scheme: str, place: str) -> str:
    """Return host and path; a user remains where it is part of the name, as in abfs://."""
    host, slash, path = place.partition("/")
    user, at, behind = host.rpartition("@")
    if at:
        is_login = ":" in user or scheme in ("http", "https")
        host = f"{HIDDEN}@{behind}" if is_login else host
    elif not host.startswith("[") and not _PORT.fullmatch(host.partition(":")[2]):
        # a password with a slash, '?' or '#' in it
        _, at, behind = path.rpartition("@")
        host, _, path = behind.partition("/") if at else (HIDDEN, "", path)
        host = f"{HIDDEN}@{host}" if at else host
    parts = path.split("/")
    if scheme in (
        "hf",
        "oci",
        "oci+http",
    ):  # names, commits and digests, which can look like tokens
        kept = [HIDDEN if _PREFIXED.fullmatch(part) else part for part in parts]
        return f"{host}{slash}{'/'.join(kept)}"
    shown = [_part(part, parts[max(0, at - 3) : at]) for at, part in enumerate(parts)]
    return f"{host}{slash}{'/'.join(shown)}"


def _part(part: str, before: list[str]) -> str:
    """Return a part of a path as it is shown; ``before`` is the three parts before it, or less."""
    word = unquote(part)
    if not word or (before[:2] == ["blobs", "sha256"] and _DIGEST.fullmatch(word)):
        return part
    telling = _TELLING.search(word) and (len(word) >= 12 or any(map(str.isdigit, word)))
    announced = bool(before) and before[-1].lower() in _ANNOUNCING
    return HIDDEN if announced or telling or is_token(word) else part


def _parameter(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not equals or not _NAME.fullmatch(name) or is_token(name):
        return HIDDEN
    return f"{name}={HIDDEN}"
