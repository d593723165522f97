"""Every hostile input ends soon, in bounded memory, with a code and a sentence, or works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests import forkserver
from tests.command import modpkg
from tests.hostile.inputs import INPUTS, LONG, TESTED
from tests.hostile.world import World

pytestmark = pytest.mark.skipif(not forkserver.AVAILABLE, reason="the inputs run in forks")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world of which each input gets a copy."""
    made = World(tmp_path_factory.mktemp("hostile") / "world")
    made.build()
    made.keep("new")
    environment = {"MODPKG_HOME": str(made.home), "MODPKG_REGISTRY": str(made.registry)}
    modpkg("install", "talker", cwd=made.project, **environment)
    made.keep("installed")
    return made


@pytest.mark.parametrize("kind", TESTED)
def test_it_ends_soon_with_a_sentence(kind: str, world: World, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = ("-m", "tests.hostile.runner", str(world.root), kind, str(report))
    done = forkserver.run(*command, cwd=forkserver.ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(report.read_text())
    problems = [f"{o['name']}: {o['problem']}" for o in outcomes if o["problem"]]
    assert not problems, "\n".join(problems)


def test_there_are_enough_of_each_class() -> None:
    counts = Counter(given.kind for given in INPUTS if not given.heavy)
    assert counts.total() >= 300
    assert min(counts.values()) >= 8
    names = [(given.kind, given.name) for given in INPUTS]
    assert len(set(names)) == len(names)
    assert {*names} >= LONG


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace watches the system calls")
def test_a_whole_command_opens_no_socket(world: World) -> None:
    """The kernel's filter of the other tests is the one that strace confirms here."""
    world.restore("new")
    world.forge("evil", line={"yanked": "\x1b[2J"})
    trace = world.root / "trace"
    watch = ["strace", "-f", "--seccomp-bpf", "-e", "trace=socket,connect", "-o", str(trace)]
    environment = {"MODPKG_HOME": str(world.home), "MODPKG_REGISTRY": str(world.registry)}
    done = subprocess.run(
        [*watch, sys.executable, "-m", "modpkg", "install", "evil"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=world.project,
        env=os.environ | environment | {"PYTHONPATH": str(forkserver.ROOT)},
        timeout=300,
    )
    assert done.returncode == 1
    assert "error[M" in done.stderr
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []
