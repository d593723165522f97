"""What commands that run at the same time remember of logs: nothing that nobody has compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.trust.log.audit import audit_log
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.memory import LogMemory, LogState, SeenLog
from modpkg.trust.log.witness import witnessed
from tests.raising import raises
from tests.trust.log.logged import LoggedRegistry
from tests.trust.log.test_checking import add, fork
from tests.trust.log.test_succession import hand_over
from tests.trust.signed_registry import key


class Overtaken(LogMemory):
    """The memory of a command, while another one runs after this one has read it."""

    def __init__(self, folder: Path, other: Callable[[LogMemory], object]) -> None:
        super().__init__("https://models.example", folder)
        self._folder = folder
        self._other: Callable[[LogMemory], object] | None = other

    def read(self) -> SeenLog | None:
        found = super().read()
        if self._other is not None:
            other, self._other = self._other, None
            other(memory(self._folder))
        return found


def memory(folder: Path) -> LogMemory:
    return LogMemory("https://models.example", folder)


@pytest.fixture
def one(tmp_path: Path) -> LoggedRegistry:
    return LoggedRegistry(tmp_path / "models").begin()


def forked(one: LoggedRegistry) -> list[tuple[LoggedRegistry, IndexLine]]:
    """Return two continuations of a log, each with a release that the other does not have."""
    hers, his = fork(one, "hers"), fork(one, "his")
    good = hers.publish("tools", "1.0")
    add(his, 4)
    (his.folder.parent / "projects" / "tools-1.0" / "modpkg.toml").unlink()
    return [(hers, good), (his, his.publish("tools", "1.1"))]


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_a_fork_is_found_that_two_commands_are_shown_at_once(
    one: LoggedRegistry, tmp_path: Path, first: int, is_known: bool
) -> None:
    words = one.publish("words")
    if is_known:
        check_logged(one.read(), [words], memory(tmp_path / "ada"))
    both = forked(one)
    (slow, line), (quick, other) = both[first], both[1 - first]
    states: list[LogState | None] = []
    ada = Overtaken(
        tmp_path / "ada",
        lambda memory: states.append(check_logged(quick.read(), [other], memory)),
    )
    with raises("M552", "M553"):
        check_logged(slow.read(), [line], ada)
    seen = ada.read()
    assert seen is not None
    assert [seen.state.text] == [state.text for state in states if state is not None]
    alone = check_logged(slow.read(), [line], memory(tmp_path / "bob"))
    assert alone is not None
    assert not seen.knows(alone)


def test_a_witness_does_not_sign_a_fork_that_another_command_was_not_shown(
    one: LoggedRegistry, tmp_path: Path
) -> None:
    one.publish("words")
    (hers, good), (his, _) = forked(one)
    ada = Overtaken(tmp_path / "ada", lambda memory: check_logged(hers.read(), [good], memory))
    with raises("M552"):
        witnessed(his.read(), ada, key(1), "w.example", 1_700_000_000)


def test_an_audit_does_not_add_a_fork(one: LoggedRegistry, tmp_path: Path) -> None:
    one.publish("words")
    (hers, good), (his, _) = forked(one)
    ada = Overtaken(tmp_path / "ada", lambda memory: check_logged(hers.read(), [good], memory))
    audit_log(his.read, ada, Progress())
    seen, state = ada.read(), check_logged(hers.read(), [good], memory(tmp_path / "bob"))
    assert seen is not None
    assert state is not None
    assert seen.state.text == state.text
    assert seen.earlier == []


def test_commands_at_once_agree_on_an_honest_log(one: LoggedRegistry, tmp_path: Path) -> None:
    words = one.publish("words")
    first = check_logged(one.read(), [words], memory(tmp_path / "ada"))
    add(one, 2)

    def other(memory: LogMemory) -> None:
        check_logged(one.read(), [words], memory)
        add(one, 3)

    ada = Overtaken(tmp_path / "ada", other)
    now = check_logged(one.read(), [words], ada)
    seen = ada.read()
    assert seen is not None
    assert first is not None
    assert now is not None
    assert seen.last.size == 6
    assert seen.knows(first)
    assert seen.knows(now)


def test_a_slower_command_does_not_put_the_key_before_back(
    one: LoggedRegistry, tmp_path: Path
) -> None:
    words = one.publish("words")
    check_logged(one.read(), [words], memory(tmp_path / "ada"))
    registry = one.read()
    _ = registry.info

    def other(memory: LogMemory) -> None:
        hand_over(one, one.key, key(1))
        check_logged(one.read(), [words], memory)

    ada = Overtaken(tmp_path / "ada", other)
    before = memory(tmp_path / "ada").read()
    assert before is not None
    seen = ada.read()
    assert ada.keep(before.state, seen)
    now = ada.read()
    assert now is not None
    assert now.log.key == str(key(1).public)
    assert now.knows(before.state)
