"""The API as its client sees it, and who gets to see the client's token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from modpkg.core.errors import AccessRefused
from modpkg.manifest.config import Settings, parse_settings
from modpkg.manifest.logins import SentToken
from modpkg.registry import request_tries
from modpkg.registry.api_records import Me
from modpkg.registry.release_requests import YankRequest
from modpkg.registry.review_records import CommentRequest
from modpkg.registry.server_api import ServerApi, open_api
from modpkg.server.state import Server
from tests.raising import raises
from tests.registry import servers
from tests.registry.servers import serve
from tests.server.conftest import token_for
from tests.server.live import live_server

TOKEN = "modpkg_" + "0" * 40


class Other(Struct):
    size: int


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with live_server(tmp_path_factory.mktemp("live") / "registry") as server:
        yield server


def api_of(live: Server, token: str | None = None) -> ServerApi:
    url = live.settings.url
    return ServerApi(url, live.settings.api, None if token is None else SentToken(token))


def test_records_are_answered(live: Server) -> None:
    assert api_of(live).request("GET", "me", Me).name == ""
    assert api_of(live, token_for(live, "ada")).request("GET", "me", Me).name == "ada"


def test_an_error_has_the_servers_code(live: Server) -> None:
    with raises("M430", match=f"The server at {live.settings.url} answers: The token") as caught:
        api_of(live, TOKEN).request("GET", "me", Me)
    assert isinstance(caught.value, AccessRefused)
    with raises("M459", match="Not Found"):
        api_of(live).request("GET", "nothing", Me)
    with raises("M520", match="not what this version of modpkg understands"):
        api_of(live).request("GET", "me", Other)


def test_what_needs_a_login_says_how(live: Server) -> None:
    with raises("M521", match=f"modpkg login {live.settings.url}"):
        api_of(live).check_login("publish")
    api_of(live, TOKEN).check_login("publish")


# Hostile servers ---------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Server]:
    monkeypatch.setattr(request_tries, "_PAUSE", 0.001)
    (tmp_path / "tree").mkdir()
    with serve(tmp_path / "tree") as running:
        yield running


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[servers.Server]:
    (tmp_path / "victim").mkdir()
    with serve(tmp_path / "victim") as running:
        yield running


def settings_of(url: str, line: str = "") -> Settings:
    return parse_settings(f'[registry."{url}"]\ntoken = "{TOKEN}"\n{line}', Path("c.toml"))


def names_api(fake: servers.Server, api: str | None) -> None:
    info = {"spec": 1, "name": "fake"} | ({} if api is None else {"api": api})
    (fake.folder / "registry.json").write_text(json.dumps(info))


def test_a_token_does_not_go_where_a_registry_points(
    fake: servers.Server, victim: servers.Server
) -> None:
    names_api(fake, f"{victim.url}/api/1/")
    with raises("M522", match="which is another server"):
        open_api(fake.url, settings_of(fake.url))
    assert victim.seen == []
    said = settings_of(fake.url, f'api = "{victim.url}/api/1/"')
    api = open_api(fake.url, said)
    assert api is not None
    assert not api.has_login  # the token is for the registry's origin alone
    names_api(fake, "http://127.0.0.1:99999/")
    with raises("M522"):
        open_api(fake.url, settings_of(fake.url))


def test_a_registry_without_an_api_has_none(fake: servers.Server, tmp_path: Path) -> None:
    names_api(fake, None)
    assert open_api(fake.url, settings_of(fake.url)) is None
    assert open_api(str(tmp_path), Settings()) is None


def test_no_redirect_is_followed(fake: servers.Server, victim: servers.Server) -> None:
    def redirect(handler: servers.Handler, number: int) -> bool:
        handler.answer(307, Location=f"{victim.url}/api/1/me")
        return True

    fake.fault = redirect
    with raises("M520", match="redirects"):
        ServerApi(fake.url, f"{fake.url}/api/1/", SentToken(TOKEN)).request("GET", "me", Me)
    assert victim.seen == []


def test_a_token_that_comes_back_is_refused(fake: servers.Server) -> None:
    def echo(handler: servers.Handler, number: int) -> bool:
        handler.answer(200, json.dumps({"name": TOKEN}).encode())
        return True

    fake.fault = echo
    with raises("M897") as caught:
        ServerApi(fake.url, f"{fake.url}/api/1/", SentToken(TOKEN)).request("GET", "me", Me)
    assert TOKEN not in str(caught.value)


def test_a_token_is_not_sent_in_clear() -> None:
    with raises("M315", match="not sent over plain http"):
        ServerApi("http://models.example", "http://models.example/api/1/", SentToken(TOKEN))


@pytest.mark.parametrize(
    ("status", "body", "code", "match"),
    [
        (418, b'{"code": "M999", "message": "a\\u001b[31m tea pot"}', "M520", "tea pot"),
        (403, b"no", "M520", "modpkg login"),
        (413, b"", "M520", "let more through"),
        (422, b'{"code": "M209", "message": ""}', "M209", "answers"),
    ],
)
def test_any_refusal_is_a_sentence(
    status: int, body: bytes, code: str, match: str, fake: servers.Server
) -> None:
    def refuse(handler: servers.Handler, number: int) -> bool:
        handler.answer(status, body)
        return True

    fake.fault = refuse
    with raises(code, match=match) as caught:
        ServerApi(fake.url, f"{fake.url}/api/1/").request("GET", "me", Me)
    assert "\x1b" not in str(caught.value)


def test_what_may_be_asked_twice_is_tried_again(fake: servers.Server) -> None:
    def busy(handler: servers.Handler, number: int) -> bool:
        if number < 2:
            handler.answer(503, Retry_After="0")
        else:
            handler.answer(
                200, b'{"name": "ada", "administrator": false, "actions": [], "modules": []}'
            )
        return True

    fake.fault = busy
    api = ServerApi(fake.url, f"{fake.url}/api/1/")
    assert api.request("GET", "me", Me).name == "ada"
    fake.seen.clear()
    with raises("M520", match="503"):
        api.request("GET", "me", Me, again=False)
    assert len(fake.seen) == 1


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("code", ["M434", "M484"])
def test_a_server_that_limits_says_so_itself(code: str, again: bool, fake: servers.Server) -> None:
    def limit(handler: servers.Handler, number: int) -> bool:
        said = json.dumps({"code": code, "message": "wait for 9 seconds"}).encode()
        handler.answer(429, said, Retry_After="900" if code == "M434" else "0")
        return True

    fake.fault = limit
    with raises(code, match="answers: wait for 9 seconds"):
        ServerApi(fake.url, f"{fake.url}/api/1/").request("GET", "me", Me, again=again)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (CommentRequest("a" * (20_000 + 1)), "text"),
        (YankRequest(version="1.0", reason="a" * 20_000), "reason"),
        (YankRequest(version="1.0", reason="a\ud800"), "U\\+D800"),
    ],
)
def test_what_no_server_takes_is_not_sent(record: Struct, named: str, fake: servers.Server) -> None:
    with raises("M901", match=named):
        ServerApi(fake.url, f"{fake.url}/api/1/").send("POST", "x", record)
    assert fake.seen == []
