"""Who may do what with a module."""

from __future__ import annotations

from modpkg.server.callers import ANYBODY, Caller
from modpkg.server.clock import now
from modpkg.server.rights import check_right
from modpkg.server.state import Server
from modpkg.server.tables import Account, Module, Role
from tests.raising import raises


def test_only_those_who_maintain_a_module_publish_it(server: Server) -> None:
    with server.database.begin() as db:
        people = {name: Account(name=name, created=now()) for name in ("ada", "bob")}
        db.add_all([*people.values(), Module(name="words", created=now())])
        db.flush()
        db.add(Role(module="words", account_id=people["ada"].id, role="maintainer"))
        ada, bob = (
            Caller(
                account_id=people[name].id,
                name=name,
                actions=frozenset(["publish"]),
                patterns=("wor*",),
            )
            for name in ("ada", "bob")
        )
        db.flush()
        check_right(db, ada, "publish", "words")
        with raises("M431", match="publish words"):
            check_right(db, ANYBODY, "publish", "words")
        with raises("M432", match="bob"):
            check_right(db, bob, "publish", "words")
        with raises("M432", match="yank words"):
            check_right(db, ada, "yank", "words")
