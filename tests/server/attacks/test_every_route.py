"""Requests to every route of the server's own OpenAPI document, by those who may not send them.

``MODPKG_EXAMPLES=500`` tries more of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation, BaseSchema

from modpkg.server.accounts import find_account
from modpkg.server.callers import caller_for
from modpkg.server.owners import add_module
from modpkg.server.settings import ServerLimits
from modpkg.server.state import Server
from tests.server.conftest import sent_with, token_for
from tests.server.live import live_server

EXAMPLES = int(os.environ.get("MODPKG_EXAMPLES", "2"))
"""Requests to each operation."""
SCHEMA = "/api/1/schema/openapi.json"
FOR_ANYBODY = {
    ("get", "/api/1/me"),
    ("post", "/api/1/register"),
    ("get", "/api/1/events"),
    ("get", "/api/1/oidc/audience"),
    ("get", "/healthz"),
    ("get", "/readyz"),
}
"""What nobody has to log in for, and may succeed."""
PUBLIC_OF_MODULES = {("get", "/api/1/modules/{name}/owners")}
"""What anybody may know of a public module."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers at an address."""
    limits = ServerLimits(requests_per_second=0)
    with live_server(tmp_path_factory.mktemp("any") / "registry", limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def schema(server: Server) -> BaseSchema:
    """What the server says of itself."""
    return schemathesis.openapi.from_url(f"{server.settings.url}{SCHEMA}")


def try_all(
    schema: BaseSchema,
    headers: dict[str, str],
) -> dict[tuple[str, str], set[int]]:
    """Send requests to every operation, and return the statuses of the answers.

    No answer is an error that nobody foresaw.
    """
    statuses: dict[tuple[str, str], set[int]] = {}
    for operation in (result.ok() for result in schema.get_all_operations()):
        key = (operation.method.lower(), operation.path)
        statuses[key] = try_one(operation, GenerationMode.POSITIVE, headers, EXAMPLES)
    return statuses


def try_one(
    operation: APIOperation,
    mode: GenerationMode,
    headers: dict[str, str],
    count: int,
    **values: Any,
) -> set[int]:
    """Send requests to an operation, and return the statuses of the answers."""
    seen = set()

    @seed(19)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(case=operation.as_strategy(generation_mode=mode, **values))
    def send(case: Case) -> None:
        answer = case.call(headers=headers)
        case.validate_response(answer, checks=[not_a_server_error])
        seen.add(answer.status_code)

    with suppress(Unsatisfiable):  # it takes nothing
        send()
    return seen


def test_nobody_unknown_changes_or_reads_what_is_for_others(schema: BaseSchema) -> None:
    for key, statuses in try_all(schema, {}).items():
        if key not in FOR_ANYBODY:
            assert {status for status in statuses if status < 300} == set(), key


def test_somebody_without_a_role_does_nothing_to_a_module(
    schema: BaseSchema, server: Server
) -> None:
    """Whatever the route, and whatever bob's token is for: the module is ada's."""
    token_for(server, "ada")
    with server.database.begin() as db:
        account = find_account(db, "ada")
        assert account is not None
        add_module(db, caller_for(account), "words")
    bob = sent_with(token_for(server, "bob"))
    values = {"name": "words", "account": "ada", "number": 1}
    tried = 0
    for operation in (result.ok() for result in schema.get_all_operations()):
        key = (operation.method.lower(), operation.path)
        if "/modules/{name}" not in operation.path or key in PUBLIC_OF_MODULES:
            continue
        path = {name: values[name] for name in re.findall(r"\{(\w+)\}", operation.path)}
        statuses = try_one(operation, GenerationMode.POSITIVE, bob, 3, path_parameters=path)
        assert {status for status in statuses if status < 400} == set(), key
        tried += 1
    assert tried > 10


def test_a_token_of_another_form_is_refused_everywhere(schema: BaseSchema) -> None:
    for key, statuses in try_all(schema, sent_with("modpkg_" + "x" * 43)).items():
        if key not in FOR_ANYBODY or key[1] == "/api/1/me":
            assert {status for status in statuses if status < 400} == set(), key
