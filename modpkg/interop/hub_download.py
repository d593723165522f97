"""What an import takes from a repository of a hub, and its download: verified, and resumed.

Only safetensors and files of data are fetched: nothing that could hold code comes onto this
machine. What is fetched lies below modpkg's home until the import has succeeded, so that one that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import file_chunks, git_blob_hash
from modpkg.core.errors import ConversionError, IntegrityError, ModpkgError
from modpkg.core.file_lock import file_lock
from modpkg.core.filenames import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    MODULES,
    WEIGHTS,
    WEIGHTS_INDEX,
)
from modpkg.core.files import disk_errors, disk_full, human_bytes, make_folder, remove_tree, rename
from modpkg.core.home import home
from modpkg.core.hub_address import HubAddress
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed
from modpkg.core.oci_address import OciAddress
from modpkg.core.progress import Progress
from modpkg.core.system import append_descriptor
from modpkg.interop.contents import PICKLES, is_of_a_trainer, reason_to_leave
from modpkg.registry.hub_client import HubClient, open_hub
from modpkg.registry.hub_listing import HubFile, HubListing
from modpkg.registry.requests import abandon
from modpkg.release.data_names import problem_of_name
from modpkg.runtime.sentence_modules import modules_of

_AT_ONCE = 4
_KEPT_DAYS = 7
_WEIGHTS = ".safetensors"
_INDEX = f"{_WEIGHTS}.index.json"


class Downloaded(Struct, frozen=True):
    """A repository's files on this machine."""

    folder: Path
    address: HubAddress
    """Pinned to the commit that they are from."""
    left: tuple[str, ...]
    """What was left out, each with its reason."""
    source: Path
    """What to import: the folder, or the one file of an adapter of another saver."""
    is_adapter: bool
    """Whether it was taken as an adapter, and not as a whole model."""
    listing: HubListing
    """All files of the repository, as the hub lists them."""
    fetched: int
    """Bytes of files that came, without those of an interrupted download before."""


@contextlib.contextmanager
def downloaded(
    address: HubAddress, *, adapter: bool | None, progress: Progress | None = None
) -> Iterator[Downloaded]:
    """Yield what an import takes of a repository; it is removed when the block succeeds.

    Args:
        address: The repository, at the commit that its revision is now.
        adapter: Whether an adapter is imported, and not a whole model; None for what transformers
            takes it for: an adapter where it has an ``adapter_config.json``.
        progress: Gets the bytes that come.

    Raises:
        ConversionError: It has nothing that is imported so: only pickles, say.
        NotFound, RegistryUnreachable: The hub has it not, or does not give it.
        IntegrityError: A file is not what the hub lists.
        InstallError: There is not enough disk space.
        MissingExtra: `huggingface_hub` is not installed.
    """
    progress = progress or Progress()
    remove_old_downloads()
    with open_hub("Importing from a hub", progress) as client:
        listing = client.listing(address)
        folder = _folder_of(listing.address)
        with file_lock(folder.with_name(f"{folder.name}.lock"), exclusive=True):
            make_folder(folder)
            fetch = _Fetch(client, listing, folder, progress)
            if adapter is None:
                adapter = any(file.path == ADAPTER_CONFIG for file in listing.files)
            chosen = _Choice(listing, fetch, adapter=adapter)
            fetch.files(chosen.files())
            yield Downloaded(
                folder,
                listing.address,
                chosen.left(),
                chosen.source(folder),
                is_adapter=adapter,
                listing=listing,
                fetched=sum(fetch.came),
            )
            remove_tree(folder)
    with contextlib.suppress(OSError):
        folder.with_name(f"{folder.name}.lock").unlink()


def _folder_of(address: HubAddress) -> Path:
    name = f"{address.repository.replace('/', '--')}@{address.revision}"
    return home() / "downloads" / name


def remove_old_downloads() -> None:
    """Remove what imports left that nobody went on with."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(home() / "downloads"):
            if time.time() - entry.stat().st_mtime > _KEPT_DAYS * 24 * 3600:
                shutil.rmtree(entry.path, ignore_errors=True)


class _Choice:
    """Which files of a repository an import takes."""

    def __init__(self, listing: HubListing, fetch: _Fetch, *, adapter: bool) -> None:
        self._listing = listing
        self._fetch = fetch
        self._adapter = adapter
        self._by_path = {file.path: file for file in listing.files}
        self._left: dict[str, list[str]] = {}
        for path in listing.unsafe:
            self._leave(path, "a path that no release may have")

    def files(self) -> list[HubFile]:
        """Return the files to fetch, and fetch those that decide about the others.

        Raises:
            ConversionError: It has no weights that are imported.
        """
        weights = self._adapter_weights() if self._adapter else self._model_weights()
        parts = self._parts()
        weights += [
            path
            for path in self._by_path
            if path.endswith(_WEIGHTS) and any(path.startswith(f"{part}/") for part in parts)
        ]
        folders = {path.rpartition("/")[0] for path in self._by_path} - {""}
        foreign = {
            folder: reason
            for folder in sorted({folder.partition("/")[0] for folder in folders})
            if not any(f"{part}/".startswith(f"{folder}/") for part in parts)
            if (reason := self._foreign(folder)) is not None
        }
        for folder, reason in foreign.items():
            self._leave(f"{folder}/", reason)
        chosen = [self._by_path[path] for path in weights]
        for path, file in self._by_path.items():
            if path in weights or ("/" in path and path.partition("/")[0] in foreign):
                continue
            if (reason := self._reason(file)) is not None:
                self._leave(path, reason)
            else:
                chosen.append(file)
        return chosen

    def source(self, folder: Path) -> Path:
        """Return what to import of the folder."""
        alone = self._adapter and ADAPTER_CONFIG not in self._by_path
        return folder / self._adapter_weights()[0] if alone else folder

    def left(self) -> tuple[str, ...]:
        """Return what is left out, each with its reason."""
        return tuple(f"left out: {listed(paths)} ({why})" for why, paths in self._left.items())

    def _leave(self, path: str, reason: str) -> None:
        self._left.setdefault(reason, []).append(path)

    def _reason(self, file: HubFile) -> str | None:
        """Return why a file is not taken; None if it is."""
        name = file.path.rpartition("/")[2]
        if name.endswith(_WEIGHTS):
            return "not the weights that its files name"
        if is_of_a_trainer(name):
            return "what a trainer left"
        if any(fnmatchcase(name, pattern) for pattern in PICKLES):
            return "a pickle, which can run code when it is read"
        if problem_of_name(file.path) is not None:
            return "not of the kinds of files that a release holds"
        if file.size > bounds.SMALL_FILE_BYTES:
            return f"over {human_bytes(bounds.SMALL_FILE_BYTES)}"
        return None

    def _foreign(self, folder: str) -> str | None:
        inside = [p.rpartition("/")[2] for p in self._by_path if p.startswith(f"{folder}/")]
        return reason_to_leave(inside)

    def _refuse(self, reason: str) -> ConversionError:
        return ConversionError("M801", path=self._listing.address, reason=reason)

    def _read(self, path: str) -> dict[str, object]:
        """Return a JSON file of the repository, which is fetched; nothing if it has none."""
        if (file := self._by_path.get(path)) is None or self._reason(file) is not None:
            return {}
        self._fetch.files([file])
        return read_json(self._fetch.folder / path)

    def _parts(self) -> list[str]:
        """Return the folders of modules of sentence-transformers."""
        if MODULES not in self._by_path:
            return []
        self._fetch.files([self._by_path[MODULES]])
        found = modules_of(self._listing.address.name, self._fetch.folder)
        return [part for _, part in found if part]

    def _at_top(self, *endings: str) -> list[str]:
        return sorted(p for p in self._by_path if "/" not in p and p.endswith(endings))

    def _adapter_weights(self) -> list[str]:
        there = self._at_top(_WEIGHTS)
        mlx = "adapters.safetensors"
        if ADAPTER_WEIGHTS in there:
            return [ADAPTER_WEIGHTS]
        if mlx in there and ADAPTER_CONFIG in self._by_path:
            return [mlx]
        if ADAPTER_CONFIG not in self._by_path and CONFIG in self._by_path:
            raise self._refuse(
                f"it has no {ADAPTER_CONFIG}; 'modpkg import hf {self._listing.address}' takes a "
                "whole model"
            )
        if len(there) == 1:
            return there
        if there:
            raise self._refuse(
                f"it has several adapters ({listed(there)}); download the one that you want and "
                "import it by its file"
            )
        raise self._without_weights("PEFT", "save_pretrained(…, safe_serialization=True)")

    def _model_weights(self) -> list[str]:
        there = self._at_top(_WEIGHTS)
        if CONFIG not in self._by_path:
            if ADAPTER_CONFIG in self._by_path:
                raise self._refuse(
                    "it is an adapter (import it so: modpkg import peft "
                    f"{self._listing.address} --base NAME)"
                )
            if there:
                raise self._refuse("it has no config.json")
        if not there:
            raise self._without_weights("transformers", "save_pretrained(…)")
        named = self._read(CONFIG).get("transformers_weights")
        indices = [path for path in self._at_top(_INDEX) if path in (WEIGHTS_INDEX, named)]
        if isinstance(named, str) and named in there:
            return [named]
        if not indices and WEIGHTS not in there:
            indices = self._at_top(_INDEX)[:1]
        for index in indices:
            table = self._read(index).get("weight_map")
            shards = set(table.values()) if isinstance(table, dict) else set()
            wanted = [path for path in there if path in shards]
            if wanted or WEIGHTS not in there:
                return wanted or there
        return [WEIGHTS] if WEIGHTS in there else there

    def _without_weights(self, tool: str, save: str) -> ConversionError:
        """Return the error for a repository without safetensors."""
        pickles = [path for pattern in PICKLES for path in self._at_top(pattern.removeprefix("*"))]
        if pickles:
            return self._refuse(
                f"its weights are pickles ({listed(sorted(pickles))}), which can run code when "
                f"they are read, so that nothing of it was fetched; ask its owner for safetensors, "
                f"or, if you trust it, load it with {tool}, {save}, and import that folder"
            )
        if gguf := self._at_top(".gguf"):
            return self._refuse(
                f"its weights are GGUF ({listed(gguf)}); download one (hf download "
                f"{self._listing.address.repository} {gguf[0]} --local-dir .) and import it with "
                "'modpkg import gguf'"
            )
        return self._refuse("it has no *.safetensors")


class _Fetch:
    """The download of files of one repository into a folder."""

    def __init__(
        self, client: HubClient, listing: HubListing, folder: Path, progress: Progress
    ) -> None:
        self.folder = folder
        self.came: list[int] = []
        """Bytes that came, of each file, as threads end."""
        self._client = client
        self._listing = listing
        self._progress = progress

    def files(self, files: Collection[HubFile]) -> None:
        """Fetch files that are not there; each is verified by the digest that the hub lists.

        Raises:
            NotFound, RegistryUnreachable, IntegrityError: One cannot be had as it is listed.
            InstallError: There is not enough disk space.
        """
        missing = [file for file in files if not (self.folder / file.path).is_file()]
        self._check_space(missing)
        if len(missing) > 1:
            self._progress.stage(f"Fetching {self._listing.address.repository}")
            self._progress.total(sum(file.size for file in missing))
        for file in missing:
            make_folder((self.folder / file.path).parent, within=self.folder)
        pool = ThreadPoolExecutor(_AT_ONCE, "modpkg-hub")
        try:
            _all(pool, self._file, sorted(missing, key=lambda file: -file.size))
        except (KeyboardInterrupt, SystemExit):
            abandon()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_space(self, files: Sequence[HubFile]) -> None:
        have = sum(_size(self._partial(file)) for file in files)
        need = sum(file.size for file in files) - have
        free = shutil.disk_usage(self.folder).free
        if need > max(free - bounds.DISK_RESERVE, 0):
            raise disk_full(self.folder, human_bytes(need), reserve=bounds.DISK_RESERVE)

    def _partial(self, file: HubFile) -> Path:
        place = hashlib.sha256(file.path.encode()).hexdigest()[:16]  # two files can be equal
        return self.folder / f".{place}-{file.digest}.part"

    def _file(self, file: HubFile) -> None:
        partial = self._partial(file)
        state = hashlib.sha256() if file.is_large else git_blob_hash(file.size)
        have = _size(partial)
        if have > file.size:
            partial.unlink()
            have = 0
        if have:
            for chunk in file_chunks(partial):
                state.update(chunk)
            self._progress.advance(have)
        with disk_errors(self.folder, partial), open(append_descriptor(partial), "wb") as out:
            if have < file.size:
                count = self._append(file, have, out.write, state.update)
                self.came.append(count)
                have += count
            out.flush()
            os.fsync(out.fileno())
        if have != file.size:
            found = f"has {have:,} bytes" if have < file.size else f"has over {file.size:,} bytes"
            raise self._other(file, found, f"{file.size:,}")
        if state.hexdigest() != file.digest:
            raise self._other(file, f"has the digest {state.hexdigest()}", file.digest)
        rename(partial, self.folder / file.path)

    def _other(self, file: HubFile, found: str, wanted: str) -> IntegrityError:
        """Return the error for a file that is not as it is listed, whose bytes are removed."""
        self._partial(file).unlink()
        address = self._listing.address
        return IntegrityError("M864", path=file.path, address=address, found=found, listed=wanted)

    def _append(
        self,
        file: HubFile,
        start: int,
        write: Callable[[bytes], int],
        update: Callable[[bytes], None],
    ) -> int:
        """Append what is missing of a file; return its bytes, at most one more than are listed."""
        address = self._listing.address.at(self._listing.address.revision, file.path)
        count = 0
        for chunk in self._client.stream(address, start):
            if start + count + len(chunk) > file.size:
                return file.size - start + 1
            write(chunk)
            update(chunk)
            count += len(chunk)
            self._progress.advance(len(chunk))
        return count


def _all(
    pool: ThreadPoolExecutor, work: Callable[[HubFile], None], files: Sequence[HubFile]
) -> None:
    for _ in pool.map(work, files):
        pass


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def named_by(address: HubAddress | OciAddress, folder: Path) -> Iterator[None]:
    """Let errors about a folder name the address that it is from."""
    try:
        yield
    except ModpkgError as error:
        if error.values.get("path") != folder or error.code != "M801":
            raise
        raise ConversionError("M801", path=address, reason=error.values["reason"]) from None
