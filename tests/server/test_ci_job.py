"""CI jobs that publish without a secret, and servers that would like to be shown who they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from modpkg.manifest.config import Settings
from modpkg.registry.api_records import PublisherRequest
from modpkg.registry.ci_job import GITHUB_TOKEN, GITHUB_URL, ID_TOKEN, job_api
from modpkg.registry.opening import open_place
from modpkg.registry.reader import Registry
from modpkg.registry.server_api import ServerApi
from modpkg.registry.server_writer import writer_at
from modpkg.server.accounts import find_account
from modpkg.server.callers import caller_for
from modpkg.server.owners import add_module
from modpkg.server.state import Server
from modpkg.server.trusted_publishers import add_publisher
from tests.changing import build_for, numbers, write
from tests.raising import raises
from tests.registry import servers
from tests.registry.servers import serve
from tests.server.conftest import token_for
from tests.server.issuer import LocalIssuer
from tests.server.live import live_server

JOB = {"repository": "acme/words", "workflow": "release.yml", "repository_id": 17}


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    made = LocalIssuer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, issuer: LocalIssuer) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live") / "registry"
    with live_server(folder, publishing_issuers=(issuer.url,)) as server:
        token_for(server, "ada")
        wanted = PublisherRequest(
            issuer=issuer.url, repository="acme/words", workflow="release.yml"
        )
        with server.database.begin() as db:
            ada = find_account(db, "ada")
            assert ada is not None
            for name in ("words", "others"):
                add_module(db, caller_for(ada), name)
            add_publisher(db, server, caller_for(ada), "words", wanted)
        yield server


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ID_TOKEN, GITHUB_TOKEN, GITHUB_URL):
        monkeypatch.delenv(name, raising=False)


def publish(live: Server, folder: Path, name: str, version: str = "1.0") -> None:
    line = build_for(write(folder, numbers("a"), name, version), folder / "none").line
    writer = writer_at(open_place(live.settings.url, Settings()))
    writer.publish(Registry(str(folder / "dist")), line)


def test_a_job_publishes_its_module_alone(
    live: Server, issuer: LocalIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises("M521", match="log in first"):
        publish(live, tmp_path / "1", "words")
    monkeypatch.setenv(ID_TOKEN, issuer.signed({"aud": live.settings.url, **JOB}))
    publish(live, tmp_path / "1", "words")
    monkeypatch.setenv(ID_TOKEN, issuer.signed({"aud": live.settings.url, **JOB, "jti": "2"}))
    with raises("M443", match="others"):
        publish(live, tmp_path / "2", "others")
    assert live.registry().names() == ["words"]
    assert "1.0" in [line.version for line in Registry(live.settings.url).index("words")]


@pytest.fixture
def github(tmp_path: Path, issuer: LocalIssuer) -> Iterator[servers.Server]:
    """What GitHub gives a job identity tokens at."""

    def give(handler: servers.Handler, number: int) -> bool:
        assert handler.headers["Authorization"] == "Bearer asking"
        (audience,) = parse_qs(urlsplit(handler.path).query)["audience"]
        token = issuer.signed({"aud": audience, **JOB, "jti": f"github {number}"})
        handler.answer(200, json.dumps({"value": token}).encode())
        return True

    (tmp_path / "github").mkdir()
    with serve(tmp_path / "github") as running:
        running.fault = give
        yield running


def test_a_job_of_github_asks_for_its_identity(
    live: Server, github: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GITHUB_URL, f"{github.url}/job/idtoken?api-version=2.0")
    monkeypatch.setenv(GITHUB_TOKEN, "asking")
    publish(live, tmp_path / "1", "words", "1.1")
    assert "1.1" in [line.version for line in Registry(live.settings.url).index("words")]
    assert github.paths()[0].startswith("/job/idtoken?api-version=2.0&audience=http%3A%2F%2F")


def test_a_server_gets_no_identity_that_is_for_another(
    live: Server,
    github: servers.Server,
    issuer: LocalIssuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "evil").mkdir()
    with serve(tmp_path / "evil") as evil:

        def asks(handler: servers.Handler, number: int) -> bool:
            handler.answer(200, json.dumps({"audience": audience}).encode())
            return True

        evil.fault = asks
        api = ServerApi(evil.url, f"{evil.url}/api/1/")
        audience = live.settings.url
        monkeypatch.setenv(GITHUB_URL, f"{github.url}/job/idtoken?api-version=2.0")
        monkeypatch.setenv(GITHUB_TOKEN, "asking")
        with raises("M526", match=f"is for {live.settings.url}"):
            job_api(api, "words")
        assert github.seen == []
        audience = evil.url
        for text in (issuer.signed({"aud": live.settings.url, **JOB}), "a.b.c", "a", "a.W10.c"):
            monkeypatch.setenv(ID_TOKEN, text)
            with raises("M526", match=f"not for {evil.url}"):
                job_api(api, "words")
        assert {seen.path for seen in evil.seen} == {"/api/1/oidc/audience"}


def test_outside_of_a_job_nobody_is_asked() -> None:
    assert job_api(ServerApi("http://127.0.0.1:1", "http://127.0.0.1:1/api/1/"), "words") is None
