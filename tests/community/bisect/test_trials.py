"""Trials: what is reused, for how long, and the verdicts of exit statuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

import pytest

from modpkg.community.bisect.judges import CommandJudge
from modpkg.community.bisect.lock_mixes import Mix, Unresolvable
from modpkg.community.bisect.minimize import Verdict
from modpkg.community.bisect.trials import Command, MixRuns, Trials
from modpkg.core.errors import ComposeError, NotFound
from modpkg.core.home import trials_folder
from modpkg.core.progress import Progress
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project, find_project
from modpkg.environment.workspace import Workspace
from modpkg.resolve.lock import Lock
from tests.raising import raises


class Scripted:
    """A judge with scripted statuses."""

    def __init__(self, *statuses: int | Exception) -> None:
        self.left = list(statuses)
        self.cleared = 0

    def prepare(self, mix: Mix) -> None:
        if self.left and isinstance(self.left[0], Exception):
            raise self.left.pop(0)  # type: ignore[misc]

    def judge(self, output: IO[bytes]) -> int:
        output.write(b"said\n")
        status = self.left.pop(0)
        assert isinstance(status, int)
        return status

    def clear(self) -> None:
        self.cleared += 1


def command(folder: Path, repeat: int = 1) -> Command:
    return Command(arguments=["x"], shown="x", folder=str(folder), repeat=repeat)


def mix(name: str) -> Mix:
    return Mix(name, Lock(requirements=[]))


def trials(judge: Scripted, what: Command) -> Trials:
    return Trials(what, judge, Progress(), lambda line: None)


@pytest.mark.parametrize(
    ("exits", "repeat", "verdict"),
    [
        ([], 1, None),
        ([0], 1, Verdict.GOOD),
        ([0], 2, None),
        ([0, 0], 2, Verdict.GOOD),
        ([0, 1], 3, Verdict.BAD),
        ([0, 125], 3, Verdict.UNKNOWN),
        ([125, 1], 2, Verdict.BAD),
    ],
)
def test_one_bad_run_is_bad_and_one_inconclusive_run_unknown(
    exits: list[int], repeat: int, verdict: Verdict | None
) -> None:
    assert MixRuns(mix=mix("a").digest, label="a", exits=exits).verdict(repeat) is verdict


VERDICTS = {0: "good", 1: "bad", 124: "bad", 125: "unknown", 126: "bad", 127: "bad"}


@pytest.mark.parametrize("status", VERDICTS)
def test_exit_statuses(tmp_path: Path, status: int) -> None:
    one = trials(Scripted(status), command(tmp_path))
    with one.held():
        outcome = one.result(mix("a"), "a")
        assert one.result(mix("a"), "a") == outcome  # without a run
    assert outcome.verdict.value == VERDICTS[status]
    assert outcome.log is not None
    assert outcome.log.read_bytes() == b"said\n"


@pytest.mark.parametrize("status", [128, 130, 255, -9])
def test_an_error_status_ends_the_search_and_is_not_remembered(tmp_path: Path, status: int) -> None:
    one = trials(Scripted(status, 0), command(tmp_path))
    with one.held():
        with raises("M794"):
            one.result(mix("a"), "a")
        assert one.result(mix("a"), "a").verdict is Verdict.GOOD


def test_repeated_runs(tmp_path: Path) -> None:
    one = trials(Scripted(0, 0, 3, 0, 125), command(tmp_path, repeat=3))
    with one.held():
        outcome = one.result(mix("a"), "a")
        assert outcome.verdict is Verdict.BAD
        assert outcome.reason == "exits with status 3 in 1 of 3 runs"
        assert one.result(mix("b"), "b").verdict is Verdict.UNKNOWN


def test_a_mix_that_cannot_be_composed_is_unknown_and_other_errors_are_raised(
    tmp_path: Path,
) -> None:
    failing = ComposeError("M601", model="m", reason="no")
    elsewhere = NotFound("M304", name="m", registry="r", hint="")
    one = trials(Scripted(failing, elsewhere), command(tmp_path))
    with one.held():
        outcome = one.result(mix("a"), "a")
        assert (outcome.verdict, outcome.ran) == (Verdict.UNKNOWN, False)
        with raises("M304"):
            one.result(mix("b"), "b")
        assert one.result(Unresolvable("why"), "c").reason == "why"
        assert one.made == 0


def test_a_finished_search_is_reused_while_its_folder_is_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    what = command(folder)
    one = trials(Scripted(0), what)
    with one.held():
        one.result(mix("a"), "a")
        one.finish()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("a hidden folder's files do not count")
    two = trials(Scripted(), what)
    with two.held():
        assert two.result(mix("a"), "a").verdict is Verdict.GOOD
        assert (two.made, two.remembered) == (0, 1)
        two.finish()
    (folder / "test.py").write_text("changed")
    three = trials(Scripted(1), what)
    with three.held():
        assert three.result(mix("a"), "a").verdict is Verdict.BAD


def test_the_last_finished_searches_are_kept_and_every_unfinished_one(tmp_path: Path) -> None:
    unfinished = trials(Scripted(0), command(tmp_path, repeat=99))
    with unfinished.held():
        pass
    for number in range(1, 26):
        one = trials(Scripted(), command(tmp_path, repeat=number))
        with one.held():
            one.finish()
        os.utime(one.root / "state.json", (number, number))
    left = {path.name for path in trials_folder().iterdir()}
    assert unfinished.root.name in left
    assert len(left) == 21


def test_a_missing_command_and_one_that_is_not_executable(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    for argument, status in (("no-such-thing", 127), (str(plain), 126)):
        what = Command(arguments=[argument], shown="x", folder=str(tmp_path))
        place = Project(tmp_path / "p" / "modpkg.toml")
        judge = CommandJudge(what, place, InstallRequest(), Workspace())
        with open(tmp_path / "log", "wb") as output:
            assert judge.judge(output) == status
        assert argument.encode() in (tmp_path / "log").read_bytes()


def test_the_variable_names_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    monkeypatch.setenv("MODPKG_PROJECT", str(folder))
    with raises("M111"):
        find_project()
    (folder / "modpkg.toml").write_text('[app]\nname = "p"\n')
    assert find_project() == find_project(user=True) == Project(folder / "modpkg.toml")
    assert find_project(Path(sys.prefix)).is_user
