"""Every command that writes, each from a folder that was made ready for it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.digests import digest_bytes, digest_file
from modpkg.environment.generations import Environment
from modpkg.manifest.editor_schema import SCHEMA_LINE
from modpkg.registry.reader import Registry
from modpkg.store.store import Store
from tests import tiny
from tests.e2e.place import Place

OUTPUTS = ("out", "projects/new", "projects/tiny-2/dist")
"""Folders that commands make: each is there whole, or not at all."""


class World(Place, frozen=True):
    """A place in which calls of the disk fail; this process is in it."""

    def enter(self, folder: str = "app") -> None:
        os.environ["MODPKG_HOME"] = str(self.home)
        os.chdir(self.root / folder)

    def command(self, *arguments: str, folder: str = "app") -> None:
        """Run a command of modpkg in a folder; ends the process."""
        from modpkg.cli import main

        self.enter(folder)
        main([*arguments])

    def done(self, *arguments: str, folder: str = "app") -> None:
        """Run a command that has to succeed."""
        try:
            self.command(*arguments, folder=folder)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{arguments} failed") from end

    def state(self) -> dict[str, Any]:
        """Return what is there; raises if it is damaged."""
        self.enter()
        manifest, lock = self.app / "modpkg.toml", self.app / "modpkg.lock"
        return {
            "manifest": manifest.read_text(),
            "lock": lock.read_text() if lock.exists() else None,
            "installed": self._installed(),
            "registry": self._registry(),
            "bumped": (self.root / "projects/tiny-2/modpkg.toml").read_text(),
            **{name: _tree(self.root / name) for name in OUTPUTS},
        }

    def _installed(self) -> dict[str, Any] | None:
        environment = Environment(self.app / ".modpkg")
        generation = environment.current()
        if generation is None:
            return None
        assert environment.is_complete(generation)
        damaged = []
        for name in generation.models:
            for tensor, ref in environment.model(name).tensors.items():
                digest = digest_file(environment.packs / ref.file, ref.offset, ref.length)
                if digest != ref.digest:
                    damaged.append(f"{name}: {tensor}")
        modules = [module.release for module in generation.modules]
        return {"models": generation.models, "modules": modules, "damaged": damaged}

    def _registry(self) -> dict[str, Any]:
        reader = Registry(str(self.home / "registry"))
        return {
            name: [[line.version, line.release, line.yanked] for line in reader.index(name)]
            for name in reader.names() or ()
        }

    def tidy(self) -> None:
        """Run a next command in the projects that were made."""
        for name in ("app", "projects/new", "projects/tiny-2"):
            manifest = self.root / name / "modpkg.toml"
            if manifest.exists() and "[app]" in manifest.read_text():
                self.done("install", folder=name)
            elif manifest.exists():
                self.done("version", "9.0", folder=name)

    def settle(self) -> None:
        """Check every byte of store and registry."""
        self.enter()
        self.check()


def _tree(folder: Path) -> str | None:
    """Return a digest of the names and bytes in a folder, but for hints and unfinished files.

    None if there are none.
    """
    state, found = hashlib.sha256(), False
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            data = path.read_bytes()
            if data.startswith(SCHEMA_LINE.encode()):  # a hint for editors
                data = data.partition(b"\n")[2]
            state.update(f"{name}\0{digest_bytes(data)}\0".encode())
            found = True
    return state.hexdigest() if found else None


class Scenario(Struct, frozen=True):
    """A command, and what makes its folder ready for it."""

    command: tuple[str, ...]
    prepare: Callable[[World], None]
    folder: str = "app"
    repeats: bool = True
    """Whether running it again changes nothing; else it is run again only if it failed."""

    grows: bool = False
    """Whether its output is valid at every moment, so that a part of it may be there."""
    in_app: bool = False
    """Whether it may leave manifest or lock ahead of the environment, for ``install`` to follow."""


def _published(world: World) -> None:
    """Publish talker 1.0 and 2.0; an app with nothing installed, and a project for tiny 2.0."""
    world.home.mkdir()
    world.app.mkdir()
    world.enter()
    (world.app / "modpkg.toml").write_text('[app]\nname = "app"\n')
    tiny.publish_talker(world.home / "registry", world.root / "projects")
    tiny.write_base(world.root / "projects" / "tiny-2", "2.0", seed=9)


def _installed(*versions: str) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        _published(world)
        for version in versions:
            world.done("install", f"talker=={version}")

    return prepare


def _for_install(world: World) -> None:
    _installed("1.0")(world)
    shutil.rmtree(world.home / "store")


def _for_update(world: World) -> None:
    _installed("1.0")(world)
    manifest = world.app / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace("==1.0", ">=1.0"))
    world.done("install")


def _built(world: World) -> None:
    _installed("1.0")(world)
    world.done("build", "../projects/tiny-2")


def _copies(world: World) -> None:
    """Two copies of tiny, each with one tensor changed at another place."""
    from safetensors.numpy import load_file, save_file

    _published(world)
    for name, tensor in (("a", "model.norm.weight"), ("b", "model.embed_tokens.weight")):
        folder = tiny.write_base(world.root / "projects" / name, "1.1")
        tensors = load_file(folder / "model.safetensors")
        tensors[tensor] = tensors[tensor] + 1
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _damaged(world: World) -> None:
    """A byte of the largest pack is wrong."""
    _installed("2.0")(world)
    store = Store(world.home / "store")
    sizes = store.packs.sizes()
    path = store.packs.path(max(sizes, key=lambda name: sizes[name]))
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\xff\xff\xff")
    path.chmod(0o444)


SCENARIOS = {
    "init": Scenario(("init", "../projects/new"), _published, repeats=False),
    "version": Scenario(("version", "--bump", "minor"), _published, "projects/tiny-2", False),
    "lock": Scenario(("lock", "--upgrade"), _for_update),
    "add": Scenario(("add", "tiny-lora==1.0"), _installed("1.0"), in_app=True),
    "install": Scenario(("install", "talker==2.0"), _for_install, in_app=True),
    "update": Scenario(("update",), _for_update, in_app=True),
    "remove": Scenario(("remove", "talker"), _installed("1.0"), in_app=True),
    "rollback": Scenario(("rollback",), _installed("1.0", "2.0"), repeats=False, in_app=True),
    "build": Scenario(("build", "../projects/tiny-2"), _installed("1.0")),
    "publish": Scenario(("publish", "../projects/tiny-2"), _built),
    "yank": Scenario(("yank", "tiny-lora==2.0", "--reason", "bad"), _published),
    "fork": Scenario(("fork", "tiny==1.0", "mine", "--out", "../projects/new"), _published),
    "import": Scenario(
        ("import", "hf", "../projects/tiny-2", "--out", "../projects/new", "--license", "MIT"),
        _published,
    ),
    "export": Scenario(("export", "talker", "../out"), _installed("1.0")),
    "vendor": Scenario(("vendor", "../out"), _installed("1.0"), grows=True),
    "patch": Scenario(
        ("patch", "create", "../projects/a", "--base", "tiny==1.0", "--out", "../projects/new"),
        _copies,
    ),
    "merge": Scenario(
        (
            "merge",
            "../projects/a",
            "../projects/b",
            "--base",
            "tiny==1.0",
            "--out",
            "../projects/new",
        ),
        _copies,
    ),
    "compose": Scenario(("compose",), _installed("1.0")),
    "gc": Scenario(("store", "gc", "--max-size", "0 B"), _installed("1.0", "2.0")),
    "verify": Scenario(("store", "verify"), _damaged),
}
