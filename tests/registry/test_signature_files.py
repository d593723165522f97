"""Questions to registries: those that wait for requests are asked together."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from modpkg.core.errors import NotFound
from modpkg.registry.signature_files import asked_at_once
from tests.raising import raises


def question(answer: int) -> Callable[[], tuple[int, bool]]:
    """Return a question whose answer says whether it was given in a thread."""
    here = threading.get_ident()
    return lambda: (answer, threading.get_ident() != here)


@pytest.mark.parametrize(
    ("is_remote", "expected"),
    [
        (False, [False, False, False, False]),
        (True, [True, True, True, True]),
        ([True, False, True, False], [True, False, True, False]),
        ([False, True, False, False], [False, False, False, False]),  # one has nothing to wait with
    ],
)
def test_only_what_waits_takes_a_thread(is_remote: bool | list[bool], expected: list[bool]) -> None:
    answers = asked_at_once([question(number) for number in range(4)], is_remote=is_remote)
    assert answers == [*enumerate(expected)]


def test_questions_wait_at_the_same_time() -> None:
    together = threading.Barrier(3)

    def wait() -> int:
        return together.wait(300)

    answers = asked_at_once([wait, lambda: 7, wait, wait], is_remote=[True, False, True, True])
    assert sorted(answers) == [0, 1, 2, 7]
    assert answers[1] == 7


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_error_of_a_question_is_raised(at: int) -> None:
    def fail() -> tuple[int, bool]:
        raise NotFound("M301", url="u", remedy="check the address")

    questions = [fail if number == at else question(number) for number in range(3)]
    with raises("M301", match="check the address"):
        asked_at_once(questions, is_remote=[True, False, True])
