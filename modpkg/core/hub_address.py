"""Addresses of what is on a hub of models: ``hf://ORG/NAME[@REVISION][/FILE]``.

The hub is the one that ``HF_ENDPOINT`` names, as for Hugging Face's own tools. Nothing here speaks
to it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct

from modpkg.core.bounds import ADDRESS_CHARACTERS, CREDENTIALS_BYTES
from modpkg.core.errors import InvalidValue, RegistryError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.regular_file import read_text
from modpkg.core.release_path import safe_path

SCHEME = "hf://"
UNKNOWN_LOGIN = "the hub does not know the token that was sent"
MAIN = "main"
"""The revision where none is named."""
_DEFAULT_ENDPOINT = "https://huggingface.co"
_REPOSITORY = lazy_pattern(
    r"(?P<repository>(?P<owner>[A-Za-z0-9][\w.-]{0,95})/[A-Za-z0-9_][\w.-]{0,95})"
    r"(@(?P<revision>refs/(?:pr|convert)/[\w.-]{1,100}|[^/@]{1,250}))?(/(?P<file>.+))?",
    re.ASCII,
)
_OTHER_KINDS = ("datasets", "spaces", "kernels", "buckets", "models")
_COMMIT = lazy_pattern(r"[0-9a-f]{40}")
_REVISION = lazy_pattern(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*", re.ASCII)
_ENDPOINT = lazy_pattern(r"https?://[^\s?#@]+")


class HubAddress(Struct, frozen=True):
    """A repository of a hub, or a file of one."""

    repository: str
    """``ORG/NAME``."""
    revision: str | None = None
    """A branch, a tag or a commit; None where none is named."""
    file: str | None = None
    """The path of a file in it."""

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repository.partition("/")[2]

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that what it names never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, revision: str | None, file: str | None = None) -> HubAddress:
        """Return the address of another revision, or of a file there."""
        return HubAddress(self.repository, revision, file)

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{_quoted_revision(self.revision)}"
        return f"{SCHEME}{self.repository}{revision}" + (f"/{self.file}" if self.file else "")

    def https(self, endpoint: str | None = None) -> str:
        """Return the address from which a hub serves it, or what is below it.

        Raises:
            RegistryError: ``HF_ENDPOINT`` is no address.
        """
        revision = quote(self.revision or MAIN, safe="")
        root = f"{endpoint or hub_endpoint()}/{self.repository}/resolve/{revision}"
        return f"{root}/{quote(self.file)}" if self.file else root


def _quoted_revision(revision: str) -> str:
    return revision if revision.startswith(("refs/pr/", "refs/convert/")) else quote(revision, "")


def is_hub_address(text: str) -> bool:
    """Return whether a text is meant as an address of a hub."""
    return text.startswith(SCHEME)


def parse_hub_address(text: str, *, file: bool = False) -> HubAddress:
    """Return what an address names.

    Args:
        text: The address.
        file: Whether it has to name a file, and not a repository.

    Raises:
        RegistryError: It is no such address.
    """

    def refuse(reason: str) -> RegistryError:
        form = "hf://ORG/NAME or hf://ORG/NAME@REVISION (a branch, tag or commit)"
        remedy = f"write it like {'hf://ORG/NAME@COMMIT/FILE' if file else form}"
        return RegistryError("M860", address=text[:200], reason=reason, remedy=remedy)

    if not is_hub_address(text) or len(text) > ADDRESS_CHARACTERS:
        raise refuse("it does not begin with hf://" if text else "it is empty")
    found = _REPOSITORY.fullmatch(text.removeprefix(SCHEME).rstrip("/"))
    if found is None and re.search(r"/[^/@]*[=<>~!]", text.removeprefix(SCHEME)):
        raise refuse("a hub has no versions to choose from")
    if found is None or "--" in found["repository"] or ".." in found["repository"]:
        raise refuse("it has no owner and name of a repository")
    if found["owner"] in _OTHER_KINDS:
        raise refuse(f"{found['owner']} are no models")
    revision = None if found["revision"] is None else unquote(found["revision"])
    if revision is not None and not is_revision(revision):
        raise refuse(f"{revision[:100]!r} is no branch, tag or commit")
    if file != (found["file"] is not None):
        raise refuse("it names no file" if file else "it names a file, and not a repository")
    path = None
    if found["file"] is not None:
        try:
            path = safe_path(found["file"])
        except InvalidValue as error:
            raise refuse(str(error).rstrip(".")) from None
    return HubAddress(found["repository"], revision, path)


def is_revision(text: str) -> bool:
    """Return whether a text can be the name of a branch, a tag or a commit.

    >>> is_revision("v1.0"), is_revision("refs/pr/1"), is_revision("../main")
    (True, True, False)
    """
    named = _REVISION.fullmatch(text) is not None
    return named and ".." not in text and not text.endswith((".", ".lock")) and len(text) <= 250


def hub_endpoint() -> str:
    """Return the address of the hub: ``HF_ENDPOINT``, else Hugging Face's.

    Raises:
        RegistryError: ``HF_ENDPOINT`` is no address.
    """
    text = os.environ.get("HF_ENDPOINT", "").strip() or _DEFAULT_ENDPOINT
    try:
        valid = _ENDPOINT.fullmatch(text) and urlsplit(text).hostname and urlsplit(text).port != 0
    except ValueError:
        valid = False
    if not valid or len(text) > ADDRESS_CHARACTERS:
        reason = "HF_ENDPOINT has it, and it is not the address of a hub"
        remedy = "correct HF_ENDPOINT, or unset it"
        raise RegistryError("M860", address=text[:200], reason=reason, remedy=remedy)
    return text.rstrip("/")


def hub_token() -> str | None:
    """Return the token with which requests to the hub are made; None if there is none.

    It is ``HF_TOKEN``, or what ``hf auth login`` left; none is sent unasked where
    ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` is set.
    """
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    if token := environment_token():
        return token
    try:
        return _clean(read_text(token_file(), CREDENTIALS_BYTES)) or None
    except (OSError, ValueError):
        return None


def environment_token() -> str | None:
    """Return the token that an environment variable has; None if none has one."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := _clean(os.environ.get(name, "")):
            return token
    return None


def token_file() -> Path:
    """Return the path of the file in which ``hf auth login`` leaves a token."""
    if named := os.environ.get("HF_TOKEN_PATH"):
        return Path(os.path.expandvars(named)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "token"


def _clean(token: str) -> str:
    """Return a token without white space; "" for what cannot be sent."""
    token = token.replace("\r", "").replace("\n", "").strip()
    return token if token.isascii() and token.isprintable() and " " not in token else ""
