"""Identities of OpenID Connect have one written form each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.bounds import LOCK_SIGNER
from modpkg.core.oidc_identity import (
    PATTERN,
    OidcIdentity,
    is_bounded,
    parse_identity,
    relative_repository,
)
from tests.raising import raises

ISSUER = "https://token.actions.githubusercontent.com"
PART = st.text(st.characters(codec="utf-8"), max_size=40)


@given(PART, PART, PART, PART, PART)
def test_what_is_written_is_read(
    repo: str, owner: str, workflow: str, ref: str, subject: str
) -> None:
    identity = OidcIdentity(ISSUER, repo, owner, workflow, ref, subject)
    if not (repo or subject) or not is_bounded(identity):
        return
    text = str(identity)
    assert parse_identity(text) == identity
    assert re.fullmatch(PATTERN, text)
    assert len(text) <= LOCK_SIGNER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oidc:",
        f"oidc:{ISSUER}",  # everybody on GitHub
        f"oidc:{ISSUER} ref=refs/heads/main",
        f"oidc:{ISSUER} ref=refs/heads/main repo=acme/models",  # another order
        f"oidc:{ISSUER} repo=acme/models repo=acme/models",
        f"oidc:{ISSUER} repo=acme/models branch=main",
        f"oidc:{ISSUER} repo=acme/models ",
        f"oidc:{ISSUER}  repo=acme/models",
        f"oidc:{ISSUER} repo=",
        f"oidc:{ISSUER} repo=%61cme/models",
        f"oidc:{ISSUER} issuer=https://other.example repo=a",
        "oidc:http://gitlab.example repo=acme/models",
        "oidc:https://user@gitlab.example repo=acme/models",
        f"oidc:{ISSUER} subject={'a' * 401}",
        f"{ISSUER} repo=acme/models",
    ],
)
def test_other_texts_are_none(text: str) -> None:
    with raises("M590", match="no signer"):
        parse_identity(text)


def test_an_identity_includes_narrower_ones() -> None:
    one = OidcIdentity(ISSUER, "acme/models", "7", "release.yml", "refs/tags/v1", "me")
    for wide in (
        OidcIdentity(ISSUER, "acme/models"),
        OidcIdentity(ISSUER, subject="me"),
        OidcIdentity(ISSUER, "acme/models", ref="refs/tags/v1"),
        one,
    ):
        assert wide.includes(one)
    for other in (
        OidcIdentity(ISSUER, "acme/models2"),
        OidcIdentity(ISSUER, "Acme/models"),
        OidcIdentity("https://gitlab.com", "acme/models"),
        OidcIdentity(ISSUER, "acme/models", "8"),
        OidcIdentity(ISSUER, "acme/models", workflow="test.yml"),
    ):
        assert not other.includes(one)
    assert one.lasting() == OidcIdentity(ISSUER, "acme/models", "7", "release.yml")
    assert OidcIdentity(ISSUER, ref="x", subject="me").lasting() == OidcIdentity(
        ISSUER, subject="me"
    )


def test_a_repository_elsewhere_than_its_issuer_is_written_whole() -> None:
    assert relative_repository(ISSUER, "https://github.com/acme/models") == "acme/models"
    for elsewhere in ("https://github.com.evil.example/acme/models", "https://gitlab.com/a/b"):
        assert relative_repository(ISSUER, elsewhere) == elsewhere
