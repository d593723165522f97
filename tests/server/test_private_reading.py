"""Files of private modules: there for those who have a role, missing for all others."""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from modpkg.core.digests import blob_path, digest_bytes
from modpkg.server.accounts import find_account
from modpkg.server.api_tokens import add_token
from modpkg.server.callers import ANYBODY, caller_for
from modpkg.server.owners import add_module
from modpkg.server.private_reading import note_private_blobs
from modpkg.server.rights import may, visible, visible_private
from modpkg.server.state import Server
from modpkg.server.web_logins import begin_login
from tests.server.conftest import sent_with, token_for

Client = TestClient[Litestar]
BLOB = b"weights that nobody else may see"
DIGEST = digest_bytes(BLOB)


@pytest.fixture
def ada(server: Server) -> dict[str, str]:
    """The headers of ada, who owns the private module ``secret``."""
    token = token_for(server, "ada")
    with server.database.begin() as db:
        account = find_account(db, "ada")
        assert account is not None
        add_module(db, caller_for(account), "secret", private=True)
        note_private_blobs(db, "secret", [DIGEST, DIGEST])
        note_private_blobs(db, "secret", [DIGEST])
    assert server.private is not None
    root = server.private.folder
    assert root is not None
    written(root / "index/secret.jsonl", b'{"name":"secret"}\n')
    written(root / "candidates/secret/1.jsonl", b"{}\n")
    written(root / "modules.jsonl", b'{"name":"other"}\n{"name":"secret"}\nnot a line\n')
    written(root / blob_path(DIGEST), BLOB)
    return sent_with(token)


def written(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


PATHS = ["/index/secret.jsonl", "/candidates/secret/1.jsonl", f"/{blob_path(DIGEST)}"]


def test_private_files_are_there_for_who_has_a_role(
    server: Server, client: Client, ada: dict[str, str]
) -> None:
    bob = sent_with(token_for(server, "bob"))
    unscoped = sent_with(token_for(server, "ada", modules="other*"))
    unreading = sent_with(token_for(server, "ada", actions="publish"))
    for path in PATHS:
        answer = client.get(path, headers=ada)
        assert answer.status_code == 200, path
        assert "public" not in answer.headers["cache-control"]
        assert "private" in answer.headers["cache-control"]
        again = client.get(path, headers=ada | {"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
        unknown = client.get(path.replace("secret", "absent").replace(DIGEST[-4:], "ffff"))
        for headers in ({}, bob, unscoped, unreading):
            missing = client.get(path, headers=headers)
            assert missing.status_code == 404, (path, headers)
            assert missing.headers == unknown.headers
            assert missing.content == unknown.content
    part = client.get(PATHS[2], headers=ada | {"Range": "bytes=0-6"})
    assert (part.status_code, part.content) == (206, b"weights")


def test_the_list_of_modules_has_the_private_ones_of_who_asks(
    server: Server, client: Client, ada: dict[str, str]
) -> None:
    assert server.place.folder is not None
    assert client.get("/modules.jsonl", headers=ada).content == b'{"name":"secret"}\n'
    (server.place.folder / "modules.jsonl").write_bytes(b'{"name":"words"}\n')
    listed = client.get("/modules.jsonl", headers=ada)
    assert listed.content == b'{"name":"words"}\n{"name":"secret"}\n'
    again = client.get("/modules.jsonl", headers=ada | {"If-None-Match": listed.headers["etag"]})
    assert again.status_code == 304
    for headers in ({}, sent_with(token_for(server, "bob"))):
        answer = client.get("/modules.jsonl", headers=headers)
        assert answer.content == b'{"name":"words"}\n'
        assert "private" not in answer.headers["cache-control"]


def test_a_wrong_token_is_refused_for_what_is_not_public(
    client: Client, ada: dict[str, str]
) -> None:
    wrong = {"Authorization": "Bearer modpkg_stolen"}
    assert client.get(PATHS[0], headers=wrong).status_code == 401
    assert client.get("/registry.json", headers=wrong).status_code == 200


def test_a_browser_that_is_logged_in_reads_them_too(
    server: Server, client: Client, ada: dict[str, str]
) -> None:
    with server.database.begin() as db:
        account = find_account(db, "ada")
        assert account is not None
        value = begin_login(db, server.settings, account, ANYBODY)
    assert client.get(PATHS[0], headers={"Cookie": f"{server.cookie}={value}"}).status_code == 200
    for cookie in (f"{server.cookie}=guessed", f"a=b; {server.cookie}", f'{server.cookie}=\x01"'):
        assert client.get(PATHS[0], headers={"Cookie": cookie}).status_code == 404
    with server.database.begin() as db:
        account.disabled = account.created
        db.merge(account)
    assert client.get(PATHS[0], headers={"Cookie": f"{server.cookie}={value}"}).status_code == 404


def test_the_tree_itself_is_served_at_no_path(client: Client, ada: dict[str, str]) -> None:
    for path in ("/private/index/secret.jsonl", "/private/modules.jsonl", "/index/../private/x"):
        assert client.get(path, headers=ada).status_code == 404


def test_of_a_private_module_nothing_is_known(
    server: Server, client: Client, ada: dict[str, str]
) -> None:
    bob = sent_with(token_for(server, "bob"))
    for headers in ({}, bob):
        for method, path in (
            ("GET", "/api/1/modules/{}/owners"),
            ("PUT", "/api/1/modules/{}/owners/bob"),
            ("DELETE", "/api/1/modules/{}/owners/ada"),
            ("DELETE", "/api/1/modules/{}/owners/bob"),
            ("POST", "/api/1/modules/{}/owners/bob/accept"),
            ("POST", "/api/1/modules/{}/transfer"),
        ):
            body = {"role": "owner", "to": "bob"} if method in ("PUT", "POST") else None
            answers = [
                client.request(method, path.format(name), headers=headers, json=body)
                for name in ("secret", "absent")
            ]
            assert answers[0].status_code == answers[1].status_code, path
            assert answers[0].text.replace("secret", "absent") == answers[1].text
    assert client.get("/api/1/modules/secret/owners", headers=ada).status_code == 200


def test_an_administrator_sees_none_without_a_role(server: Server, ada: dict[str, str]) -> None:
    del ada
    token_for(server, "chief")
    with server.database.begin() as db:
        account = find_account(db, "chief")
        assert account is not None
        account.is_administrator = True
        chief = caller_for(account)
        assert not visible(db, chief, "secret")
        assert not may(db, chief, "manage", "secret")
        assert visible_private(db, chief) == []
        assert add_token(db, account.id, "x", ["read"], ["*"], None).info.actions == ["read"]
