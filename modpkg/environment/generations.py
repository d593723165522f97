"""Generations: the atomic states of an environment, and the switch between them.

.modpkg/
  current -> generations/7       a symbolic link; replacing it is the switch
  generations/<n>/               generation.json, modpkg.toml, modpkg.lock, models/<name>/
  generations/<n>/directories/   models and adapters as folders for other tools, weights linked
  packs/                         weights, hard-linked from the store, shared by generations
  lock                           held by the command that changes the environment
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import system
from modpkg.core.bounds import LOCK_BYTES, SMALL_FILE_BYTES
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import EnvironmentDamaged, InstallError, LockError
from modpkg.core.file_lock import file_lock
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.files import check_no_links, make_folder, write_atomically
from modpkg.core.installed import REPAIR, InstalledModel, is_pack_name, read_installed
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.leftovers import TEMPORARY
from modpkg.core.ownership import check_owner
from modpkg.core.printable import os_reason
from modpkg.core.records import Kind
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal
from modpkg.core.system_folders import hold_folder, is_link, open_folder
from modpkg.store.projects import CURRENT

if TYPE_CHECKING:
    from modpkg.resolve.lock import Lock


def text_digest(text: str) -> Digest:
    """Return the digest of a text, which may hold bytes that are not UTF-8."""
    return digest_bytes(text.encode("utf-8", "surrogateescape"))


_NUMBER = lazy_pattern(r"[0-9]{1,15}")
"""The name of a generation's folder."""
_MODEL = lazy_pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The name of a model's folder: it is never a path."""
KEPT = 5
"""Number of generations that are kept, including the current one."""

EARLIER = (
    "copy the manifest and modpkg.lock in it over the project's, and run 'modpkg install', which "
    "installs the same again"
)
"""What to do about a damaged generation that is not the current one."""

COMPLETE = "generation.json"
EXACT = "exact"
"""The fit of a module on the same weights that it was made for."""


class ModuleState(Struct, frozen=True, kw_only=True):
    """A module of a generation."""

    name: str
    version: str
    kind: Kind
    registry: str
    release: str
    summary: str
    license: str
    size: int
    """Bytes of its weights and files."""
    requires: list[str]
    extras: list[str]
    fits: dict[str, str]
    """By base, how the module fits: ``exact``, or ``drifted`` with numbers."""
    extra_requires: list[str] = []
    """Requirements of its chosen extras, in addition to `requires`."""
    candidate: int = 0
    """The number of the candidate that it was locked as; 0 for a release."""
    signer: str = ""
    """Who has signed it, as in the lock."""


class Generation(Struct, frozen=True, kw_only=True):
    """``generation.json``, sealed: the inputs and contents of a generation."""

    spec: int = 1
    number: int
    created: str
    manifest: Digest
    """Digest of the manifest's text at installation."""
    lock: Digest
    """Digest of the lock file's text."""
    requirements: list[str]
    modules: list[ModuleState]
    models: dict[str, str]
    """Versions of the runnable models, by name."""
    packs: dict[str, int]
    """Lengths in bytes of the files in ``packs/`` that it needs, by name."""
    flagged: bool = False
    """Whether the lock satisfies the manifest only with the command line's policy."""


def sealed_generation(generation: Generation) -> bytes:
    """Return the bytes of ``generation.json``.

    Raises:
        LockError: There are more than are read of it again.
    """
    data = seal(generation)
    if len(data) > SMALL_FILE_BYTES:  # what extras require is in no lock
        largest = max(
            generation.modules,
            key=lambda state: sum(map(len, (*state.requires, *state.extra_requires))),
        )
        raise LockError(
            "M594",
            what="The record of what is installed",
            size=len(data),
            most=SMALL_FILE_BYTES,
            name=largest.name,
            version=largest.version,
        )
    return data


class Environment:
    """The environment in one ``.modpkg`` folder."""

    def __init__(self, root: Path) -> None:
        """``root`` came with the project, from wherever that came: nothing of it may be a link.

        Raises:
            InstallError: A part of it is a link.
        """
        check_no_links(root, root / "generations", root / "packs")
        self.root = root

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    @property
    def _current(self) -> Path:
        return self.root / CURRENT

    def folder(self, number: int) -> Path:
        return self.root / "generations" / str(number)

    def directories(self) -> list[Path]:
        """Return the folders for other tools that were written for any generation."""
        found = []
        for number in self.numbers():
            folder = self.folder(number) / "directories"
            if folder.is_dir() and not is_link(folder):
                found += [path for path in folder.iterdir() if not is_link(path)]
        return sorted(found)

    def numbers(self) -> list[int]:
        """Return the numbers of complete generations, ascending."""
        try:
            paths = list((self.root / "generations").iterdir())
        except FileNotFoundError:
            return []
        return sorted(
            int(path.name)
            for path in paths
            if _NUMBER.fullmatch(path.name) and not is_link(path) and (path / COMPLETE).exists()
        )

    def current_number(self) -> int | None:
        """Return the current generation's number; None if nothing is installed."""
        name = (system.read_pointer(self._current) or "").rpartition("/")[2]
        if not _NUMBER.fullmatch(name):
            return None
        folder = self.folder(int(name))
        return int(name) if folder.is_dir() and not is_link(folder) else None

    def current(self) -> Generation | None:
        """Return the current generation; None if nothing is installed.

        Raises:
            EnvironmentDamaged: The generation cannot be read.
        """
        number = self.current_number()
        return None if number is None else self.generation(number)

    def readable(self) -> Generation | None:
        """Return the current generation; None if nothing is installed or it cannot be read."""
        try:
            return self.current()
        except EnvironmentDamaged:
            return None

    def generation(self, number: int) -> Generation:
        """Return one generation's record.

        Raises:
            EnvironmentDamaged: The record is missing or corrupt.
        """
        try:
            data = read_file(self.folder(number) / COMPLETE, follow=False)
            generation = unseal(data, Generation)
            if strange := [name for name in generation.models if not _MODEL.fullmatch(name)]:
                raise msgspec.ValidationError(f"a model cannot be named {strange[0][:200]!r}")
            return generation
        except (OSError, msgspec.MsgspecError) as error:
            if isinstance(error, OSError) and system.is_failure(error):
                raise  # what the disk does not give is not damaged
            is_read = isinstance(error, msgspec.MsgspecError)
            reason = decoding_reason(error) if is_read else os_reason(error)
        remedy = REPAIR if number == self.current_number() else EARLIER
        raise EnvironmentDamaged("M506", path=self.folder(number), reason=reason, remedy=remedy)

    def kept_lock(self, generation: Generation) -> bytes:
        """Return the text of the lock that a generation was installed from.

        Raises:
            EnvironmentDamaged: It was changed since.
        """
        return kept_text(self.folder(generation.number) / LOCK_NAME, generation.lock)

    def is_from(self, generation: Generation, lock: Lock | None, text: str | None) -> bool:
        """Return whether a generation is of a lock, which may know more of registries since.

        Raises:
            EnvironmentDamaged: Its own lock was changed.
        """
        from modpkg.resolve.lock import parse_lock  # slow to import, and seldom needed

        if generation.lock == text_digest(text or "") or lock is None:
            return lock is not None
        kept = parse_lock(self.kept_lock(generation).decode(), self.folder(generation.number))
        return replace(kept, registry=[]) == replace(lock, registry=[])

    def ever_installed(self) -> list[ModuleState]:
        """Return the modules of all generations that can be read, the newest generation first."""
        states = []
        for number in reversed(self.numbers()):
            with contextlib.suppress(EnvironmentDamaged):
                states += self.generation(number).modules
        return states

    def is_complete(self, generation: Generation, lock_text: str | None = None) -> bool:
        """Return whether the generation has all its packs, at their lengths, and intact records.

        With a lock, also whether the models are what it has as results.
        """
        for name, length in generation.packs.items():
            pack = self.packs / name
            if is_link(pack) or not pack.is_file() or pack.stat().st_size != length:
                return False
        models = self.folder(generation.number) / "models"
        try:
            for name in generation.models:
                model = read_installed(models / name, self.packs)
                if lock_text is not None and not _is_as_locked(model, lock_text):
                    return False
        except EnvironmentDamaged:
            return False
        return True

    def is_up_to_date(self, manifest_text: str, lock_text: str | None) -> bool:
        """Return whether the environment matches the manifest and the lock."""
        current = self.readable()
        return (
            current is not None
            and not current.flagged
            and lock_text is not None
            and current.lock == text_digest(lock_text)
            and current.manifest == text_digest(manifest_text)
            and self.is_complete(current, lock_text)
        )

    def model_folder(self, name: str) -> Path:
        """Return the folder of a model of the current generation."""
        number = self.current_number()
        return self.folder(number or 0) / "models" / name

    def model(self, name: str) -> InstalledModel:
        """Return a model's record.

        Raises:
            EnvironmentDamaged: The record is missing or corrupt.
        """
        return read_installed(self.model_folder(name), self.packs)

    def next_number(self) -> int:
        """Return a number that no generation has, complete or not."""
        try:
            names = [path.name for path in (self.root / "generations").iterdir()]
        except FileNotFoundError:
            names = []
        return max((int(name) for name in names if _NUMBER.fullmatch(name)), default=0) + 1

    def switch(self, number: int) -> None:
        """Make a generation the current one, atomically."""
        with hold_folder(self.root) as root:
            temporary = root.temporary(self._current.name)
            try:
                root.point(temporary, f"generations/{number}")
                root.rename(temporary, self._current.name)
            except BaseException:
                root.discard(temporary)
                raise
            root.sync()

    def previous_number(self, to: int | None = None) -> int:
        """Return the number of the generation that a rollback restores.

        Raises:
            InstallError: There is no earlier generation, or none with the number ``to``.
        """
        current = self.current_number()
        numbers = self.numbers()
        if to is not None:
            if to in numbers:
                return to
            hint = f"; it has {', '.join(map(str, numbers)) or 'none'}"
            raise InstallError("M505", path=self.root, which=f"generation {to}", hint=hint)
        earlier = [number for number in numbers if current is not None and number < current]
        if not earlier:
            hint = f"; it has {', '.join(map(str, numbers)) or 'none'}"
            raise InstallError("M505", path=self.root, which="earlier generation", hint=hint)
        return earlier[-1]

    def prune(self) -> None:
        """Remove all but the last generations, unused packs and unfinished files.

        A corrupt generation is removed too: nothing says any more what it needs. Only names of
        modpkg's own form are removed, and no link is followed.
        """
        current = self.current_number()
        readable: dict[int, Generation] = {}
        for number in self.numbers():
            with contextlib.suppress(EnvironmentDamaged):
                readable[number] = self.generation(number)
        if current is not None and current not in readable:
            return  # what it needs is not known
        numbers = list(readable)
        kept = {number for number in numbers[-KEPT:] if number != current}
        while len(kept) > KEPT - 1:
            kept.remove(min(kept))
        if current is not None:
            kept.add(current)
        needed = {name for number in kept for name in readable[number].packs}
        with open_folder(self.root) as root:
            with root.folder("generations") as generations:
                for name in generations.names():
                    earlier = _NUMBER.fullmatch(name) and int(name) not in kept
                    if earlier or name.startswith(TEMPORARY):
                        generations.remove(name)
            with root.folder("packs") as packs:
                for name in packs.names():
                    unused = is_pack_name(name) and name not in needed
                    if unused or name.startswith(TEMPORARY):
                        packs.remove(name)
            for name in root.names():
                if name.startswith(TEMPORARY):
                    root.remove(name)

    def tidy(self) -> None:
        """Remove the files that killed commands have left, if any."""
        folders = (self.root, self.root / "generations")
        entries = (entry for folder in folders for entry in os.scandir(folder))
        if any(entry.name.startswith(TEMPORARY) for entry in entries):
            with self.exclusive():
                self.prune()

    @contextlib.contextmanager
    def exclusive(self, waiting: str | None = None) -> Iterator[None]:
        """Hold the environment for changing it; other commands wait, after printing ``waiting``.

        Raises:
            InstallError: It belongs to somebody who is not trusted with it.
        """
        check_owner(self.root)
        make_folder(self.root)
        ignore = self.root / ".gitignore"
        if not ignore.exists() and not is_link(ignore):
            write_atomically(ignore, b"*\n")

        def announce() -> None:
            if waiting is not None:
                os.write(2, f"{waiting}\n".encode())

        with file_lock(self.root / "lock", exclusive=True, waiting=announce):
            yield


def kept_text(path: Path, digest: str) -> bytes:
    """Return the bytes of a generation's copy of a text.

    Raises:
        EnvironmentDamaged: They are not those that it was installed with.
    """
    data = read_file(path, LOCK_BYTES, follow=False)
    if digest_bytes(data) != digest:
        raise EnvironmentDamaged("M506", path=path, reason="it was changed", remedy=EARLIER)
    return data


def _is_as_locked(model: InstalledModel, lock_text: str) -> bool:
    """Return whether a model is the result that a lock has for it, if it has one.

    The record may have come with a repository, under a seal that anybody can make: what the lock
    promises decides. The lock is searched, not parsed: it is as modpkg wrote it, or else the
    environment would not be for it.
    """
    if model.files is None:
        return False
    found = re.search(_RESULT.format(re.escape(model.name)), lock_text, re.MULTILINE)
    return found is None or found.groups() == (model.key, model.result)


_RESULT = r'^model = "{}"$(?:\n[^\[\n].*){{0,8}}?\ninputs = "(.*)"\nresult = "(.*)"$'
"""The result of a model in a lock."""
