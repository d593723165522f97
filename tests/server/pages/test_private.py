"""Pages of private modules: for those who may know of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.server.app import make_app
from modpkg.server.callers import ANYBODY
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.settings import ServerSettings
from modpkg.server.state import PRIVATE, Server
from modpkg.server.tables import Account, Module, Role
from modpkg.server.web_logins import begin_login
from tests.modules import publish_collection

Browser = TestClient[Litestar]
ADDRESSES = [
    *("/modules/secret", "/modules/secret/1.0", "/modules/secret/versions"),
    "/modules/secret/candidates",
]


@pytest.fixture
def browsers(tmp_path: Path) -> Iterator[tuple[Browser, Browser, Browser]]:
    """The browsers of an owner, of somebody else who is logged in, and of nobody."""
    registry = tmp_path / "registry"
    publish_collection(registry, "words")
    publish_collection(registry / PRIVATE, "secret", requires={"words": ">=1"})
    server = Server(ServerSettings(storage=str(registry)))
    server.prepare()
    with server.database.begin() as db:
        people = [Account(name=name, created=now()) for name in ("ada", "bob")]
        module = Module(name="secret", is_private=True, created=now())
        db.add_all([*people, module, Module(name="words", created=now())])
        db.flush()
        db.add(Role(module="secret", account_id=people[0].id, role="owner"))
        log_event(db, "ada", "publish", "secret", "1.0")
        cookies = [begin_login(db, server.settings, one, ANYBODY) for one in people]
    clients = [TestClient(make_app(server)) for _ in range(3)]
    for client, cookie in zip(clients, cookies, strict=False):
        client.cookies.set(server.cookie, cookie)
    for client in clients:
        client.headers["Accept"] = "text/html"
    yield clients[0], clients[1], clients[2]
    server.close()


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_owner_sees_it_and_nobody_else(
    browsers: tuple[Browser, Browser, Browser], address: str
) -> None:
    owner, other, nobody = browsers
    shown = owner.get(address)
    if "candidates" not in address:
        assert shown.status_code == 200
        assert "private" in shown.text
        assert shown.headers["Cache-Control"] == "no-store"
    absent = other.get(address.replace("secret", "absent"))
    for browser in (other, nobody):
        answer = browser.get(address)
        assert answer.status_code == 404
        if browser is other:  # the same page as of a module that there is not
            assert answer.text.replace("secret", "absent") == absent.text


def test_it_is_found_by_those_alone_who_may_see_it(
    browsers: tuple[Browser, Browser, Browser],
) -> None:
    owner, other, nobody = browsers
    assert 'href="/modules/secret"' in owner.get("/search?q=secr").text
    for browser in (other, nobody):
        for address in (
            "/search?q=secr",
            "/search",
            "/",
            "/events",
            "/people/ada",
            "/modules/words",
        ):
            assert 'href="/modules/secret' not in browser.get(address).text
    assert 'href="/modules/words"' in owner.get("/modules/secret").text
