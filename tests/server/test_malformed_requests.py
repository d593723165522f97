"""Requests that the API does not understand."""

from __future__ import annotations

import pytest
from litestar.testing import TestClient

from modpkg.server.file_answers import ServerApp
from modpkg.server.state import Server
from tests.server.conftest import token_for


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "it ends too early"),
        (b"[]", "it is a list, and has to be a table"),
        (b"{}", "it has no 'version'"),
        (b'{"version": 1}', "its 'version' is a number, and has to be a text"),
        (
            b'{"version": "1", "reason": 1}',
            "its 'reason' is a number, and has to be a text or null",
        ),
        (
            b'{"version": "1", "reason": "%s"}' % (2001 * b"y"),
            "its 'reason' is longer than 2000 characters",
        ),
        (b'{"version": "1", "reason": "a\\nb"}', "its 'reason' has a line feed"),
        (b'{"version": "1", "reason": "\\ud800"}', "it ends too early"),
    ],
)
def test_a_body_is_refused_with_what_is_wrong_in_it(
    body: bytes, reason: str, server: Server, client: TestClient[ServerApp]
) -> None:
    headers = {"Authorization": f"Bearer {token_for(server, 'ada')}"}
    answer = client.post("/api/1/modules/words/yank", headers=headers, content=body)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "tokens/586836811812190552064", 400),
        ("GET", "sessions/%00", 404),
        ("GET", "modules/%00/owners", 404),
        ("GET", "modules/' OR 1=1 --/owners", 404),
        ("GET", "nothing", 404),
        ("PATCH", "me", 405),
        ("POST", "sessions", 400),
    ],
)
def test_each_is_refused_as_all_others(
    method: str, path: str, status: int, server: Server, client: TestClient[ServerApp]
) -> None:
    headers = {"Authorization": f"Bearer {token_for(server, 'ada')}"}
    content = b"{" if method == "POST" else None
    answer = client.request(method, f"/api/1/{path}", headers=headers, content=content)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] in ("M439", "M450", "M459"), answer.text
