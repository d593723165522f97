"""The process that runs tests: stopped at its time limit, whatever it hangs in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.community.evaluate.project_tests import run_project_tests
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.core.errors import ModpkgError, TestAborted, TestError
from modpkg.core.progress import Progress
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.store.store import Store
from tests.community.tiny import publish_encoder_and_head, table, write_head
from tests.raising import raises

PACKAGE = """
import os, re
import numpy as np
from modpkg.community.evaluate.cases import Column
from modpkg.community.evaluate.metrics import Metric

def stuck(cases, outputs):
    open("stuck", "w").close()
    re.match("(a+)+$", "a" * 60 + "b")  # in C, with the interpreter's lock held: nothing gets in

def crash(cases, outputs):
    os.kill(os.getpid(), 9)

def loud(cases, outputs):
    print("{}" * 100_000, flush=True)
    os.write(1, b"not an answer\\n" * 1000)
    return np.ones((len(cases), 1))

def wrong(cases, outputs):
    return np.full((len(cases), 1), np.nan)

def failing(cases, outputs):
    raise RuntimeError("no such thing")

def metric(name, rows):
    column = {"text": Column("text")}
    return Metric(name=name, output="labels", columns=column, rows=rows)

STUCK, CRASH, LOUD = metric("stuck", stuck), metric("crash", crash), metric("loud", loud)
WRONG, FAILING, NONE = metric("wrong", wrong), metric("failing", failing), 3
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as pip leaves one, with metrics that misbehave."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "trouble.py").write_text(PACKAGE)
    info = folder / "trouble-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1.0\n")
    names = ("stuck", "crash", "loud", "wrong", "failing", "none")
    points = "".join(f"{name} = trouble:{name.upper()}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[modpkg.metrics]\n{points}")
    return folder


@pytest.fixture
def trouble(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package))


@pytest.fixture
def runner(home: Path, tmp_path: Path) -> Iterator[TestRunner]:
    publish_encoder_and_head(home / "registry", tmp_path / "projects")
    with TestRunner(Store(home / "store"), Progress(), limit=600.0) as runner:
        yield runner


def run(folder: Path, runner: TestRunner, home: Path, metric: str) -> float:
    more = table(cases="c.jsonl", metric=metric, more="")
    write_head(folder, "own", more=more, files={"c.jsonl": b'{"text": "the cat"}\n'})
    store = Store(home / "store")
    [done] = run_project_tests(Workspace(Project(folder / "modpkg.toml"), store=store), runner)
    return done.report.results[0].value


@pytest.mark.usefixtures("trouble", "forked_python")
def test_a_test_that_never_ends_is_stopped_and_the_next_one_runs(
    runner: TestRunner, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    for limit in (2.0, 20.0, 200.0):  # on a slow machine the model takes longer to load
        monkeypatch.setattr(runner, "_limit", limit)
        with raises("M717", match="'moods' of own") as caught:
            run(own, runner, home, "stuck")
        assert caught.value.values["limit"] == limit
        if Path("stuck").exists():
            break
    assert Path("stuck").exists()
    monkeypatch.setattr(runner, "_limit", 600.0)
    with raises("M718", match=r"crashed on own \(signal 9\)"):
        run(own, runner, home, "crash")
    refusals: list[tuple[str, type[ModpkgError], str]] = [
        ("wrong", TestError, "did not return finite numbers"),
        ("failing", TestAborted, "RuntimeError: no such thing"),
        ("none", TestError, "entry point in trouble 1.0 is not a Metric"),
        ("other", TestError, "there are accuracy"),
    ]
    for metric, kind, sentence in refusals:
        with pytest.raises(kind, match=sentence):
            run(own, runner, home, metric)
    assert run(own, runner, home, "loud") == 1.0  # what it prints is no answer
