"""Tokens of issuers, verified by what the issuers publish."""

from __future__ import annotations

import ipaddress
import socket
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc.jwk import OctKey, RSAKey

from modpkg.server.issuers import IssuerRequests, Issuers, is_issuer_address, issuer_of
from tests.raising import raises
from tests.server.issuer import LocalIssuer, new_key

US = "https://models.example"


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    made = LocalIssuer()
    yield made
    made.close()


@pytest.fixture
def clock() -> list[float]:
    """The seconds that the server's clock is ahead."""
    return [0.0]


@pytest.fixture
def issuers(clock: list[float]) -> Issuers:
    return Issuers(lambda: time.time() + clock[0])


@pytest.mark.parametrize("kind", ["EC", "RSA", "OKP", "EdDSA"])
def test_a_token_is_verified_by_the_issuers_key(
    issuer: LocalIssuer, issuers: Issuers, kind: str
) -> None:
    header = None
    if kind == "EdDSA":  # the older name, of which the library warns
        issuer.keys, header = [new_key("OKP"), new_key("EC", "other")], {"alg": kind}
    else:
        issuer.keys = [new_key(kind), new_key("EC", "other")]
    with warnings.catch_warnings(action="ignore"):
        text = issuer.signed({"aud": US, "sub": "ada"}, header=header)
    token = issuers.verified(issuer.url, text, US)
    assert (token.text("sub"), token.issuer) == ("ada", issuer.url)
    assert issuer_of(issuer.signed()) == issuer.url


def test_documents_and_keys_are_kept_and_asked_for_again_once(
    issuer: LocalIssuer, issuers: Issuers, clock: list[float]
) -> None:
    for _ in range(3):
        issuers.verified(issuer.url, issuer.signed({"aud": US}), US)
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    issuer.keys = [new_key("EC", "two")]
    for _ in range(2):  # not more than once in a minute
        with raises("M442", match="key"):
            issuers.verified(issuer.url, issuer.signed({"aud": US}), US)
    assert len(issuer.asked) == 2
    clock[0] = 61
    issuers.verified(issuer.url, issuer.signed({"aud": [US, "others"], "nbf": None}), US)
    assert len(issuer.asked) == 4


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "https://others.example"}, "not for"),
        ({"aud": None}, "not for"),
        ({"aud": {"a": 1}}, "not for"),
        ({"iss": "https://others.example"}, "another issuer"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "'exp'"),
        ({"exp": "soon"}, "'exp'"),
        ({"exp": True}, "'exp'"),
        ({"exp": 1e18}, "longer than a day"),
        ({"iat": None}, "'iat'"),
        ({"iat": 4e9}, "not valid yet"),
        ({"nbf": 4e9}, "not valid yet"),
        ({"nbf": "now"}, "'nbf'"),
    ],
)
def test_claims_are_checked(
    issuer: LocalIssuer, issuers: Issuers, claims: dict[str, Any], reason: str
) -> None:
    with raises("M442", match=reason):
        issuers.verified(issuer.url, issuer.signed({"aud": US} | claims), US)


def test_clocks_may_differ_a_little(
    issuer: LocalIssuer, issuers: Issuers, clock: list[float]
) -> None:
    text = issuer.signed({"aud": US})
    for clock[0] in (-20.0, 320.0):
        issuers.verified(issuer.url, text, US)
    for clock[0] in (-60.0, 360.0):
        with raises("M442", match="valid yet|expired"):
            issuers.verified(issuer.url, text, US)


def test_only_the_issuers_own_key_and_allowed_algorithms_count(
    issuer: LocalIssuer, issuers: Issuers
) -> None:
    issuer.keys = [new_key("RSA")]
    sound = issuer.signed({"aud": US})
    forged = issuer.signed({"aud": US}, key=new_key("RSA"))
    with raises("M442", match="signature"):
        issuers.verified(issuer.url, forged, US)
    head, body, signature = sound.split(".")
    for text in (
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        "a.b.c",
        "",
        "." * 2,
        "é.é.é",
        sound + "x" * 20_000,
    ):
        with raises("M442"):
            issuers.verified(issuer.url, text, US)
    # The public key as a secret of HMAC, and no signature at all.
    public = OctKey.import_key(issuer.keys[0].as_pem(private=False).hex())
    from joserfc import jwt

    claims = {"iss": issuer.url, "aud": US, "exp": time.time() + 60, "iat": time.time()}
    for algorithm, key in (("HS256", public), ("none", public)):
        with warnings.catch_warnings(action="ignore"):
            text = jwt.encode(
                {"alg": algorithm, "kid": "one"}, claims, key, algorithms=["HS256", "none"]
            )
        with raises("M442", match="algorithm"):
            issuers.verified(issuer.url, text, US)


def test_a_token_names_its_key_unless_there_is_one(issuer: LocalIssuer, issuers: Issuers) -> None:
    issuer.keys = [new_key("EC", "one"), new_key("EC", "two"), new_key("RSA", "three")]
    with raises("M442", match="key"):
        issuers.verified(issuer.url, issuer.signed({"aud": US}, header={"kid": None}), US)
    text = issuer.signed({"aud": US}, key=issuer.keys[2], header={"kid": None})
    assert issuers.verified(issuer.url, text, US).issuer == issuer.url


@pytest.mark.filterwarnings("ignore")
def test_weak_and_other_keys_do_not_count(issuer: LocalIssuer, issuers: Issuers) -> None:
    weak = RSAKey.generate_key(1024, {"kid": "one"}, auto_kid=False)
    issuer.keys = [weak]
    with raises("M442", match="key"):
        issuers.verified(issuer.url, issuer.signed({"aud": US}), US)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/.well-known/openid-configuration", (404, {}, b"")),
        ("/.well-known/openid-configuration", (302, {"Location": "http://127.0.0.1:1/"}, b"")),
        ("/.well-known/openid-configuration", (200, {}, b"<html>")),
        ("/.well-known/openid-configuration", (200, {}, b"[" * 100_000)),
        ("/.well-known/openid-configuration", (200, {}, b" " * (2 << 20))),
        ("/keys", (200, {}, b'{"keys": 7}')),
        ("/keys", (200, {"Content-Length": "1000"}, b"{}")),
        ("/keys", (301, {"Location": "/other"}, b"")),
    ],
)
def test_an_issuer_that_does_not_answer_as_one(
    issuer: LocalIssuer, issuers: Issuers, path: str, answer: tuple[int, dict[str, str], bytes]
) -> None:
    issuer.answers[path] = answer
    with raises("M447"):
        issuers.verified(issuer.url, issuer.signed({"aud": US}), US)
    assert "/other" not in issuer.asked


def test_an_issuer_that_says_it_is_another(issuer: LocalIssuer, issuers: Issuers) -> None:
    issuer.document = {"issuer": "https://accounts.example"}
    with raises("M447", match=r"accounts\.example"):
        issuers.document(issuer.url)


@pytest.mark.parametrize(
    "keys",
    ["http://models.example/keys", "file:///etc/passwd", "ftp://127.0.0.1/", "//", "http://"],
)
def test_keys_are_fetched_over_tls_or_from_this_machine(
    issuer: LocalIssuer, issuers: Issuers, keys: str
) -> None:
    issuer.document = {"jwks_uri": keys}
    with raises("M447"):
        issuers.verified(issuer.url, issuer.signed({"aud": US}), US)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
    ],
)
def test_a_public_issuer_leads_to_no_private_network(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its document names keys at a name that leads into one, be it with a public address too."""
    leads_to = {"accounts.example": ["8.8.8.8"], "keys.example": ["1.1.1.1", address]}

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in leads_to[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(
        "modpkg.registry.connection._connected", lambda *_: pytest.fail("it connects")
    )
    requests = IssuerRequests("https://accounts.example")
    requests._check_reach("accounts.example", [ipaddress.ip_address("8.8.8.8")])
    with raises("M447", match="private network"):
        requests.record(dict, "GET", "https://keys.example/keys")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"])
def test_an_address_of_this_machine_is_one_in_every_spelling(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the resolver makes of it: what is connected to is what was checked."""
    monkeypatch.setattr(
        "modpkg.registry.connection._connected", lambda *_: pytest.fail("it connects")
    )
    requests = IssuerRequests("https://accounts.example")
    requests._check_reach("accounts.example", [ipaddress.ip_address("8.8.8.8")])
    with raises("M447"):
        requests.record(dict, "GET", f"https://{host}/keys")


def test_what_can_be_an_issuer() -> None:
    assert is_issuer_address("https://accounts.example/realms/a")
    assert is_issuer_address("http://127.0.0.1:8080")
    for text in ("http://accounts.example", "https://", "https://a@b", "https://a/?b", "x:9", ""):
        assert not is_issuer_address(text)
