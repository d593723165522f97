"""Commands to kill, each from a folder that was made ready for it, and what must hold after."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from modpkg.environment.generations import Environment
from modpkg.runtime.load import load_model
from modpkg.store.store import Store
from tests import forkserver, tiny
from tests.e2e.place import Place
from tests.faults import COUNT


class Stage(Place, frozen=True):
    """A place in which commands are killed."""

    def run(self, *arguments: str, fatal: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the app; with ``fatal`` it dies at that change (0: it is counted)."""
        module = ("modpkg",) if fatal is None else ("tests.faults", str(fatal), str(self.root))
        env = os.environ | {"MODPKG_HOME": str(self.home), "PYTHONPATH": _PATH}
        return forkserver.run("-m", *module, *arguments, cwd=self.app, env=env)

    def done(self, *arguments: str) -> None:
        """Run a command that has to succeed."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr

    def version(self) -> str:
        """Load the installed talker, and return its version."""
        environment = Environment(self.app / ".modpkg")
        generation = environment.current()
        assert generation is not None
        assert environment.is_complete(generation)
        model = load_model(environment.model_folder("talker"), environment.packs)
        assert sum(parameter.numel() for parameter in model.parameters()) > 1000
        return generation.models["talker"]


_PATH = str(Path(__file__).parents[2])


class Scenario(Struct, frozen=True):
    """A command, and the versions of talker that may be installed after it was killed."""

    command: tuple[str, ...]
    prepare: Callable[[Stage], None]
    versions: tuple[str, ...]
    """The last is there when it was not killed."""


def _installed(place: Stage, *versions: str) -> None:
    """Install versions one after the other, from a registry with talker 1.0 and 2.0."""
    tiny.publish_talker(place.home / "registry", place.root / "projects")
    place.app.mkdir()
    (place.app / "modpkg.toml").write_text('[app]\nname = "app"\n')
    for version in versions:
        place.done("install", f"talker=={version}")


def _for_install(place: Stage) -> None:
    _installed(place, "1.0")
    shutil.rmtree(place.home / "store")


def _for_publish(place: Stage) -> None:
    _installed(place, "1.0")
    folder = tiny.write_base(place.root / "projects" / "tiny-2", "2.0", seed=9)
    place.done("build", str(folder))


def _for_verify(place: Stage) -> None:
    _installed(place, "2.0")
    store = Store(place.home / "store")
    name = max(store.packs.sizes(), key=lambda name: store.packs.sizes()[name])
    path = store.packs.path(name)
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\xff\xff\xff")
    path.chmod(0o444)


SCENARIOS = {
    "install": Scenario(("install", "talker==2.0"), _for_install, ("1.0", "2.0")),
    "rollback": Scenario(
        ("rollback",), lambda place: _installed(place, "1.0", "2.0"), ("2.0", "1.0")
    ),
    "publish": Scenario(("publish", "../projects/tiny-2"), _for_publish, ("1.0",)),
    "gc": Scenario(
        ("store", "gc", "--max-size", "0 B"),
        lambda place: _installed(place, "1.0", "2.0"),
        ("2.0",),
    ),
    "verify": Scenario(("store", "verify"), _for_verify, ("2.0",)),
    "vendor": Scenario(("vendor", "copy"), lambda place: _installed(place, "2.0"), ("2.0",)),
}


class Killings:
    """One scenario, as often as one likes: its folder is put back before each run."""

    def __init__(self, name: str, folder: Path) -> None:
        self._scenario = SCENARIOS[name]
        self._ready = folder / "ready"
        self._place = Stage(folder / "place")
        self._place.root.mkdir(parents=True)
        self._scenario.prepare(self._place)
        _copy(self._place.root, self._ready)
        done = self._place.run(*self._scenario.command, fatal=0)
        assert done.returncode == 0, done.stdout + done.stderr
        self.points = int((self._place.root / COUNT).read_text())
        """How many changes to the file system the command makes."""

    def kill(self, point: int) -> str | None:
        """Kill the command before its change number ``point``; check all, and do it again.

        Returns the version of talker that was installed after the kill; None when the command
        ended before that point: threads that wait for one another make a few changes more or less.
        """
        place, scenario = self._place, self._scenario
        shutil.rmtree(place.root)
        _copy(self._ready, place.root)
        killed = place.run(*scenario.command, fatal=point)
        ended = killed.returncode == 0 and point > self.points * 0.9
        assert ended or killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        version = place.version()
        assert version in scenario.versions
        if scenario.command[0] != "rollback" or version != scenario.versions[-1]:
            place.done(*scenario.command)
        assert place.version() == scenario.versions[-1]
        place.done("install")
        place.check()
        assert list((place.app / ".modpkg").glob("generations/.tmp-*")) == []
        return None if ended else version


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with all its hard and symbolic links."""
    subprocess.run(["cp", "-a", source, target], check=True)
