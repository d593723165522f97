"""Who signed without a lasting key: a CI job or a person, as an issuer of OpenID Connect knows it.

It is written as ``oidc:``, the issuer, and parts after spaces, in this order, each at most once:

- ``repo=acme/models``: the repository that the job belongs to. Where it is not at the issuer's own
  place (GitHub's for GitHub Actions, else the issuer's host), it is its whole address.
- ``owner-id=9919``: the number of its owner, which nobody gets who takes the name of one that left.
- ``workflow=.github/workflows/release.yml``: what the job runs, as its path in the repository.
- ``ref=refs/tags/v1.0``: the branch or tag.
- ``subject=…``: the name in the certificate, an e-mail address or a URI.

A repository or a subject has to be among them: an issuer alone is everybody that it knows.
Spaces, quotes, backslashes and what is not ASCII are percent-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct, structs

from modpkg.core.errors import TrustError
from modpkg.core.lazy_pattern import lazy_pattern

SCHEME = "oidc:"
PATTERN = r"oidc:https://[!#-\[\]-~]+( [a-z-]+=[!#-\[\]-~]+)+"
"""What every identity is like, and some other texts too."""
PARTS = ("repo", "owner-id", "workflow", "ref", "subject")
_FIELDS = tuple(name.replace("-", "_") for name in PARTS)
_MOST = 400
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '%"\\')
_ISSUER = lazy_pattern(r"https://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
_PLACES = {"https://token.actions.githubusercontent.com": "https://github.com"}
"""Where the repositories of an issuer are that has another host than they."""


class OidcIdentity(Struct, frozen=True):
    """An identity that an issuer vouches for; empty parts say nothing.

    >>> str(OidcIdentity("https://gitlab.com", repo="acme/models", ref="refs/heads/main"))
    'oidc:https://gitlab.com repo=acme/models ref=refs/heads/main'
    """

    issuer: str
    repo: str = ""
    owner_id: str = ""
    workflow: str = ""
    ref: str = ""
    subject: str = ""

    def __str__(self) -> str:
        texts = [
            f" {name}={quote(self.part(name), safe=_SAFE)}" for name in PARTS if self.part(name)
        ]
        return f"{SCHEME}{self.issuer}{''.join(texts)}"

    def part(self, name: str) -> str:
        """Return the part that `PARTS` calls so."""
        value: str = getattr(self, name.replace("-", "_"))
        return value

    def includes(self, other: OidcIdentity) -> bool:
        """Return whether another identity is this one, or a narrower one.

        >>> wide = OidcIdentity("https://gitlab.com", repo="acme/models")
        >>> wide.includes(OidcIdentity("https://gitlab.com", repo="acme/models", ref="x"))
        True
        """
        return self.issuer == other.issuer and all(
            self.part(name) in ("", other.part(name)) for name in PARTS
        )

    def lasting(self, also: Iterable[str] = ()) -> OidcIdentity:
        """Return what stays the same from one release to the next.

        That is the repository, its owner and the workflow, or the subject of one without a
        repository; ``also`` names other parts to keep.
        """
        kept = {"repo", "owner-id", "workflow", *also} if self.repo else {"subject", *also}
        dropped = [field for name, field in zip(PARTS, _FIELDS, strict=True) if name not in kept]
        return structs.replace(self, **dict.fromkeys(dropped, ""))


def relative_repository(issuer: str, address: str) -> str:
    """Return how a repository of an issuer's jobs is written, from its address.

    >>> relative_repository("https://gitlab.com", "https://gitlab.com/acme/models")
    'acme/models'
    >>> relative_repository("https://gitlab.com", "https://github.com/acme/models")
    'https://github.com/acme/models'
    """
    parts = urlsplit(issuer)
    place = _PLACES.get(issuer, f"{parts.scheme}://{parts.netloc}")
    return address.removeprefix(f"{place}/")


def is_issuer(text: str) -> bool:
    """Return whether a text is the address of an issuer, as an identity writes it."""
    return len(text) <= _MOST and _ISSUER.fullmatch(text) is not None


def parse_identity(text: str) -> OidcIdentity:
    """Return the identity that a text writes.

    Raises:
        TrustError: It writes none, or not in the one way that there is.
    """
    issuer, *rest = text.removeprefix(SCHEME).split(" ")
    values = {}
    for one in rest:
        name, _, value = one.partition("=")
        values[name.replace("-", "_")] = unquote(value, errors="replace")
    if text.startswith(SCHEME) and is_issuer(issuer) and {*values} <= {*_FIELDS}:
        identity = OidcIdentity(issuer, **values)
        if (identity.repo or identity.subject) and is_bounded(identity) and str(identity) == text:
            return identity
    raise TrustError("M590", text=text)


def is_bounded(identity: OidcIdentity) -> bool:
    """Return whether no part of an identity is longer than a lock can have."""
    return all(len(quote(identity.part(name), safe=_SAFE)) <= _MOST for name in PARTS)
