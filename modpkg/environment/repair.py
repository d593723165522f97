"""Repairing the store: corrupt bytes are fetched again and overwritten in place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from modpkg.core import system
from modpkg.core.digests import digest_file, file_chunks
from modpkg.core.errors import InstallError, ModpkgError
from modpkg.core.filenames import COMPOSED_RECORD
from modpkg.core.files import remove_tree
from modpkg.core.home import user_project
from modpkg.core.leftovers import temporary_sibling
from modpkg.environment.generations import Environment
from modpkg.environment.install import fetch_plan
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.manifest.find import find_manifest
from modpkg.store.corruption import Corruption
from modpkg.store.store import Store
from modpkg.transfer.fetch import check_space


def repair(workspace: Workspace, corruptions: Iterable[Corruption]) -> list[Corruption]:
    """Repair what known projects can restore, and return it.

    A corrupt tensor is fetched alone and written over the corrupt bytes: the file stays the one
    that environments have hard-linked, so they are repaired with it. Files and composed results are
    moved aside, fetched or composed again, and then treated in the same way. What no project can
    restore is removed: it is fetched when it is needed again; so are the folders for other tools
    that link it. Projects that cannot be planned or fetched for are skipped with a warning.

    Raises:
        InstallError: The disk is too small.
    """
    store = workspace.store
    with store.lock(exclusive=True):
        files = [
            CorruptFile(store, list(items)) for _, items in groupby(corruptions, lambda c: c.path)
        ]
        if files:
            missing = {digest for file in files for digest in file.missing}
            for plan in _plans(workspace):
                _restore(plan, missing)
        repaired = [(file, file.repair()) for file in files]
        _drop_directories(store, {file.identity for file, items in repaired if not file.all(items)})
        return [item for _, items in repaired for item in items]


def _drop_directories(store: Store, damaged: set[tuple[int, int]]) -> None:
    """Remove the folders for other tools that link a file, given by device and inode."""
    if not damaged:
        return
    for known in store.projects.known().values():
        for folder in _directories(Path(known.environment)):
            links = (path.stat() for path in folder.rglob("*.safetensors"))
            if any((link.st_dev, link.st_ino) in damaged for link in links):
                remove_tree(folder)


def _directories(environment: Path) -> list[Path]:
    try:
        return Environment(environment).directories()
    except InstallError:  # it is a link now, and not the one that was installed
        return []


class CorruptFile:
    """The corruption in one file, out of the store's sight until it is repaired."""

    def __init__(self, store: Store, items: list[Corruption]) -> None:
        self._store = store
        self._items = items
        self._path = Path(items[0].path)
        kind, name = items[0].kind, self._path.name
        status = self._path.stat()
        self.identity = status.st_dev, status.st_ino
        self.missing = {item.digest for item in items}
        """Digests of tensors, of a file, or of the inputs of a composed result."""
        # The header vouches for what is inside; a repair that was killed may have left the index
        # without some of it.
        self._within = kind == "tensor" and self.missing < store.packs.read(name).keys()
        if self._within:
            store.index.remove_tensors(name, self.missing)
            return
        if kind in ("pack", "tensor"):
            self.missing |= store.index.tensors_in(name)
            store.index.remove_packs([name])
        elif kind == "composed":
            self.missing = {f"sha256:{self._path.parent.name}"}
            (self._path.parent / COMPOSED_RECORD).unlink(missing_ok=True)
        self._aside = temporary_sibling(self._path)
        system.replace(self._path, self._aside)

    def all(self, repaired: list[Corruption]) -> bool:
        """Return whether nothing is left to repair."""
        return len(repaired) == len(self._items)

    def repair(self) -> list[Corruption]:
        """Write good bytes over the corrupt ones; return what is repaired."""
        if self._within:
            return self._repair_within()
        try:
            if not self._path.exists():
                return []
            _overwrite(self._aside, 0, self._path, 0, None)
            system.replace(self._aside, self._path)
            return self._items
        finally:
            self._aside.unlink(missing_ok=True)

    def _repair_within(self) -> list[Corruption]:
        repaired = []
        places = self._store.find(dict.fromkeys(self.missing, 1))
        for item in self._items:
            if (place := places.get(item.digest)) is not None:
                source = self._store.packs.path(place.pack)
                _overwrite(self._path, item.offset, source, place.offset, item.length)
                if digest_file(self._path, item.offset, item.length) == item.digest:
                    repaired.append(item)
        size = self._path.stat().st_size
        self._store.index.add_pack(self._path.name, size, [item.digest for item in repaired])
        for name in {place.pack for place in places.values()}:
            if self._store.index.tensors_in(name) <= self.missing:  # a copy for this repair
                self._store.index.remove_packs([name])
                self._store.packs.remove(name)
        return repaired


def _overwrite(target: Path, at: int, source: Path, offset: int, length: int | None) -> None:
    """Replace bytes of a file, or all if ``length`` is None, in place: in its hard links too."""
    mode = target.stat().st_mode
    system.set_mode(target, 0o644)
    try:
        with open(target, "r+b") as file:
            file.seek(at)
            for chunk in file_chunks(source, offset, length):
                file.write(chunk)
            if length is None:
                file.truncate()
            file.flush()
            os.fsync(file.fileno())
    finally:
        system.set_mode(target, mode)


def _plans(workspace: Workspace) -> Iterator[InstallPlan]:
    """Yield what installing each known project's lock would do now."""
    for known in workspace.store.projects.known().values():
        path = find_manifest(Path(known.lock).parent)
        if path is None:
            continue
        project = Project(path, is_user=path.parent == user_project())
        try:
            yield plan_install(workspace.for_project(project), InstallRequest(frozen=True))
        except ModpkgError as error:
            workspace.progress.warn(f"nothing can be restored for {path}: {error}")


def _restore(plan: InstallPlan, missing: set[str]) -> None:
    """Fetch and compose for a project that has any of what is missing."""
    transfer, store, progress = plan.transfer, plan.workspace.store, plan.workspace.progress
    needed = {tensor.entry.digest for tensor in transfer.tensors}
    needed |= {file.digest for file in transfer.files}
    compositions = [c for c in plan.compositions.values() if c.key in missing]
    if not needed & missing and not compositions:
        return
    check_space(store.root, plan.disk)
    try:
        fetch_plan(plan)
    except ModpkgError as error:
        progress.warn(f"not everything could be fetched for {plan.project.folder}: {error}")
        return
    for composition in compositions:
        from modpkg.compose.executor import compose

        progress.stage(f"Composing {composition.name}")
        compose(composition, store.root)
