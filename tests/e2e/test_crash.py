"""Killing install anywhere: the environment loads, and the next install repairs it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from modpkg.environment.generations import Environment
from modpkg.environment.project import find_project
from modpkg.runtime.load import load_model
from tests import forkserver, tiny
from tests.command import killed_after, modpkg, modpkg_json

MOMENTS = 50
SEED = 20261123

CHECKPOINTS = ["fetched", "composed", "staged", "generation", "locked", "manifest", "switched"]

_KILLED_AT = """
import os, signal, sys
import modpkg.environment.install as installing
from modpkg.cli import main

apply_install = installing.apply_install

def killed(*arguments, **options):
    def checkpoint(point):
        if point == {point!r}:
            os.kill(os.getpid(), signal.SIGKILL)
    return apply_install(*arguments, checkpoint=checkpoint, **options)

installing.apply_install = killed
main(["install", {requirement!r}])
"""


_KILLED_IN = """
import os, signal, sys
from modpkg.cli import main
from modpkg.store.packs import PackFolder
from modpkg.store.tensors import TensorIndex
from modpkg.transfer.staging import StagedPack

owner, name, left = {owner}, {name!r}, {calls}
wrapped = getattr(owner, name)

def counted(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped(*arguments, **options)

setattr(owner, name, counted)
main(["install", {requirement!r}])
"""


def killed_in(owner: str, name: str, calls: int, requirement: str) -> None:
    """Run an install that is killed when a method is called, after so many calls."""
    code = _KILLED_IN.format(owner=owner, name=name, calls=calls, requirement=requirement)
    done = forkserver.run("-c", code)
    assert done.returncode == -signal.SIGKILL, done.stderr


def installed_version() -> str:
    """Load the installed model as a person would, and return its version."""
    environment = Environment(find_project().environment)
    generation = environment.current()
    assert generation is not None
    assert environment.is_complete(generation)
    model = load_model(environment.model_folder("talker"), environment.packs)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1000
    return generation.models["talker"]


def leftovers() -> list[str]:
    """Return unfinished files, which a later install has to have cleaned up or may leave unread."""
    root = Environment(find_project().environment).root
    return [str(path) for path in (root / "generations").iterdir() if not path.name.isdigit()]


@pytest.fixture(autouse=True)
def talker(home: Path, tmp_path: Path) -> None:
    tiny.publish_talker(home / "registry", tmp_path / "projects")


def test_fifty_random_moments(home: Path) -> None:
    """Every other time all has to be fetched and composed again."""
    rng = random.Random(SEED)
    whole = {}  # seconds of an install; on a busy machine they are others every time
    for emptied in (False, True):
        modpkg("install", "talker==1.0")
        if emptied:
            shutil.rmtree(home / "store")
        whole[emptied] = float(killed_after(0, "install", "talker==2.0").stdout.splitlines()[-1])
    outcomes = {"before": 0, "after": 0}
    before = installed_version()
    for number in range(4 * MOMENTS):
        if number >= MOMENTS and min(outcomes.values()) > 0:
            break
        target = "1.0" if before == "2.0" else "2.0"
        emptied = bool(number % 2)
        if emptied:  # an install that was killed early may not have made it yet
            shutil.rmtree(home / "store", ignore_errors=True)
        # Half of them are near the switch to the new generation, which comes late.
        earliest = rng.choice((0.01, 0.8))
        moment = rng.uniform(earliest, 1.1)
        done = killed_after(moment * whole[emptied], "install", f"talker=={target}")
        after = installed_version()
        assert after in (before, target)
        if done.returncode == 0:
            whole[emptied] = float(done.stdout.splitlines()[-1])
        elif after == before and moment > 0.95:
            whole[emptied] *= 1.2
        outcomes["before" if after == before else "after"] += 1
        before = after
    assert min(outcomes.values()) > 0  # some moments came before the switch, some after
    modpkg("install", "talker==2.0")
    assert installed_version() == "2.0"
    assert leftovers() == []


@pytest.mark.parametrize("point", CHECKPOINTS)
def test_between_any_two_steps(point: str) -> None:
    modpkg("install", "talker<2")
    code = _KILLED_AT.format(point=point, requirement="talker>=2")
    done = forkserver.run("-c", code)
    assert done.returncode == -signal.SIGKILL
    expected = "2.0" if point == "switched" else "1.0"
    assert installed_version() == expected
    modpkg("install", "talker>=2")
    assert installed_version() == "2.0"
    assert leftovers() == []


@pytest.mark.parametrize("calls", [0, 3, 7])
def test_a_killed_fetch_resumes(home: Path, calls: int) -> None:
    modpkg("install", "tiny")
    killed_in("StagedPack", "copy", calls, "talker>=2")
    before = modpkg_json("install", "talker>=2", "--dry-run")
    modpkg("install", "talker>=2")
    assert installed_version() == "2.0"
    assert leftovers() == []
    assert list((home / "store" / "partial").iterdir()) == []
    unfinished = modpkg_json("install", "talker>=2", "--dry-run")["here"] - before["here"]
    assert unfinished == before["fetch"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [("StagedPack", "finish"), ("PackFolder", "adopt"), ("TensorIndex", "add_pack")],
)
def test_an_install_killed_around_the_rename_fetches_nothing_twice(
    home: Path, owner: str, name: str
) -> None:
    """The last of them: the pack is in the store, and the index does not know of it."""
    modpkg("install", "tiny")
    before = modpkg_json("install", "talker>=2", "--dry-run")
    killed_in(owner, name, 0, "talker>=2")
    plan = modpkg_json("install", "talker>=2", "--dry-run")
    modpkg("install", "talker>=2")
    assert installed_version() == "2.0"
    adapter = 8 * tiny.RANK * tiny.HIDDEN * 4  # bytes of its tensors
    assert plan["fetch"] <= before["fetch"] - adapter


def test_two_installs_at_once_both_succeed(home: Path, tmp_path: Path) -> None:
    """In one environment they take turns; two environments share the store."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        (folder / "modpkg.toml").write_text(f'[app]\nname = "{folder.name}"\n')
    processes = [
        subprocess.Popen(
            [forkserver.python(), "-m", "modpkg", "install", requirement],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ,
        )
        for folder, requirement in (
            (folders[0], "talker>=1"),
            (folders[0], "tiny"),
            (folders[1], "talker>=2"),
            (folders[1], "tiny"),
        )
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
    for folder in folders:
        environment = Environment(folder / ".modpkg")
        generation = environment.current()
        assert generation is not None
        assert environment.is_complete(generation)
        assert set(generation.models) == {"talker", "tiny"}
