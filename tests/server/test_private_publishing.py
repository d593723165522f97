"""Publishing private modules, and what must not be learned or taken by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient
from sqlalchemy import delete, select

from modpkg.core.digests import blob_path
from modpkg.registry.place import registry_at
from modpkg.server.file_answers import ServerApp
from modpkg.server.rebuilding import rebuild
from modpkg.server.state import Server
from modpkg.server.tables import Event, Module, PrivateBlob, Role
from tests.changing import numbers, write
from tests.modules import write_module
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

TENSORS = numbers("a", "b")


@pytest.fixture
def ada(server: Server, client: TestClient[ServerApp]) -> Publisher:
    return Publisher(client, token_for(server, "ada"))


@pytest.fixture
def eve(server: Server, client: TestClient[ServerApp]) -> Publisher:
    return Publisher(client, token_for(server, "eve"))


def published(who: Publisher, made: Any, **options: Any) -> dict[str, Any]:
    tree, line = made
    session = who.declare(tree, line, **options).json()
    who.upload(tree, session)
    answer = who.commit(session["id"])
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def pack_of(server: Server) -> str:
    assert server.private is not None
    registry = registry_at(server.private)
    (pack,) = registry.record(registry.index("m")[0]).packs
    return pack


def test_a_private_module_is_in_its_own_tree_alone(
    server: Server, ada: Publisher, eve: Publisher, tmp_path: Path
) -> None:
    made = built(write(tmp_path / "1", TENSORS), server.place)
    published(ada, made, private=True)
    assert server.registry().names() == []
    assert server.private is not None
    assert registry_at(server.private).names() == ["m"]
    pack = pack_of(server)
    assert server.place.size(blob_path(pack)) is None  # type: ignore[arg-type]
    for path in ("index/m.jsonl", blob_path(pack), "modules.jsonl"):  # type: ignore[arg-type]
        assert ada.client.get(f"/{path}", headers=ada.headers).status_code == 200
        answer = ada.client.get(f"/{path}", headers=eve.headers)
        assert answer.status_code == 404 or b'"m"' not in answer.content
    with server.database.begin() as db:
        assert not any(db.scalars(select(Event.is_public)))
    # the second version goes there too, without being asked to
    again = write(tmp_path / "2", numbers("a", "b", "c"), version="1.1")
    published(ada, built(again, server.private))
    assert len(registry_at(server.private).index("m")) == 2
    assert server.registry().names() == []


def test_the_name_of_a_private_module_is_taken_without_a_word_of_why(
    server: Server, ada: Publisher, eve: Publisher, tmp_path: Path
) -> None:
    made = built(write(tmp_path / "1", TENSORS), server.place)
    published(ada, made, private=True)
    for options in ({}, {"private": True}, {"candidate": True}):
        assert eve.declare(*made, **options).json()["code"] in ("M439", "M304")


def test_a_public_module_does_not_become_private(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place))
    made = built(write(tmp_path / "2", numbers("a"), version="2.0"), server.place)
    assert ada.declare(*made, private=True).json()["code"] == "M449"


def test_to_know_a_private_digest_is_not_to_have_it(
    server: Server, ada: Publisher, eve: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place), private=True)
    pack = pack_of(server)
    tree, line = built(write(tmp_path / "2", TENSORS, name="mine"), server.place)
    session = eve.declare(tree, line, private=True).json()
    assert pack in {blob["digest"] for blob in session["missing"]}
    # Without declaring the pack, which the record names all the same:
    eve.request("DELETE", f"sessions/{session['id']}")
    tree.path(pack).unlink()  # type: ignore[arg-type]
    session = eve.declare(tree, line, private=True).json()
    eve.upload(tree, session)
    answer = eve.commit(session["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "M456")
    assert eve.client.get(f"/{blob_path(pack)}", headers=eve.headers).status_code == 404  # type: ignore[arg-type]


def test_what_the_publisher_can_read_is_not_uploaded_again(
    server: Server, ada: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place))
    (pack,) = server.registry().record(server.registry().index("m")[0]).packs
    for name in ("mine", "also-mine"):
        made = built(write(tmp_path / name, TENSORS, name=name), server.place)
        session = ada.declare(*made, private=True).json()
        assert pack not in {blob["digest"] for blob in session["missing"]}
        ada.upload(made[0], session)
        assert ada.commit(session["id"]).status_code == 200
    assert server.private is not None
    assert server.private.size(blob_path(pack)) is not None  # type: ignore[arg-type]


def test_a_public_module_needs_no_private_one(
    server: Server, ada: Publisher, eve: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place), private=True)
    assert server.private is not None
    needy = write_module(tmp_path / "2", "needy", requires={"m": ">=1"})
    made = built(needy, server.private)
    assert (ada.declare(*made).status_code, ada.declare(*made).json()["code"]) == (409, "M448")
    assert ada.declare(*made, private=True).status_code == 200
    assert eve.declare(*made).status_code == 200  # to her, it is a name that nobody has


def test_after_the_loss_of_the_database_private_modules_are_private(
    server: Server, ada: Publisher, eve: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place), private=True)
    with server.database.begin() as db:
        for table in (Role, PrivateBlob, Module):
            db.execute(delete(table))
    assert ada.client.get("/index/m.jsonl", headers=ada.headers).status_code == 404
    assert rebuild(server).modules == ["m"]
    with server.database.begin() as db:
        assert db.get_one(Module, "m").is_private
        db.add(Role(module="m", account_id=1, role="owner"))
    where = f"/{blob_path(pack_of(server))}"  # type: ignore[arg-type]
    assert ada.client.get(where, headers=ada.headers).status_code == 200
    assert ada.client.get(where, headers=eve.headers).status_code == 404


def test_a_token_that_only_publishes_publishes_a_private_module_and_reads_nothing_of_it(
    server: Server, client: TestClient[ServerApp], ada: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place), private=True)
    robot = Publisher(client, token_for(server, "ada", "publish"))
    again = write(tmp_path / "2", numbers("a", "b", "c"), version="1.1")
    published(robot, built(again, server.place))
    assert server.private is not None
    assert len(registry_at(server.private).index("m")) == 2
    assert client.get("/index/m.jsonl", headers=robot.headers).status_code == 404
    assert client.get("/api/1/modules/m/owners", headers=robot.headers).status_code == 404
    assert (
        robot.request("POST", "modules/m/yank", json={"version": "1.0", "reason": "x"}).status_code
        == 404
    )


def test_a_token_that_only_yanks_yanks_a_private_module(
    server: Server, client: TestClient[ServerApp], ada: Publisher, tmp_path: Path
) -> None:
    published(ada, built(write(tmp_path / "1", TENSORS), server.place), private=True)
    robot = Publisher(client, token_for(server, "ada", "yank"))
    body = {"version": "1.0", "reason": "wrong"}
    assert robot.request("POST", "modules/m/yank", json=body).status_code == 200
    assert robot.request("POST", "modules/m/archive", json={"reason": "x"}).status_code == 404
