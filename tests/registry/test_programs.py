"""The servers of other people that tests of modpkg's own server need: they run and answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from modpkg.registry.reader import Registry
from tests.modules import publish_versions
from tests.registry.places import shared
from tests.registry.places.nginx import Nginx
from tests.registry.places.postgresql import PostgreSQL
from tests.registry.places.shared import SharedServers


@pytest.fixture(scope="module")
def servers() -> Iterator[SharedServers]:
    with shared.servers() as servers:
        yield servers


def test_databases_are_of_one_test_each(servers: SharedServers) -> None:
    server = servers.of(PostgreSQL)
    addresses = [server.new_database() for _ in range(2)]
    for address in addresses:
        with psycopg.connect(address.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE people (name TEXT)")
            (count,) = connection.execute("SELECT count(*) FROM people").fetchone() or (None,)
            assert count == 0


def test_nginx_serves_folders(servers: SharedServers, tmp_path: Path) -> None:
    publish_versions(tmp_path / "models", "m", ["1.0"])
    registry = Registry(servers.of(Nginx).site(tmp_path / "models"))
    assert [line.version for line in registry.index("m")] == ["1.0"]
