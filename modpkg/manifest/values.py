"""Single values of a manifest: licences, specifiers, paths, addresses."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from modpkg.core.errors import InvalidValue, ModpkgError
from modpkg.core.files import shown
from modpkg.core.home import config_path
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.names import Requirement, parse_requirement, parse_specifier
from modpkg.toml.node import Node, brief

_ALIAS = lazy_pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_WORD = lazy_pattern(r"[a-z][a-z0-9_-]{0,99}")
_DRIVE = lazy_pattern(r"[A-Za-z]:")
INPUT = "{{ text }}"


def parse_license(text: str) -> str:
    """Return an SPDX licence expression in its normal spelling.

    >>> parse_license("mit or apache-2.0")
    'MIT OR Apache-2.0'

    Raises:
        InvalidValue: `text` is not an SPDX expression.
    """
    # The table of licences is large, and apps do not need it.
    from packaging.licenses import canonicalize_license_expression

    try:
        if not text.isascii():
            raise ValueError(f"Unknown license: {text!r}")
        return canonicalize_license_expression(text)
    except ValueError as error:
        raise InvalidValue(
            "M106", license=brief(text), hint=_license_hint(text, str(error))
        ) from None
    except (LookupError, RecursionError, MemoryError):  # odd or deeply nested brackets
        raise InvalidValue("M106", license=brief(text), hint="") from None


def _license_hint(text: str, reason: str) -> str:
    from difflib import get_close_matches

    from packaging.licenses._spdx import LICENSES

    spaced = re.fullmatch(r"[A-Za-z]+ [0-9.]+", text) is not None  # like 'Apache 2.0'
    if not (spaced or reason.startswith("Unknown license:")) or len(text) > 60:
        return ""
    near = get_close_matches(text.lower().replace(" ", "-"), list(LICENSES), 1, 0.6)
    return f" (did you mean {LICENSES[near[0]]['id']!r}?)" if near else ""


def manifest_specifier(text: str) -> SpecifierSet:
    """Parse a specifier of ``[dependencies]``: PEP 440, ``"*"``, or ``"^1.2"``.

    Raises:
        InvalidValue: `text` has none of these forms, or uses ``===``, which compares text.
    """
    try:
        specifier = parse_specifier(text)
    except (ModpkgError, ValueError):
        raise InvalidValue("M108", specifier=text, reason=_missing_operator(text)) from None
    if _compares_text(specifier):
        raise InvalidValue("M108", specifier=text, reason=" ('===' compares text, use '==')")
    return _distinct(specifier)


def _missing_operator(text: str) -> str:
    try:
        Version(text)
    except ValueError:
        return ""
    return " (a bare version needs an operator before it)"


def manifest_requirement(text: str) -> Requirement:
    """Parse a requirement of ``[extras]``.

    Raises:
        InvalidValue: `text` is not a requirement, or uses ``===``.
    """
    requirement = parse_requirement(text)
    if _compares_text(requirement.specifier):
        raise InvalidValue("M103", requirement=text, reason="'===' compares text, use '=='")
    return Requirement(requirement.name, requirement.extras, _distinct(requirement.specifier))


def _compares_text(specifier: SpecifierSet) -> bool:
    return any(item.operator == "===" for item in specifier)


def _distinct(specifier: SpecifierSet) -> SpecifierSet:
    """Return ``specifier`` without duplicate clauses."""
    clauses = dict.fromkeys(sorted(specifier, key=str))
    return SpecifierSet(",".join(map(str, clauses)))


def normal(name: str) -> str:
    """Return ``name`` in its normal form; unlike `module_name` it accepts any string."""
    return canonicalize_name(name)


def is_alias(text: str) -> bool:
    """Return whether ``text`` can be a registry's alias; a path with a separator cannot."""
    return _ALIAS.fullmatch(text) is not None


def parse_alias(text: str) -> str:
    """Return a registry's alias.

    Raises:
        InvalidValue: `text` is not an alias; a URL is not, for example.
    """
    if not is_alias(text):
        raise InvalidValue("M107", alias=text)
    return text


def has_login(text: str) -> bool:
    """Return whether a URL has a password or, for HTTP, a user (which may be a token).

    Raises:
        ValueError: `text` is not a URL.
    """
    parts = urlsplit(text)
    return parts.password is not None or (
        parts.scheme in ("http", "https") and parts.username is not None
    )


def address(node: Node) -> str:
    """Return a registry's URL or path."""
    text = node.text(most=2000)
    try:
        login, query = has_login(text), "://" in text and urlsplit(text).query
    except ValueError:
        raise node.fail(f"is {brief(text)}, which is neither a URL nor a path") from None
    if login:
        raise node.fail("has a password in it, and manifests are published; remove it")
    if query:
        raise node.fail(
            "has a query ('?…') in it, which may be a signature, and manifests are published; "
            "remove it, and name the address by MODPKG_REGISTRY, or as default under [registries] "
            f"in {shown(config_path())}"
        )
    return text


def word(node: Node, noun: str) -> str:
    """Return the name of an operator or metric."""
    text = node.text()
    if not _WORD.fullmatch(text):
        raise node.fail(f"is {brief(text)}, which cannot be {noun} (lower-case words like 'lora')")
    return text


def inner_path(node: Node) -> str:
    """Return a path or glob pattern that stays inside the module's folder."""
    return node.parsed(_inner_path)


def _inner_path(text: str) -> str:
    parts = text.split("/")
    reason = ""
    if "\\" in text:
        reason = "it has a backslash"
    elif text.startswith("/") or _DRIVE.match(text):
        reason = "it is absolute"
    elif ".." in parts:
        reason = "it has '..'"
    elif text.startswith("~"):
        reason = "it begins with '~'"
    if reason:
        raise InvalidValue("M105", path=text, reason=reason)
    return text


def prompt(node: Node) -> str:
    """Return a prompt template, which has to contain a placeholder for the input."""
    text = node.lines()
    if INPUT not in text:
        raise node.fail(f"has no '{INPUT}', so the input would be ignored; add it")
    return text
