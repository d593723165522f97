"""What holds for every request: its number, pace and line in the log; health and metrics."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from litestar import Litestar, get
from litestar.exceptions import HTTPException
from litestar.testing import TestClient
from msgspec.structs import replace

from modpkg.core.filenames import REGISTRY_INFO
from modpkg.server import traffic
from modpkg.server.app import make_app
from modpkg.server.metrics import forget_ended
from modpkg.server.rate_limits import KEPT, RateLimits
from modpkg.server.request_log import LOGGER, JsonLines, write_log
from modpkg.server.settings import ServerLimits, ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account
from tests.raising import raises
from tests.server.conftest import token_for

Client = TestClient[Litestar]


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged, line by line."""
    found: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(JsonLines().format(record)))

    handler, level = Kept(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield found
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


def administrator(server: Server, name: str = "root-ada") -> dict[str, str]:
    token = token_for(server, name)
    with server.database.begin() as db:
        account = db.query(Account).filter_by(name=name).one()
        account.is_administrator = True
    return {"Authorization": f"Bearer {token}"}


def test_health_and_readiness(server: Server, client: Client, tmp_path: Path) -> None:
    assert client.get("/healthz").text == "ok"
    answer = client.get("/readyz")
    assert (answer.status_code, {*answer.json().values()}) == (200, {"ok"})


@pytest.mark.parametrize("part", ["storage", "database", "migrations"])
def test_what_cannot_be_used_is_told_and_nothing_else(
    server: Server, client: Client, tmp_path: Path, lines: list[dict[str, Any]], part: str
) -> None:
    if part == "storage":
        (tmp_path / "registry" / REGISTRY_INFO).unlink()
    elif part == "migrations":
        with server.database.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'other'")
    else:
        with server.database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE alembic_version")
        server.database.engine.dispose()
        server.database.engine = type(server.database)("sqlite:////nowhere/at/all.db").engine
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()[part] == "failed"
    assert str(tmp_path) not in answer.text
    assert any(line["event"] == "failure" for line in lines)
    assert client.get("/healthz").status_code == 200


def test_metrics_are_for_administrators(server: Server, client: Client) -> None:
    assert client.get("/metrics").status_code == 401
    other = {"Authorization": f"Bearer {token_for(server, 'bob')}"}
    assert client.get("/metrics", headers=other).status_code == 403
    client.get("/registry.json")
    client.get("/api/1/me")
    client.get("/nothing-here")
    text = client.get("/metrics", headers=administrator(server)).text
    assert 'modpkg_requests_total{method="GET",route="/api/1/me",status="200"} 1.0' in text
    assert 'modpkg_file_reads_total{kind="registry.json",status="200"} 1.0' in text
    assert 'modpkg_refusals_total{code="M431"} 1.0' in text
    assert "modpkg_accounts 2.0" in text
    assert "modpkg_open_sessions 0.0" in text
    assert "modpkg_request_seconds_bucket" in text
    assert "nothing-here" not in text  # whoever asks for many paths makes no many series


def test_what_a_process_had_under_way_ends_with_it(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number in (ended.pid, os.getpid()):
        (tmp_path / f"gauge_livesum_{number}.db").touch()
    (tmp_path / f"counter_{ended.pid}.db").touch()
    forget_ended(tmp_path)
    assert {path.name for path in tmp_path.glob("*.db")} == {
        f"gauge_livesum_{os.getpid()}.db",
        f"counter_{ended.pid}.db",
    }


def test_each_request_has_a_number_and_a_line_without_secrets(
    server: Server, client: Client, lines: list[dict[str, Any]]
) -> None:
    headers = administrator(server)
    answer = client.get("/api/1/me?token=SECRET", headers=headers)
    number = answer.headers["x-request-id"]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["request"] == number
    assert (line["path"], line["status"], line["account"]) == ("/api/1/me", 200, "root-ada")
    assert {"time", "level", "method", "ms", "sent", "address"} <= line.keys()
    shown = client.get("/api/1/me", headers={"X-Request-ID": "from-a-proxy-1"})
    assert shown.headers["x-request-id"] == "from-a-proxy-1"
    hostile = client.get("/api/1/me", headers={"X-Request-ID": "x" * 65})
    assert hostile.headers["x-request-id"] != "x" * 65
    client.get("/nothing/SECRET", headers={"Cookie": "modpkg=SECRET"})
    client.post("/api/1/login", json={"name": "root-ada", "password": "SECRET"})
    text = json.dumps(lines)
    assert "SECRET" not in text
    assert headers["Authorization"][len("Bearer ") :] not in text


def test_an_error_that_nobody_foresaw_is_logged_with_its_place(
    server: Server, lines: list[dict[str, Any]]
) -> None:
    @get("/api/1/broken", sync_to_thread=False)
    def broken() -> str:
        raise ZeroDivisionError("at https://name:SECRET@host/")

    with TestClient(make_app(server, [broken]), raise_server_exceptions=False) as client:
        answer = client.get("/api/1/broken")
    assert answer.status_code == 500
    assert "Zero" not in answer.text
    (line,) = [line for line in lines if line["event"] == "failure"]
    assert (line["error"], line["request"]) == (
        "ZeroDivisionError",
        answer.headers["x-request-id"],
    )
    assert "broken" in line["at"][-1]
    assert "SECRET" not in json.dumps(line)


def test_answers_have_headers_that_keep_browsers_from_guessing(client: Client) -> None:
    headers = client.get("/api/1/me").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'"
    assert "strict-transport-security" not in headers


def test_only_https_is_told_for_a_server_that_is_reached_by_it(server: Server) -> None:
    settings = replace(server.settings, url="https://models.example")
    secure = Server(settings)
    with TestClient(make_app(secure)) as client:
        assert "strict-transport-security" in client.get("/api/1/me").headers


def test_who_asks_too_often_waits(server: Server) -> None:
    limits = ServerLimits(requests_per_second=0.001, requests_at_once=3)
    slow = Server(replace(server.settings, limits=limits))
    with TestClient(make_app(slow)) as client:
        answers = [client.get("/api/1/me") for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert answers[-1].json()["code"] == "M484"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 1000
        assert client.get("/healthz").status_code == 200
        assert client.get("/registry.json").status_code == 200
        text = slow.metrics.text().decode()
    assert "modpkg_limited_requests_total 1.0" in text
    assert 'status="429"' in text


def test_requests_are_counted_for_who_sends_them(server: Server) -> None:
    limits = ServerLimits(requests_per_second=0.001, requests_at_once=2)
    settings = replace(server.settings, limits=limits, proxies=("10.0.0.0/8",))
    slow = traffic.Traffic(settings, server.metrics)

    async def app(_: object, __: object, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def status(peer: str, *headers: tuple[bytes, bytes]) -> int:
        told: list[int] = []

        async def send(message: dict[str, Any]) -> None:
            told.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "GET", "path": "/x", "client": (peer, 5)}
        anyio.run(slow.answer, app, scope | {"headers": [*headers]}, None, send)
        return told[0]

    def asked_for(address: bytes) -> tuple[bytes, bytes]:
        return b"x-forwarded-for", address

    first, second = asked_for(b"192.0.2.7"), asked_for(b"192.0.2.8")
    assert [status("10.1.1.1", first) for _ in range(3)] == [200, 200, 429]
    assert status("10.1.1.1", second) == 200
    assert [status("192.0.2.9", second) for _ in range(3)] == [200, 200, 429]  # no proxy
    # A proxy on this machine that is not named speaks for everybody.
    assert {status("127.0.0.1", first) for _ in range(5)} == {200}
    token = (b"authorization", b"Bearer x")
    assert [status("127.0.0.1", token) for _ in range(3)] == [200, 200, 429]


def test_the_buckets_fill_again_and_are_few() -> None:
    moment = 0.0
    limits = RateLimits(2, 4, clock=lambda: moment)
    for _ in range(4):
        limits.count(["a"])
    with raises("M484", match="wait for 1 seconds"):
        limits.count(["a"])
    limits.count(["b"])
    with raises("M484"):  # a token does not help one address to more, nor one token two addresses
        limits.count(["a", "token"])
    moment = 0.5
    limits.count(["a"])
    with raises("M484"):
        limits.count(["a"])
    for number in range(KEPT + 10):
        limits.count([str(number)])
    assert len(limits._left) == KEPT
    RateLimits(0, 0).count(["a"])


def test_a_body_that_comes_too_slowly_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def never() -> dict[str, Any]:
        await anyio.sleep_forever()
        return {}

    async def send(_: object) -> None:
        return

    async def app(_: object, receive: Any, __: object) -> None:
        await receive()

    scope = {"type": "http", "method": "PUT", "path": "/x", "headers": [], "client": ("1.2.3.4", 5)}
    monkeypatch.setattr(traffic, "PIECE_SECONDS", 0.01)
    with pytest.raises(HTTPException, match="408"):
        anyio.run(server.traffic.answer, app, scope, never, send)
    monkeypatch.setattr(traffic, "PIECE_SECONDS", 30)
    anyio.run(server.traffic.answer, app, scope, receive, send)
    monkeypatch.setattr(traffic, "SLOW_AFTER", 0)
    monkeypatch.setattr(traffic, "SLOWEST", 10**12)
    with pytest.raises(HTTPException, match="408"):
        anyio.run(server.traffic.answer, app, scope, receive, send)


def test_what_other_libraries_log_is_redacted() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        write_log(stream)
        logging.getLogger("alembic").warning("connecting to postgresql://ada:SECRET@host/db\nmore")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        LOGGER.setLevel(logging.NOTSET)
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["logger"], found["level"]) == ("alembic", "warning")
    assert "SECRET" not in line


def test_settings_can_be_made() -> None:
    assert ServerSettings(storage="x").limits.requests_per_second > 0


def test_a_registry_gets_another_address_only_if_it_has_moved(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    settings = ServerSettings(storage=str(tmp_path / "own"), url="http://127.0.0.1:8420")

    def start(url: str, *, moved: bool = False) -> None:
        server = Server(replace(settings, url=url, moved=moved))
        try:
            server.prepare()
        finally:
            server.close()

    for _ in range(2):
        start("http://127.0.0.1:8420")
    start("https://one.example")  # the one before was a trial on this machine
    before = (tmp_path / "own" / "registry.json").read_bytes()
    for url in ("https://two.example", "http://127.0.0.1:8420", "https://one.example:8443"):
        with raises("M473", match="one.example"):
            start(url)
    assert (tmp_path / "own" / "registry.json").read_bytes() == before
    start("https://two.example", moved=True)
    start("https://two.example")
    start("https://two.example.:443")  # is the same
    start("https://two.example")
    found = [line["before"] for line in lines if line["event"] == "moved"]
    assert found == ["http://127.0.0.1:8420/api/1/", "https://one.example/api/1/"]
