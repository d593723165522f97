"""Tokens of the API."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.server.api_tokens import is_covered, is_token_text, new_token_text, normal_pattern
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.tables import ApiToken
from tests.raising import raises
from tests.server.conftest import sent_with, token_for

Client = TestClient[Litestar]
PATTERNS = st.text("ab*-", max_size=5)


def test_a_token_is_known_by_its_form_and_its_checksum() -> None:
    text = new_token_text()
    assert text.startswith("modpkg_")
    assert is_token_text(text)
    swapped = text[:-1] + ("a" if text[-1] != "a" else "b")
    for other in (swapped, text[:-1], text + "a", text.replace("modpkg_", "modpkh_"), ""):
        assert not is_token_text(other)


@given(PATTERNS, PATTERNS, st.text("ab-", max_size=8))
def test_a_covered_pattern_has_no_names_of_its_own(one: str, other: str, name: str) -> None:
    from fnmatch import fnmatchcase

    if is_covered(one, [other]) and fnmatchcase(name, one):
        assert fnmatchcase(name, other)


@pytest.mark.parametrize("text", ["", "[a-z]*", "a b", "?", "../x", "ä*"])
def test_a_pattern_is_a_name_with_stars(text: str) -> None:
    with raises("M438"):
        normal_pattern(text)
    assert [normal_pattern(one) for one in ("Acme_*", "*", "a.b", "acme-*-x")] == [
        "acme-*",
        "*",
        "a-b",
        "acme-*-x",
    ]


def test_tokens_are_made_listed_and_revoked(server: Server, client: Client) -> None:
    headers = sent_with(token_for(server, "ada"))
    wanted = {"name": "ci", "actions": ["publish"], "modules": ["Acme_*"], "days": 7}
    made = client.post("/api/1/tokens", json=wanted, headers=headers).json()
    assert (made["info"]["actions"], made["info"]["modules"]) == (["publish"], ["acme-*"])
    mine = client.get("/api/1/me", headers=sent_with(made["token"])).json()
    assert (mine["actions"], mine["modules"]) == (["publish"], ["acme-*"])
    listed = client.get("/api/1/tokens", headers=headers)
    assert [one["name"] for one in listed.json()["tokens"]] == ["test", "ci"]
    assert listed.json()["tokens"][1]["used"]
    assert made["token"] not in listed.text
    assert made["token"].startswith(listed.json()["tokens"][1]["beginning"])
    assert client.delete(f"/api/1/tokens/{made['info']['id']}", headers=headers).status_code == 204
    answer = client.get("/api/1/me", headers=sent_with(made["token"]))
    assert (answer.status_code, answer.json()["code"]) == (401, "M430")
    with server.database.begin() as db:
        assert made["token"] not in {*db.scalars(select(ApiToken.digest))}


@pytest.mark.parametrize(
    "wanted",
    [
        {"actions": ["publish", "yank"], "modules": ["acme-x"]},
        {"actions": ["publish"], "modules": ["*"]},
        {"actions": ["publish"], "modules": ["acme*"]},
    ],
)
def test_a_token_makes_none_with_more_rights(
    server: Server, client: Client, wanted: dict[str, object]
) -> None:
    headers = sent_with(token_for(server, "ada", "manage publish", "acme-*"))
    answer = client.post("/api/1/tokens", json={"name": "more", **wanted}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "M438")


def test_a_token_that_cannot_manage_makes_and_ends_none_but_itself(
    server: Server, client: Client
) -> None:
    whole = sent_with(token_for(server, "ada"))
    other = client.get("/api/1/tokens", headers=whole).json()["tokens"][0]["id"]
    headers = sent_with(token_for(server, "ada", "publish"))
    wanted = {"name": "more", "actions": ["publish"]}
    assert client.post("/api/1/tokens", json=wanted, headers=headers).json()["code"] == "M432"
    assert len(client.get("/api/1/tokens", headers=headers).json()["tokens"]) == 1
    assert client.delete(f"/api/1/tokens/{other}", headers=headers).json()["code"] == "M439"
    assert client.delete("/api/1/tokens/current", headers=headers).status_code == 204
    assert client.get("/api/1/me", headers=headers).status_code == 401
    assert client.delete("/api/1/tokens/current").json()["code"] == "M431"


def test_anothers_token_is_not_there(server: Server, client: Client) -> None:
    mine = client.get("/api/1/tokens", headers=sent_with(token_for(server, "ada"))).json()
    mine = mine["tokens"][0]["id"]
    headers = sent_with(token_for(server, "bob"))
    answer = client.delete(f"/api/1/tokens/{mine}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "M439")


def test_what_a_stolen_token_made_ends_with_it(server: Server, client: Client) -> None:
    whole = sent_with(token_for(server, "ada"))
    wanted = {"name": "a", "actions": ["manage", "read"], "days": 1}
    first = client.post("/api/1/tokens", json=wanted, headers=whole).json()
    wanted = {"name": "b", "actions": ["read"], "days": 30}
    second = client.post("/api/1/tokens", json=wanted, headers=sent_with(first["token"])).json()
    assert (
        second["info"]["expires"] == first["info"]["expires"]
    )  # none outlives what it was made with
    assert client.delete(f"/api/1/tokens/{first['info']['id']}", headers=whole).status_code == 204
    assert client.get("/api/1/me", headers=sent_with(second["token"])).status_code == 401


def test_an_expired_token_is_none(server: Server, client: Client) -> None:
    token = token_for(server, "ada")
    with server.database.begin() as db:
        db.scalars(select(ApiToken)).one().expires = now() - datetime.timedelta(seconds=1)
    assert client.get("/api/1/me", headers=sent_with(token)).json()["code"] == "M430"
