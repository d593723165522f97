"""Repairing the store: what is damaged comes anew, and is written where environments link it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from modpkg.core.digests import file_chunks
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import COMPOSED_RECORD
from modpkg.core.files import temporary_sibling
from modpkg.core.home import user_project
from modpkg.core.progress import Progress
from modpkg.environment.plan import InstallPlan, Request, plan_install
from modpkg.environment.project import Project
from modpkg.manifest.find import find_manifest
from modpkg.store.corruption import Corruption
from modpkg.store.store import Store
from modpkg.transfer.fetch import check_space, fetch_all


def repair(
    store: Store, damaged: Iterable[Corruption], progress: Progress, *, offline: bool = False
) -> list[Corruption]:
    """Repair what known projects can bring back, and return it.

    A damaged tensor is fetched by itself and written over the damaged bytes: the file stays the
    one that environments have hard-linked, so they are repaired with it. Files and composed results
    are taken aside, fetched or composed anew, and then treated likewise. What no project can bring
    back is removed: it is fetched when it is needed again.

    Raises:
        InstallError. A project that cannot be planned or fetched for is passed over with a warning.
    """
    with store.lock(exclusive=True):
        wounds = [_Wound(store, list(items)) for _, items in groupby(damaged, lambda d: d.path)]
        if wounds:
            for plan in _plans(store, progress, offline=offline):
                _bring_back(plan, store, progress, {name for w in wounds for name in w.missing})
        return [item for wound in wounds for item in wound.heal()]


class _Wound:
    """The damage in one file, out of the store's sight until it is healed."""

    def __init__(self, store: Store, items: list[Corruption]) -> None:
        self._store = store
        self._items = items
        self._path = Path(items[0].path)
        kind, name = items[0].kind, self._path.name
        self.missing = {item.digest for item in items}
        """Digests of tensors, of a file, or of what a composed result is made from."""
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
        self._path.rename(self._aside)

    def heal(self) -> list[Corruption]:
        """Write good bytes over the damaged ones, and return what is whole again."""
        if self._within:
            return self._heal_within()
        try:
            if not self._path.exists():
                return []
            _overwrite(self._aside, 0, self._path, 0, None)
            self._aside.replace(self._path)
            return self._items
        finally:
            self._aside.unlink(missing_ok=True)

    def _heal_within(self) -> list[Corruption]:
        healed = []
        places = self._store.find(dict.fromkeys(self.missing, 1))
        for item in self._items:
            if (place := places.get(item.digest)) is not None:
                source = self._store.packs.path(place.pack)
                _overwrite(self._path, item.offset, source, place.offset, item.length)
                healed.append(item)
        size = self._path.stat().st_size
        self._store.index.add_pack(self._path.name, size, [item.digest for item in healed])
        for name in {place.pack for place in places.values()}:
            if self._store.index.tensors_in(name) <= self.missing:  # it has served
                self._store.index.remove_packs([name])
                self._store.packs.remove(name)
        return healed


def _overwrite(target: Path, at: int, source: Path, offset: int, length: int | None) -> None:
    """Replace bytes of a file in place, or (``length`` None) all: its other names show them too."""
    mode = target.stat().st_mode
    target.chmod(0o644)
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
        target.chmod(mode)


def _plans(store: Store, progress: Progress, *, offline: bool) -> Iterator[InstallPlan]:
    """Yield what installing each known project's lock would do now."""
    for known in store.projects.known().values():
        path = find_manifest(Path(known.lock).parent)
        if path is None:
            continue
        project = Project(path, is_user=path.parent == user_project())
        try:
            yield plan_install(project, Request(frozen=True, offline=offline), store, progress)
        except ModpkgError as error:
            progress.warn(f"nothing can be brought back for {path}: {error}")


def _bring_back(plan: InstallPlan, store: Store, progress: Progress, missing: set[str]) -> None:
    """Fetch and compose for a project that has any of what is missing."""
    transfer = plan.transfer
    wanted = {tensor.entry.digest for tensor in transfer.tensors}
    wanted |= {file.digest for file in transfer.files}
    compositions = [c for c in plan.compositions.values() if c.key in missing]
    if not wanted & missing and not compositions:
        return
    check_space(store.root, transfer.disk + plan.compose_bytes)
    if transfer.needed:
        progress.stage("Fetching")
        progress.total(transfer.missing)
    try:
        fetch_all(transfer, list(plan.lock.module), store, lambda _, count: progress.advance(count))
    except ModpkgError as error:
        progress.warn(f"not everything could be fetched for {plan.project.folder}: {error}")
        return
    for composition in compositions:
        from modpkg.compose.executor import compose

        progress.stage(f"Composing {composition.name}")
        compose(composition, store.root)
