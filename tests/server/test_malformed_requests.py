"""Requests that the API does not understand."""

from __future__ import annotations

import pytest
from litestar.testing import TestClient

from modpkg.server.file_answers import ServerApp
from modpkg.server.state import Server
from tests.server.conftest import token_for


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
