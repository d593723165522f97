"""Errors as answers: what they say, and what not."""

from __future__ import annotations

import pytest

from modpkg.core.errors import RegistryError, RegistryUnreachable
from modpkg.server.answers import sentence_for_callers
from modpkg.server.state import Server


@pytest.mark.parametrize("inner", ["", "/private"])
def test_an_error_does_not_say_where_the_storage_lies(server: Server, inner: str) -> None:
    root = f"{server.place.url}{inner}"
    reason = f"{root}/index/m.jsonl has lines that cannot be read, and {root} is full"
    for error in (
        RegistryUnreachable("M302", url=root, reason=reason),
        RegistryError("M873", url="x", reason=reason, remedy=f"run 'modpkg registry gc {root}'"),
    ):
        sentence = sentence_for_callers(server, error)
        assert server.place.url not in sentence
        assert f"{server.settings.url}/index/m.jsonl" in sentence
        assert sentence.endswith(str(error)[-1])


def test_an_error_without_a_place_is_as_it_is(server: Server) -> None:
    error = RegistryUnreachable("M302", url="https://other.example", reason="it is away")
    assert sentence_for_callers(server, error) == str(error)
    beside = RegistryUnreachable("M302", url=f"{server.place.url}-two", reason="it is away")
    assert sentence_for_callers(server, beside) == str(beside)
