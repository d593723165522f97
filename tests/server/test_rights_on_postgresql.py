"""People, rights and events in PostgreSQL: what is written otherwise there than in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import DatabaseError

from modpkg.core.errors import ModpkgError
from modpkg.registry.api_records import Registration
from modpkg.server import guessing
from modpkg.server.accounts import find_account, proved_account, register
from modpkg.server.callers import caller_for
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.issuers import VerifiedToken
from modpkg.server.owners import accept_module, add_module, give_role, offer_module, take_role
from modpkg.server.role_invitations import accept_role
from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from modpkg.server.tables import Event, FailedAttempts, Role, ServerTable
from modpkg.server.trusted_publishers import use_once
from tests.raising import raises
from tests.registry.places import shared
from tests.registry.places.postgresql import PostgreSQL
from tests.server.conftest import token_for

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with shared.servers() as servers:
        database = servers.of(PostgreSQL).new_database()
        storage = tmp_path_factory.mktemp("postgresql") / "registry"
        made = Server(ServerSettings(storage=str(storage), name="test", database=database))
        made.prepare()
        for name in ("ada", "bob"):
            token_for(made, name)
        yield made
        made.close()


def test_migrations_make_the_tables(server: Server) -> None:
    with server.database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, ServerTable.metadata) == []


def test_attempts_are_counted_by_all_at_once(server: Server) -> None:
    register(server.database, server.settings, Registration(name="cleo", password=PASSWORD), "a")

    def attempt(_: int) -> str:
        try:
            guessing.count_attempt(server.database, "login", "cleo", "192.0.2.7")
        except ModpkgError as error:
            return error.code
        return "counted"

    with ThreadPoolExecutor(8) as pool:
        seen = [*pool.map(attempt, range(guessing.BY_NAME_AND_ADDRESS + 5))]
    assert (seen.count("counted"), seen.count("M434")) == (guessing.BY_NAME_AND_ADDRESS, 5)
    with server.database.begin() as db:
        db.execute(update(FailedAttempts).values(since=now() - guessing.WINDOW))
    assert proved_account(server.database, "cleo", PASSWORD, "192.0.2.7").name == "cleo"


def test_no_event_is_changed_or_taken_away(server: Server) -> None:
    with server.database.begin() as db:
        log_event(db, "ada", "account.password")
    for statement in (update(Event).values(actor="eve"), delete(Event), text("TRUNCATE events")):
        with pytest.raises(DatabaseError, match="only added"), server.database.begin() as db:
            db.execute(statement)


def test_a_token_is_taken_once_by_all_at_once(server: Server) -> None:
    token = VerifiedToken("https://ci.example", {}, "jti 1", 4e9)

    def attempt(_: int) -> str:
        try:
            with server.database.begin() as db:
                use_once(db, token)
        except ModpkgError as error:
            return error.code
        return "taken"

    with ThreadPoolExecutor(8) as pool:
        seen = [*pool.map(attempt, range(8))]
    assert (seen.count("taken"), seen.count("M442")) == (1, 7)


def test_two_owners_who_remove_each_other_leave_one(server: Server) -> None:
    with server.database.begin() as db:
        found = [find_account(db, name) for name in ("ada", "bob")]
        ada, bob = (caller_for(one) for one in found if one is not None)
    for number in range(5):
        name = f"module-{number}"
        with server.database.begin() as db:
            add_module(db, ada, name)
            give_role(db, ada, name, "bob", "owner")
            accept_role(db, bob, name, "bob")

        def leave(pair: tuple[str, object], name: str = name) -> str:
            try:
                with server.database.begin() as db:
                    take_role(db, pair[1], name, pair[0])  # type: ignore[arg-type]
            except ModpkgError as error:
                return error.code
            return "left"

        with ThreadPoolExecutor(2) as pool:
            seen = [*pool.map(leave, [("ada", ada), ("bob", bob)])]
        assert sorted(seen) == ["M440", "left"]


def test_a_module_passes_and_a_name_is_taken_once(server: Server) -> None:
    with server.database.begin() as db:
        found = [find_account(db, name) for name in ("ada", "bob")]
        ada, bob = (caller_for(one) for one in found if one is not None)
        add_module(db, ada, "words")
        with raises("M449"):
            add_module(db, bob, "words")
        offer_module(db, ada, "words", "bob")
        offer_module(db, ada, "words", "bob")
        accept_module(db, bob, "words")
    with server.database.begin() as db:
        roles = db.execute(select(Role.account_id, Role.role).where(Role.module == "words"))
        assert [tuple(row) for row in roles] == [(bob.account_id, "owner")]
