"""Issuers of OpenID Connect: what they publish about themselves, and the tokens that they sign.

Only issuers that the operator names are asked, at addresses that their own documents give: over
TLS (plain HTTP only of one on this machine), never after a redirect, and never in a network that is
more private than the issuer's own ("OpenID Connect Discovery 1.0", sections 3 and 4;
"JSON Web Token Best Current Practices", RFC 8725).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from modpkg.core.errors import AccessRefused, RegistryUnreachable
from modpkg.core.oci_address import is_loopback
from modpkg.registry.checked_requests import CheckedRequests, RequestBody, read_answer
from modpkg.registry.request_tries import PassingFailure
from modpkg.server.guessing import digest_text

ALGORITHMS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP", "Ed25519": "OKP"}
"""The algorithms that signatures may have, and the kinds of keys that they go with; the last two
are one (RFC 9864)."""
LEEWAY = 30
"""Seconds by which clocks may differ."""
LONGEST = 24 * 60 * 60
"""Seconds for which a token may be valid; it is remembered as long, so as not to be taken twice."""
TOKEN_BYTES = 16 << 10
_DOCUMENT_BYTES = 1 << 20
_SILENCE = 10.0
_KEPT_SECONDS = 60 * 60
"""How long an issuer's document and keys are believed."""
_ANEW_SECONDS = 60
"""How long an issuer is not asked again for a key that it does not have."""
_KEYS = 100
_RSA_BITS = 2048
T = TypeVar("T")


class IssuerDocument(Struct, frozen=True):
    """What an issuer says of itself, as far as it matters here."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""


class _KeyList(Struct):
    keys: list[dict[str, Any]]


class _SignedHeader(Struct):
    alg: str
    kid: str | None = None


class _Unverified(Struct):
    iss: str


class VerifiedToken(Struct, frozen=True):
    """A token that its issuer signed, for us, and that is valid now."""

    issuer: str
    claims: dict[str, Any]
    identity: str
    """What it is known by, so that it is not taken twice."""
    expires: float

    def text(self, claim: str) -> str:
        """Return a claim that is a text or a number; empty for none."""
        value = self.claims.get(claim)
        if isinstance(value, bool) or not isinstance(value, str | int):
            return ""
        return str(value)


class IssuerRequests(CheckedRequests):
    """Requests to one issuer; none is sent twice."""

    CLEAR = "http://…, on this machine"

    def __init__(self, issuer: str) -> None:
        scheme, netloc = urlsplit(issuer)[:2]
        super().__init__(f"{scheme}://{netloc}", silence=_SILENCE)
        self._issuer = issuer

    def refusal(self, reason: str, remedy: str) -> RegistryUnreachable:
        return RegistryUnreachable("M447", issuer=self._issuer, reason=reason, remedy=remedy)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
        silence: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        with self._sent(method, url, headers or {}, body, silence) as answer:
            self._check_encoding(answer)
            yield answer

    def record(
        self,
        kind: type[T],
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
    ) -> T:
        """Return what is answered, as a record.

        Raises:
            RegistryUnreachable: There is no answer of this kind.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        try:
            with self.open(method, url, headers=sent, body=body) as answer:
                status, data = answer.status, read_answer(answer, _DOCUMENT_BYTES + 1)
        except PassingFailure as failure:
            raise self.refusal(failure.reason, "try again later") from None
        except OSError:
            raise self.refusal("its answer broke off", "try again later") from None
        if status != 200 or len(data) > _DOCUMENT_BYTES:
            reason = f"it answers {method} {url[:200]} with status {status}"
            if status == 200:
                reason = f"it answers with over {_DOCUMENT_BYTES} bytes"
            raise self.refusal(reason, "log in again, or ask an administrator of the registry")
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            reason = "its answer is not one of OpenID Connect"
            raise self.refusal(reason, "ask an administrator of the registry") from None


class Issuers:
    """What is known of the issuers that were asked. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock`` returns the seconds since 1970."""
        self._clock = clock
        self._lock = threading.Lock()
        self._documents: dict[str, tuple[float, IssuerDocument]] = {}
        self._keys: dict[str, tuple[float, list[Any]]] = {}
        self._locks: dict[str, threading.Lock] = {}

    def document(self, issuer: str) -> IssuerDocument:
        """Return what an issuer says of itself.

        Raises:
            RegistryUnreachable: It cannot be asked, or says that it is another.
        """
        with self._lock_of(issuer):
            return self._document(issuer, IssuerRequests(issuer))

    def exchange(self, issuer: str, form: Mapping[str, str], basic: tuple[str, str] | None) -> str:
        """Return the token of who a browser was sent to an issuer for ("code flow").

        Args:
            issuer: The issuer.
            form: What is sent to its token endpoint.
            basic: The name and secret that this server is known by there.

        Raises:
            RegistryUnreachable: It does not give one.
        """

        class Given(Struct):
            id_token: str

        requests = IssuerRequests(issuer)
        with self._lock_of(issuer):
            self._documents.pop(issuer, None)  # asked first: how private its network is counts
            document = self._document(issuer, requests)
        data = urlencode(form).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if basic is not None:
            headers["Authorization"] = _basic(*basic)
        body = RequestBody(len(data), lambda: iter((data,)))
        given = requests.record(Given, "POST", document.token_endpoint, headers=headers, body=body)
        return given.id_token

    def verified(self, issuer: str, token: str, audience: str) -> VerifiedToken:
        """Return a token that an issuer signed, if it is for an audience and valid now.

        Args:
            issuer: One that the operator names.
            token: The token.
            audience: Whom it has to be for.

        Raises:
            AccessRefused: It is not.
            RegistryUnreachable: The issuer's keys cannot be fetched.
        """
        header = _decoded_part(issuer, token, 0, _SignedHeader)
        key = self._key(issuer, header)
        claims = _signed_claims(issuer, token, header.alg, key)
        expires = check_claims(issuer, claims, audience, self._clock())
        signed = token.rpartition(".")[0]
        jti = claims.get("jti")
        identity = f"jti {jti}" if isinstance(jti, str) and 0 < len(jti) <= 200 else ""
        return VerifiedToken(issuer, claims, identity or f"sha256 {digest_text(signed)}", expires)

    def _lock_of(self, issuer: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(issuer, threading.Lock())

    def _document(self, issuer: str, requests: IssuerRequests) -> IssuerDocument:
        fetched, known = self._documents.get(issuer, (0.0, None))
        if known is not None and self._clock() - fetched < _KEPT_SECONDS:
            return known
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        found = requests.record(IssuerDocument, "GET", url)
        if found.issuer != issuer:
            reason = f"it says that it is {found.issuer[:200]}"
            raise requests.refusal(reason, "ask an administrator of the registry to correct it")
        self._documents[issuer] = self._clock(), found
        return found

    def _key(self, issuer: str, header: _SignedHeader) -> Any:
        """Return the key that a token says it is signed with.

        Raises:
            AccessRefused: The issuer has no such key, or the algorithm is not allowed.
        """
        if header.alg not in ALGORITHMS:
            raise refused_token(issuer, f"its algorithm is {header.alg[:40]!r}")
        with self._lock_of(issuer):
            fetched, keys = self._keys.get(issuer, (-math.inf, []))
            age = self._clock() - fetched
            found = _fitting(keys, header) if age < _KEPT_SECONDS else None
            if found is None and age > _ANEW_SECONDS:
                requests = IssuerRequests(issuer)
                self._documents.pop(issuer, None)
                document = self._document(issuer, requests)
                keys = _parsed_keys(requests.record(_KeyList, "GET", document.jwks_uri))
                self._keys[issuer] = self._clock(), keys
                found = _fitting(keys, header)
        if found is None:
            raise refused_token(issuer, "it is signed with a key that the issuer does not have")
        return found


def issuer_of(token: str) -> str:
    """Return whose a token claims to be, which nobody has verified.

    Raises:
        AccessRefused: It is no token.
    """
    return _decoded_part("the job", token, 1, _Unverified).iss


def refused_token(issuer: str, reason: str) -> AccessRefused:
    """Return the error for a token that is not taken."""
    return AccessRefused("M442", issuer=issuer, reason=reason)


def check_claims(issuer: str, claims: Mapping[str, Any], audience: str, moment: float) -> float:
    """Check whose, for whom and when a token is; return when it expires, in seconds since 1970.

    Raises:
        AccessRefused: It is another's, for somebody else, or not valid at this moment.
    """
    if claims.get("iss") != issuer:
        raise refused_token(issuer, "it is of another issuer")
    for_whom = claims.get("aud")
    audiences = for_whom if isinstance(for_whom, list) else [for_whom]
    if audience not in audiences:
        raise refused_token(issuer, f"it is not for {audience}")
    times = {}
    for claim in ("exp", "iat", "nbf"):
        value = claims.get(claim, claims.get("iat") if claim == "nbf" else None)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise refused_token(issuer, f"its {claim!r} is not a time")
        times[claim] = float(value)
    if times["exp"] <= moment - LEEWAY:
        raise refused_token(issuer, "it has expired")
    if max(times["iat"], times["nbf"]) > moment + LEEWAY:
        raise refused_token(issuer, "it is not valid yet")
    if times["exp"] > moment + LONGEST:
        raise refused_token(issuer, "it is valid for longer than a day")
    return times["exp"]


def is_issuer_address(text: str) -> bool:
    """Return whether a text can be an issuer: https, or a server on this machine."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if not host or parts.query or parts.fragment or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def _decoded_part(issuer: str, token: str, number: int, kind: type[T]) -> T:
    parts = token.split(".")
    try:
        if len(token) > TOKEN_BYTES or len(parts) != 3:
            raise ValueError
        data = base64.urlsafe_b64decode(parts[number] + "=" * (-len(parts[number]) % 4))
        return msgspec.json.decode(data, type=kind)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise refused_token(issuer, "it is not a signed token") from None


def _signed_claims(issuer: str, token: str, algorithm: str, key: Any) -> dict[str, Any]:
    from joserfc import jwt
    from joserfc.errors import JoseError, UnsupportedAlgorithmError
    from joserfc.jws import JWSRegistry

    class OneAlgorithm(JWSRegistry):
        """The algorithm that is allowed; the library warns of EdDSA, for its name alone."""

        def get_alg(self, name: str) -> Any:
            if name != algorithm:
                raise UnsupportedAlgorithmError
            return self.algorithms[name]

    registry = OneAlgorithm(algorithms=[algorithm], strict_check_header=False)
    try:
        claims: dict[str, Any] = jwt.decode(token, key, registry=registry).claims
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise refused_token(issuer, "its signature is wrong") from None
    return claims


def _parsed_keys(given: _KeyList) -> list[Any]:
    """Return the keys that can verify what is signed; others are left out."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    keys = []
    for one in given.keys[:_KEYS]:
        if one.get("kty") not in ALGORITHMS.values() or one.get("use", "sig") != "sig":
            continue
        public = {name: value for name, value in one.items() if name in _PUBLIC}
        try:
            key = JWKRegistry.import_key(public)
            sound = _is_sound(key)
        except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
            continue
        if sound:
            keys.append(key)
    return keys


_PUBLIC = ("kty", "kid", "use", "alg", "n", "e", "crv", "x", "y")
"""Of a key in a document what matters: never its private part."""


def _is_sound(key: Any) -> bool:
    """Return whether a key is of a curve or a size that an allowed algorithm has."""
    if key.key_type == "RSA":
        bits: int = key.public_key.key_size
        return _RSA_BITS <= bits <= 4 * _RSA_BITS
    return key.as_dict(private=False).get("crv") in ("P-256", "Ed25519")


def _fitting(keys: list[Any], header: _SignedHeader) -> Any:
    kind = ALGORITHMS[header.alg]
    found = [
        key
        for key in keys
        if key.key_type == kind
        and key.as_dict(private=False).get("alg", header.alg) == header.alg
        and (header.kid is None or key.as_dict(private=False).get("kid") == header.kid)
    ]
    # Without a number of the key there must be only one that it can be.
    return found[0] if len(found) == 1 else None


def _basic(name: str, secret: str) -> str:
    from urllib.parse import quote

    pair = f"{quote(name, safe='')}:{quote(secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
