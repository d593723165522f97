"""Publishers of one name, or of one version, at the same moment: one of them wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from litestar.testing import TestClient
from sqlalchemy import select

from modpkg.server.app import make_app
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Account, Event, Module, Role
from tests.changing import numbers, write
from tests.registry.places import shared
from tests.registry.places.postgresql import PostgreSQL
from tests.server.conftest import token_for
from tests.server.publisher import Publisher, built

RACERS = 4


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    """A server of PostgreSQL."""
    with shared.servers() as servers:
        yield servers.of(PostgreSQL)


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with either database."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_database()
    made = Server(ServerSettings(storage=str(tmp_path / "registry"), database=url, name="test"))
    made.prepare()
    yield made
    made.close()


def test_one_of_many_gets_a_name_and_one_of_its_maintainers_a_version(
    server: Server, tmp_path: Path
) -> None:
    with TestClient(make_app(server)) as client:
        people = [Publisher(client, token_for(server, f"person{i}")) for i in range(RACERS)]
        for version in ("1.0", "2.0"):
            sessions = []
            for i, person in enumerate(people):
                tensors = numbers("a", "b", seed=i)
                folder = write(tmp_path / f"{version}-{i}", tensors, version=version)
                tree, line = built(folder, server.place)
                sessions.append(person.declare(tree, line).json())
                person.upload(tree, sessions[-1])
            with ThreadPoolExecutor(RACERS) as pool:
                answers = [*pool.map(lambda p, s: p.commit(s["id"]), people, sessions)]
            statuses = Counter(answer.status_code for answer in answers)
            (won,) = (answer.json() for answer in answers if answer.status_code == 200)
            assert statuses == {200: 1, (403 if version == "1.0" else 409): RACERS - 1}
            assert server.registry().line("m", version).release == won["line"]["release"]
            codes = {answer.json()["code"] for answer in answers if answer.status_code != 200}
            assert codes == {"M432" if version == "1.0" else "M307"}
            with server.database.begin() as db:
                assert [*db.scalars(select(Module.name))] == ["m"]
                events = select(Event).where(Event.action == "publish", Event.version == version)
                assert len([*db.scalars(events)]) == 1
                has = {*db.scalars(select(Role.account_id))}
                db.add_all(
                    Role(module="m", account_id=account, role="maintainer")
                    for account in db.scalars(select(Account.id))
                    if account not in has
                )
