"""Requests of all kinds that the API's own description allows, and some that it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy import update

from modpkg.server.accounts import make_administrator
from modpkg.server.settings import ServerLimits
from modpkg.server.state import Server
from modpkg.server.tables import Account, ApiToken
from tests.changing import write
from tests.server.publisher import built
from tests.server.test_candidates import TENSORS, World

EXAMPLES = 10
"""Requests of each kind."""
KNOWN = {
    "name": ("words", "secret"),
    "module": ("words", "secret"),
    "version": ("1.0", "1.1"),
    "number": (1,),
    "person": ("ada", "eve"),
    "account": ("ada", "acme"),
    "to": ("ada", "acme"),
}
"""By the name of a parameter or a field, what the registry has."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry with a module and its candidate, a private one, and an organisation.

    Mary owns them, and is an administrator.
    """
    made = World(tmp_path_factory.mktemp("openapi"), limits=ServerLimits(requests_per_second=0))
    mary = made.people["mary"]
    assert made.submit("1.1") == 1
    mary.publish(
        *built(write(made.root / "secret", TENSORS, "secret"), made.server.place), private=True
    )
    assert mary.request("POST", "organisations", json={"name": "acme"}).status_code == 201
    for person in ("ada", "eve"):
        path = f"organisations/acme/members/{person}"
        assert mary.request("PUT", path, json={}).status_code == 200
    assert made.people["ada"].request("POST", "organisations/acme/accept").status_code == 204
    make_administrator(made.server.database, "mary")
    with made.client:
        yield made
    made.server.close()


def restore(server: Server) -> None:
    """Make tokens valid and accounts open again, which some requests end."""
    with server.database.begin() as db:
        db.execute(update(ApiToken).values(revoked=None, expires=None))
        db.execute(update(Account).values(disabled=None))


def operations(schema: Any) -> list[Any]:
    """Return all operations; those last after which there is less to ask about."""
    found = [found.ok() for found in schema.get_all_operations()]
    return sorted(found, key=lambda one: (one.path.endswith("/remove"), one.method == "DELETE"))


def about_what_is_there(case: Any, turn: int) -> None:
    """Let a request be about something that the registry has, where it names anything."""
    for part in (case.path_parameters, case.query, case.body):
        for name in part.keys() & KNOWN.keys() if isinstance(part, dict) else ():
            values = KNOWN[name]
            if name == "name" and "/organisations/" in case.path:
                values = ("acme",)
            part[name] = values[turn % len(values)]


ABOUT_NOBODY = """
PUT accounts/nobody {}
PUT accounts/nobody {"disabled": false}
PUT accounts/nobody {"password": "a long enough password 7"}
PUT organisations/nobody/members/ada {}
PUT organisations/acme/members/nobody {}
PUT modules/nothing/owners/ada {"role": "owner"}
PUT modules/words/owners/nobody {"role": "owner"}
DELETE organisations/acme/members/nobody
DELETE organisations/nobody/members/ada
DELETE modules/words/owners/nobody
DELETE modules/nothing/owners/ada
DELETE modules/nothing/transfer
DELETE modules/words/transfer
DELETE modules/nothing/trusted-publishers/1
DELETE modules/words/trusted-publishers/99
DELETE tokens/999999
DELETE sessions/none
POST organisations/nobody/accept
POST modules/nothing/owners/ada/accept
POST modules/words/owners/nobody/accept
POST modules/nothing/transfer {"to": "ada"}
POST modules/words/transfer {"to": "nobody"}
POST modules/nothing/transfer/accept
POST modules/nothing/archive {"reason": "no"}
POST modules/nothing/yank {"version": "1.0", "reason": "no"}
POST modules/words/yank {"version": "9.0", "reason": "no"}
POST modules/nothing/deprecate {"reason": "no"}
POST modules/words/deprecate {"version": "9.0", "reason": "no"}
POST modules/nothing/remove {"reason": "no"}
POST modules/words/remove {"version": "9.0", "reason": "no"}
POST modules/nothing/candidates/1/comments {"text": "no"}
POST modules/words/candidates/99/withdraw {"reason": "no"}
"""


def test_what_is_about_a_name_that_nobody_has_is_not_found(world: World) -> None:
    restore(world.server)
    for line in ABOUT_NOBODY.strip().splitlines():
        method, path, *body = line.split(maxsplit=2)
        answer = world.people["mary"].request(method, path, content="".join(body))
        assert answer.status_code == 404, (line, answer.text)


def test_no_request_ends_in_an_error_of_the_server(world: World) -> None:
    client, headers = world.client, world.people["mary"].headers
    document = client.get("/api/1/schema/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    seen: Counter[str] = Counter()
    for operation in operations(schema):

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            turn = seen.total()
            if turn % 3:
                about_what_is_there(case, turn)
            restore(world.server)
            sent = case.as_transport_kwargs(base_url="http://testserver")
            sent.pop("cookies", None)
            sent["headers"] = {**sent["headers"], **headers}
            answer = client.request(**sent)
            assert answer.status_code < 500, (case.method, case.formatted_path, answer.text)
            if answer.status_code >= 400 and case.method != "HEAD" and "/api/" in case.path:
                assert answer.json().keys() == {"code", "message"}
            label = f"{case.method} {case.path}" if answer.status_code < 300 else "refused"
            seen[label] += 1

        ask()
    assert seen.total() > 100
    assert len(seen) > 25, seen  # operations that did what they are for
