"""A project came from somewhere: nothing below it leads out of it, and cleaning stays inside."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from modpkg.core import system_folders
from modpkg.core.errors import EnvironmentDamaged, InstallError, ModpkgError
from modpkg.core.files import link_or_copy, make_folder, rename, write_atomically
from modpkg.core.installed import InstalledModel, TensorRef, read_installed
from modpkg.core.sealed import seal, unseal
from modpkg.core.system_folders import OpenFolder, open_folder
from modpkg.environment.generations import Environment, Generation
from modpkg.environment.install import install
from modpkg.environment.locking import update_lock
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.vendor import MARK, vendor
from modpkg.environment.workspace import Workspace
from modpkg.manifest.editor_schema import SCHEMA_LINE, refresh_schema
from tests.command import modpkg, modpkg_json
from tests.modules import publish as publish_module
from tests.modules import publish_collection, write_module
from tests.raising import raises

APP = '[app]\nname = "app"\n[dependencies]\nlib = "*"\n'


@pytest.fixture
def project(home: Path, tmp_path: Path) -> Path:
    """A project with one requirement, beside a folder that is nobody's but its owner's."""
    publish_collection(home / "registry", "lib")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text(APP)
    (tmp_path / "neighbour" / "7").mkdir(parents=True)
    (tmp_path / "neighbour" / "letters.txt").write_text("mine")
    (tmp_path / "neighbour" / "7" / "notes.txt").write_text("mine")
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def installed(folder: Path) -> Generation:
    return install(Workspace(Project(folder / "modpkg.toml")), InstallRequest()).generation


LINKED = [".modpkg", ".modpkg/generations", ".modpkg/packs"]


@pytest.mark.parametrize("before", ["never installed", "installed"])
@pytest.mark.parametrize("part", LINKED)
def test_an_environment_that_leads_out_is_refused(
    part: str, before: str, project: Path, tmp_path: Path
) -> None:
    if before == "installed":
        installed(project)
        shutil.rmtree(project / part)
    (project / ".modpkg").mkdir(exist_ok=True) if part != ".modpkg" else None
    (project / part).symlink_to(tmp_path / "neighbour")
    neighbour = listing(tmp_path / "neighbour")
    with raises("M511", match="is a link"):
        installed(project)
    assert listing(tmp_path / "neighbour") == neighbour


@pytest.mark.parametrize("name", ["modpkg.toml", "modpkg.lock"])
def test_a_manifest_or_lock_that_is_a_link_is_not_read(name: str, project: Path) -> None:
    installed(project)
    (project / name).rename(project.parent / name)
    (project / name).symlink_to(project.parent / name)
    with pytest.raises((ModpkgError, OSError), match="a link"):
        installed(project)


def test_cleaning_removes_only_names_of_its_own_form(project: Path, tmp_path: Path) -> None:
    neighbour = listing(tmp_path / "neighbour")
    installed(project)
    environment = Environment(project / ".modpkg")
    kept = [
        environment.root / "notes.txt",
        environment.root / "generations" / "mine" / "a.txt",
        environment.packs / "weights.bin",
        environment.packs / "sub" / "a.txt",
    ]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (environment.root / "generations" / "9").symlink_to(tmp_path / "neighbour" / "7")
    (environment.root / "generations" / ".tmp-x").symlink_to(tmp_path / "neighbour")
    (environment.packs / ("a" * 64)).symlink_to(tmp_path / "neighbour" / "letters.txt")
    (environment.root / ".tmp-y").mkdir()
    (environment.root / ".tmp-y" / "deep").symlink_to(tmp_path / "neighbour")
    with environment.exclusive():
        environment.prune()
    assert all(path.read_text() == "mine" for path in kept)
    assert listing(tmp_path / "neighbour") == neighbour
    left = {path.name for path in environment.root.rglob("*")}
    assert not {"9", ".tmp-x", ".tmp-y", "a" * 64} & left


def test_a_link_that_comes_while_a_folder_is_cleaned_changes_nothing(tmp_path: Path) -> None:
    """The folder that was opened is cleaned, whatever its path is by then."""
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "1").write_text("mine")
    (tmp_path / "own" / "generations" / "1").mkdir(parents=True)
    with open_folder(tmp_path / "own") as own, own.folder("generations") as generations:
        (tmp_path / "own" / "generations").rename(tmp_path / "moved")
        (tmp_path / "own" / "generations").symlink_to(tmp_path / "neighbour")
        generations.remove("1")
    assert (tmp_path / "neighbour" / "1").read_text() == "mine"
    assert list((tmp_path / "moved").iterdir()) == []


def test_links_swapped_all_the_time_never_lead_cleaning_out(project: Path, tmp_path: Path) -> None:
    installed(project)
    environment = Environment(project / ".modpkg")
    neighbour = listing(tmp_path / "neighbour")
    generations, aside = environment.root / "generations", tmp_path / "aside"
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            generations.rename(aside)
            generations.symlink_to(tmp_path / "neighbour")
            generations.unlink()
            aside.rename(generations)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(100):
            with contextlib.suppress(OSError, InstallError, EnvironmentDamaged):
                environment.prune()
    finally:
        done.set()
        thread.join()
    assert listing(tmp_path / "neighbour") == neighbour


SWAPPED = [".modpkg", ".modpkg/generations", ".modpkg/packs", "vendored/index", "vendored/blobs"]


@pytest.mark.parametrize("act", ["create", "make", "rename", "link"])
@pytest.mark.parametrize("part", SWAPPED)
def test_a_link_that_comes_before_a_write_changes_nothing(
    part: str, act: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was checked, a folder is swapped for a link just before something is made in it."""
    real, swapped = getattr(OpenFolder, act), []

    def swapping(self: OpenFolder, *arguments: Any, **options: Any) -> Any:
        if self.path.is_relative_to(project / part) and not (project / part).is_symlink():
            swapped.append(self.path)
            (project / part).rename(tmp_path / f"aside-{len(swapped)}")
            (project / part).symlink_to(tmp_path / "neighbour")
        return real(self, *arguments, **options)

    if part.startswith("vendored"):
        installed(project)
        vendored(project, project / "vendored")
        shutil.rmtree(project / "vendored" / "blobs")
    (tmp_path / "neighbour" / "sha256").mkdir()
    neighbour = listing(tmp_path / "neighbour")
    monkeypatch.setattr(OpenFolder, act, swapping)
    with contextlib.suppress(OSError, ModpkgError):
        installed(project)
        vendored(project, project / "vendored")
    assert listing(tmp_path / "neighbour") == neighbour
    assert swapped or act in ("make", "link") or part == ".modpkg/packs"  # no model has packs


def test_a_file_is_written_where_folders_cannot_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_folders, "can_hold_folders", lambda: False)
    (tmp_path / "other").mkdir()
    path = tmp_path / ".modpkg" / "generations" / "a.json"
    write_atomically(path, b"1")
    write_atomically(path, b"2", mode=0o600)
    link_or_copy(path, path.with_name("b"))
    rename(path.with_name("b"), path.with_name("c"))
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"a.json": b"2", "c": b"2"}
    path.parent.rename(tmp_path / "aside")
    path.parent.symlink_to(tmp_path / "other")
    for act in (
        lambda: write_atomically(path, b"3"),
        lambda: make_folder(path.parent / "deep"),
        lambda: rename(tmp_path / "aside" / "c", path),
    ):
        with pytest.raises(OSError, match="a link"):
            act()
    assert list((tmp_path / "other").iterdir()) == []


def test_links_that_a_person_made_are_followed(tmp_path: Path) -> None:
    """Only what is below the part of a path that modpkg made itself is guarded."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write_atomically(tmp_path / "link" / ".modpkg" / "a", b"1")
    assert (tmp_path / "disk" / ".modpkg" / "a").read_bytes() == b"1"
    with pytest.raises(OSError, match="a link"):
        write_atomically(tmp_path / "link" / "a", b"1", within=tmp_path)


@pytest.mark.parametrize("handles", [True, False])
def test_a_tree_is_removed_without_its_links(
    handles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not handles:
        monkeypatch.setattr(system_folders, "can_hold_folders", lambda: False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_text("mine")
    (tmp_path / "own" / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "own" / "tree" / "deep" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "own" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "own" / "file").write_text("x")
    with open_folder(tmp_path / "own") as own:
        assert own.names() == ["file", "link", "tree"]
        for name in (*own.names(), "missing"):
            own.remove(name)
        assert own.names() == []
        (tmp_path / "own" / "link").symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="a link"), own.folder("link"):
            pass
    with pytest.raises(OSError, match="a link"), open_folder(tmp_path / "own" / "link"):
        pass
    assert (tmp_path / "other" / "a").read_text() == "mine"


def record(file: str) -> InstalledModel:
    ref = TensorRef(file, 0, 4, "F32", (1,), "sha256:" + "a" * 64)
    return InstalledModel(
        name="m",
        version="1",
        key="k",
        result=None,
        task=None,
        tensors={"w": ref},
        modules={},
        recipe={},
    )


def model_folder(root: Path, file: str = "b" * 64) -> Path:
    folder = root / "generations" / "1" / "models" / "m"
    folder.mkdir(parents=True)
    (root / "packs").mkdir()
    (folder / "model.json").write_bytes(seal(record(file)))
    return folder


@pytest.mark.parametrize("file", ["/etc/passwd", "../../secret", "..", "sub/x", "", "a" * 65])
def test_a_models_record_names_only_packs_of_its_environment(file: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path, file)
    with raises("M506", match="no pack of its own"):
        read_installed(folder, folder.parents[3] / "packs")


def spoil(folder: Path, kind: str) -> None:
    other = folder.parents[4] / "other"
    other.mkdir()
    if kind == "file":
        (folder / "tokenizer.json").symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(folder / "config.json")
    elif kind == "folder":
        (folder / "1_Pooling").symlink_to(other)
    elif kind == "record":
        (folder / "model.json").rename(other / "model.json")
        (folder / "model.json").symlink_to(other / "model.json")
    elif kind == "pack":
        (folder.parents[3] / "packs" / ("b" * 64)).symlink_to(other)
    else:
        place = {"model": folder, "models": folder.parent, "generation": folder.parents[1]}[kind]
        place.rename(other / "x")
        place.symlink_to(other / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
@pytest.mark.parametrize(
    "kind", ["file", "pipe", "folder", "record", "pack", "model", "models", "generation"]
)
def test_a_model_with_links_in_it_is_damaged(kind: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "env")
    assert read_installed(folder, folder.parents[3] / "packs").name == "m"
    spoil(folder, kind)
    with raises("M506"):
        read_installed(folder, folder.parents[3] / "packs")


def test_a_generation_names_no_model_elsewhere(project: Path) -> None:
    generation = installed(project)
    environment = Environment(project / ".modpkg")
    path = environment.folder(generation.number) / "generation.json"
    hostile = structs.replace(unseal(path.read_bytes(), Generation), models={"../../x": "1"})
    path.write_bytes(seal(hostile))
    with raises("M506", match="cannot be named"):
        environment.current()


def test_the_schema_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "modpkg.toml").write_text(SCHEMA_LINE + APP)
    (tmp_path / "app" / ".modpkg").symlink_to(tmp_path / "other")
    refresh_schema(tmp_path / "app")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("part", ["", "index", "blobs", "blobs/sha256", "locks", "lookup", MARK])
def test_a_vendored_folder_that_leads_out_is_refused(
    part: str, project: Path, tmp_path: Path
) -> None:
    installed(project)
    out = tmp_path / "vendored"
    vendored(project, out)
    neighbour = listing(tmp_path / "neighbour")
    remove = shutil.rmtree if (out / part).is_dir() else os.unlink
    if (out / part).exists():
        remove(out / part)
    (out / part).symlink_to(tmp_path / "neighbour")
    with raises("M511"):
        vendored(project, out)
    assert listing(tmp_path / "neighbour") == neighbour


def test_vendoring_leaves_what_is_not_a_registrys(project: Path, tmp_path: Path) -> None:
    installed(project)
    out = tmp_path / "vendored"
    vendored(project, out)
    mine = [out / "notes.md", out / "index" / "notes.md", out / "blobs" / "sha256" / "x" / "y"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    gone = [out / "index" / "other.jsonl", out / "blobs" / "sha256" / "aa" / ("a" * 64)]
    for path in gone:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    vendored(project, out)
    assert all(path.read_text() == "mine" for path in mine)
    assert not any(path.exists() for path in gone)


def vendored(project: Path, out: Path) -> None:
    workspace = Workspace(Project(project / "modpkg.toml"))
    assert workspace.lock is not None
    vendor(workspace.lock, workspace.registries, out, workspace.progress)


def test_a_build_is_not_written_through_a_link(tmp_path: Path, home: Path) -> None:
    (tmp_path / "other").mkdir()
    folder = write_module(tmp_path / "m", "m", files={"a.txt": b"a"})
    (folder / "dist").symlink_to(tmp_path / "other")
    with raises("M511"):
        publish_module(folder, home / "registry")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("act", ["publish", "install"])
def test_links_of_others_in_shared_folders_are_refused(
    act: str, project: Path, home: Path, tmp_path: Path
) -> None:
    installed(project)
    place = home / ("registry/index" if act == "publish" else "store/blobs")
    place.rename(tmp_path / "aside")
    place.symlink_to(tmp_path / "aside")
    run: dict[str, Callable[[], object]] = {
        "publish": lambda: publish_collection(home / "registry", "more"),
        "install": lambda: installed(project),
    }
    run[act]()  # a link of one's own
    os.chown(place, 4321, 4321, follow_symlinks=False)
    with raises("M511", match="another user"):
        run[act]()


def test_an_unchanged_lock_is_not_written(project: Path) -> None:
    installed(project)
    before = (project / "modpkg.lock").stat()
    workspace = Workspace(Project(project / "modpkg.toml"))
    update_lock(workspace, workspace.manifest)
    after = (project / "modpkg.lock").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
@pytest.mark.parametrize("part", ["index/lib.jsonl", "blobs"])
def test_a_pipe_in_a_registry_is_told_as_one(part: str, project: Path, home: Path) -> None:
    path = home / "registry" / part
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.unlink()
            os.mkfifo(file)
    with raises("M841", match="has a named pipe in the place of"):
        installed(project)


def test_publishing_again_is_told(home: Path, tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m", files={"a.txt": b"a"})
    modpkg("build", folder)
    assert not modpkg_json("publish", folder)["already"]
    assert modpkg_json("publish", folder)["already"]
    assert "already (0 B new)" in modpkg("publish", folder).stdout
