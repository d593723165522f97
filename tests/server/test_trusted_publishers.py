"""Jobs of a CI that publish a module without a secret."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from msgspec.structs import replace
from sqlalchemy import select

from modpkg.server.accounts import find_account
from modpkg.server.app import make_app
from modpkg.server.callers import caller_for
from modpkg.server.issuers import VerifiedToken
from modpkg.server.owners import add_module
from modpkg.server.settings import GITHUB, GITLAB, ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import ApiToken, Event
from modpkg.server.trusted_publishers import job_of
from tests.server.conftest import sent_with, token_for
from tests.server.issuer import LocalIssuer

Client = TestClient[Litestar]
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of the curve P-256."""
JOB = {"repository": "acme/words", "workflow": "release.yml", "repository_id": 17}


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    made = LocalIssuer()
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path, issuer: LocalIssuer) -> Iterator[Server]:
    settings = ServerSettings(storage=str(tmp_path / "registry"), name="test")
    made = Server(replace(settings, publishing_issuers=(issuer.url,)))
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with TestClient(make_app(server)) as made:
        yield made


@pytest.fixture
def ada(server: Server) -> dict[str, str]:
    """The headers of ada, who owns ``words``."""
    headers = sent_with(token_for(server, "ada"))
    with server.database.begin() as db:
        account = find_account(db, "ada")
        assert account is not None
        add_module(db, caller_for(account), "words")
        add_module(db, caller_for(account), "others")
    return headers


def trusted(client: Client, headers: dict[str, str], issuer: str, **more: Any) -> Any:
    wanted = {"issuer": issuer, "repository": "Acme/Words", "workflow": "release.yml", **more}
    return client.post("/api/1/modules/words/trusted-publishers", json=wanted, headers=headers)


def exchanged(client: Client, token: str, module: str = "words") -> Any:
    return client.post("/api/1/oidc/token", json={"token": token, "module": module})


def signed(client: Client, issuer: LocalIssuer, **claims: Any) -> str:
    audience = client.get("/api/1/oidc/audience").json()["audience"]
    return issuer.signed({"aud": audience, **JOB, **claims})


def test_a_job_gets_a_token_for_its_module_alone(
    client: Client, server: Server, issuer: LocalIssuer, ada: dict[str, str]
) -> None:
    assert trusted(client, ada, issuer.url).status_code == 201
    answer = exchanged(client, signed(client, issuer, jti="1"), "Words")
    assert answer.status_code == 201
    headers = sent_with(answer.json()["token"])
    me = client.get("/api/1/me", headers=headers).json()
    assert (me["name"], me["actions"], me["modules"]) == (
        "ada",
        ["publish", "read", "submit"],
        ["words"],
    )
    with server.database.begin() as db:
        row = db.scalars(select(ApiToken).where(ApiToken.publisher_id.is_not(None))).one()
        assert row.expires is not None
        assert 0 < (row.expires - row.created).total_seconds() <= 15 * 60
    assert client.get("/api/1/tokens", headers=headers).json() == {"tokens": []}
    wanted = {"name": "more", "actions": ["publish"], "modules": ["words"]}
    assert client.post("/api/1/tokens", json=wanted, headers=headers).json()["code"] == "M432"
    assert exchanged(client, signed(client, issuer, jti="2"), "others").json()["code"] == "M443"


def test_a_token_of_a_job_is_taken_once(
    client: Client, issuer: LocalIssuer, ada: dict[str, str]
) -> None:
    trusted(client, ada, issuer.url)
    for claims in ({"jti": "one"}, {}):
        text = signed(client, issuer, **claims)
        assert exchanged(client, text).status_code == 201
        again = exchanged(client, text)
        assert (again.status_code, again.json()["code"]) == (403, "M442")
    # Of a signature (r, s) of ECDSA, (r, n - s) is one too.
    head, _, signature = text.rpartition(".")
    raw = urlsafe_b64decode(signature + "==")
    other = raw[:32] + (_N - int.from_bytes(raw[32:])).to_bytes(32)
    again = exchanged(client, f"{head}.{urlsafe_b64encode(other).decode().rstrip('=')}")
    assert (again.json()["code"], "used already" in again.json()["message"]) == ("M442", True)


@pytest.mark.parametrize(
    "claims",
    [
        {"repository": "evil/words"},
        {"repository": "acme/words/"},
        {"repository": None},
        {"repository": ["acme/words"]},
        {"workflow": "test.yml"},
        {"workflow": ""},
        {"environment": "test"},
        {"environment": None},
    ],
)
def test_another_job_is_refused(
    client: Client, issuer: LocalIssuer, ada: dict[str, str], claims: dict[str, Any]
) -> None:
    trusted(client, ada, issuer.url, environment="release")
    refused = exchanged(client, signed(client, issuer, **{"environment": "release"} | claims))
    assert (refused.status_code, refused.json()["code"]) == (403, "M443")


def test_a_repository_that_got_the_name_later_is_another(
    client: Client, issuer: LocalIssuer, ada: dict[str, str]
) -> None:
    trusted(client, ada, issuer.url)
    assert exchanged(client, signed(client, issuer, jti="1")).status_code == 201
    later = exchanged(client, signed(client, issuer, jti="2", repository_id=18))
    assert later.json()["code"] == "M443"
    assert exchanged(client, signed(client, issuer, jti="3")).status_code == 201


def test_tokens_for_others_and_of_others_are_refused(
    client: Client, issuer: LocalIssuer, ada: dict[str, str]
) -> None:
    trusted(client, ada, issuer.url)
    for text in (
        issuer.signed({"aud": "https://others.example", **JOB}),
        signed(client, issuer, iss="https://evil.example"),
        signed(client, issuer, exp=10),
        "not a token",
    ):
        assert exchanged(client, text).json()["code"] == "M442"
    assert [one for one in issuer.asked if "evil" in one] == []


def test_publishers_are_the_owners_matter(
    client: Client, server: Server, issuer: LocalIssuer, ada: dict[str, str]
) -> None:
    bob = sent_with(token_for(server, "bob"))
    where = "/api/1/modules/words/trusted-publishers"
    assert trusted(client, bob, issuer.url).json()["code"] == "M432"
    assert trusted(client, ada, "https://evil.example").json()["code"] == "M449"
    assert trusted(client, ada, issuer.url, repository="words").json()["code"] == "M449"
    made = trusted(client, ada, issuer.url).json()
    assert client.get(where, headers=bob).json()["code"] == "M432"
    assert client.get(where, headers=ada).json()["publishers"] == [made]
    token = exchanged(client, signed(client, issuer)).json()["token"]
    assert client.delete(f"{where}/{made['id']}", headers=bob).json()["code"] == "M432"
    assert client.delete(f"{where}/{made['id']}", headers=ada).status_code == 204
    assert client.delete(f"{where}/{made['id']}", headers=ada).json()["code"] == "M439"
    assert client.get("/api/1/me", headers=sent_with(token)).status_code == 401
    assert exchanged(client, signed(client, issuer, jti="2")).json()["code"] == "M443"
    with server.database.begin() as db:
        actions = [*db.scalars(select(Event.action).order_by(Event.id))]
    assert actions[-3:] == ["publisher.add", "publisher.token", "publisher.remove"]


def test_a_workflow_of_github_is_named_by_its_file(
    client: Client, server: Server, ada: dict[str, str]
) -> None:
    server.settings = replace(server.settings, publishing_issuers=(GITHUB,))
    made = trusted(client, ada, GITHUB, workflow=".github/workflows/release.yml").json()
    assert made["workflow"] == "release.yml"
    assert trusted(client, ada, GITHUB, workflow="ci/release.yml").json()["code"] == "M449"


def test_the_jobs_of_an_owner_end_with_his_ownership(
    client: Client, server: Server, issuer: LocalIssuer, ada: dict[str, str]
) -> None:
    trusted(client, ada, issuer.url)
    token = exchanged(client, signed(client, issuer, jti="1")).json()["token"]
    bob = sent_with(token_for(server, "bob"))
    where = "/api/1/modules/words/transfer"
    client.post(where, json={"to": "bob"}, headers=ada)
    assert client.post(f"{where}/accept", headers=bob).status_code == 204
    assert client.get("/api/1/me", headers=sent_with(token)).status_code == 401
    assert exchanged(client, signed(client, issuer, jti="2")).json()["code"] == "M443"


def test_jobs_of_github_and_gitlab_are_named_by_their_own_claims() -> None:
    def job(issuer: str, **claims: Any) -> Any:
        found = job_of(VerifiedToken(issuer, claims, "", 0.0))
        return found.repository, found.workflow, found.environment, found.repository_id

    reference = "acme/words/.github/workflows/release.yml@refs/heads/main"
    github = {"repository": "acme/words", "repository_id": "17", "environment": "release"}
    assert job(GITHUB, workflow_ref=reference, **github) == (
        "acme/words",
        "release.yml",
        "release",
        "17",
    )
    evil = "evil/words/.github/workflows/release.yml@refs/heads/main"
    assert job(GITHUB, workflow_ref=evil, **github)[1] == ""
    assert job(GITHUB, workflow_ref="acme/words/.github/workflows/release.yml", **github)[1] == ""
    reference = "gitlab.com/acme/words//.gitlab-ci.yml@refs/heads/main"
    gitlab = {"project_path": "acme/words", "project_id": "3", "ci_config_ref_uri": reference}
    assert job(GITLAB, **gitlab) == ("acme/words", ".gitlab-ci.yml", "", "3")
