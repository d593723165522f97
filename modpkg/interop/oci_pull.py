"""Models of an OCI registry: pulled, verified, and imported as modules.

Every file is verified by the digest that the manifest has of it, and the weights by the digest
that the lock below ``assembly/`` has of the composed result. What an interrupted pull has fetched
is kept below modpkg's home, so that the next one goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import Digest, digest_bytes, digest_file, file_chunks
from modpkg.core.errors import (
    ConversionError,
    IntegrityError,
    InvalidValue,
    ManifestError,
    ModpkgError,
)
from modpkg.core.file_lock import file_lock
from modpkg.core.filenames import LOCK_NAME, MANIFEST
from modpkg.core.files import (
    disk_errors,
    disk_full,
    human_bytes,
    make_folder,
    remove_tree,
    rename,
    share_file,
    write_atomically,
)
from modpkg.core.home import home
from modpkg.core.interface import weights_digest
from modpkg.core.names import listed
from modpkg.core.oci_address import OciAddress
from modpkg.core.packs import read_pack_header
from modpkg.core.progress import Progress
from modpkg.core.records import TouchedTensor
from modpkg.core.regular_file import read_file
from modpkg.core.system import append_descriptor
from modpkg.interop.hf import import_hf
from modpkg.interop.hub_download import remove_old_downloads
from modpkg.interop.oci_artifact import (
    ASSEMBLY,
    WEIGHTS_ENDING,
    ModelDescriptor,
    OciLayer,
    read_artifact,
    read_model_config,
    whole_name,
)
from modpkg.manifest.normal import manifest_text, normal_form
from modpkg.manifest.read import parse_manifest, read_manifest
from modpkg.manifest.values import parse_license
from modpkg.registry.oci_client import OciClient
from modpkg.release.data_names import problem_of_name
from modpkg.resolve.lock import parse_lock

_PROJECT = {
    f"{ASSEMBLY}/{MANIFEST}": bounds.MANIFEST_BYTES,
    f"{ASSEMBLY}/{LOCK_NAME}": bounds.LOCK_BYTES,
}
"""The project that installs a model again, and how many bytes its files have at most."""

Parsed = TypeVar("Parsed")


class Pulled(Struct, frozen=True):
    """An artifact's files on this machine, verified."""

    folder: Path
    """The model, as transformers loads it."""
    address: OciAddress
    """By its digest."""
    descriptor: ModelDescriptor
    project: Mapping[str, bytes]
    """By name, the manifest and the lock that install it again; none if it has none."""
    left: tuple[str, ...]
    """What was left out, each with its reason."""
    task: dict[str, Any] | None
    """The model's task, not validated; None where none is named."""


@contextlib.contextmanager
def pulled(address: OciAddress, *, progress: Progress | None = None) -> Iterator[Pulled]:
    """Yield a model of an OCI registry; its files are removed when the block succeeds.

    Raises:
        NotFound, RegistryUnreachable: The registry has it not, or does not give it.
        ConversionError: It is no model, or has what cannot be taken.
        IntegrityError: A file is not what the manifest names, or the weights are not those that
            the lock has.
        InstallError: There is not enough disk space.
    """
    progress = progress or Progress()
    remove_old_downloads()
    client = OciClient(address)
    manifest, stated = client.manifest()
    artifact = read_artifact(manifest, stated, address)
    pinned = address.pinned(digest_bytes(manifest))
    chosen, left = _chosen(artifact.layers)
    told_left = [f"left out: {listed(paths)} ({why})" for why, paths in left.items()]
    if artifact.left:
        told_left.append(f"left out: {listed(artifact.left)} (code)")
    if artifact.config.size > bounds.OCI_MANIFEST_BYTES:
        raise ConversionError("M801", path=address, reason="its config is too large")
    folder = home() / "downloads" / f"oci--{pinned.digest}".replace(":", "-")
    with file_lock(folder.with_name(f"{folder.name}.lock"), exclusive=True):
        make_folder(folder)
        config = OciLayer("config", Digest(artifact.config.digest), artifact.config.size)
        pull = _Pull(OciClient(pinned), folder, progress)
        pull.files([config, *chosen])
        said = read_model_config(pull.read(config, bounds.OCI_MANIFEST_BYTES)).descriptor
        model = folder / "model"
        remove_tree(model)  # of a pull that was interrupted
        project = {}
        for layer in chosen:
            if (most := _PROJECT.get(layer.path)) is not None:
                project[layer.path.rpartition("/")[2]] = pull.read(layer, most)
            else:
                pull.lay_out(layer, model)
        _check_project(pinned, model, [layer.path for layer in chosen], project)
        yield Pulled(model, pinned, said, project, tuple(told_left), artifact.task)
        remove_tree(folder)
    with contextlib.suppress(OSError):
        folder.with_name(f"{folder.name}.lock").unlink()


def _chosen(layers: Sequence[OciLayer]) -> tuple[list[OciLayer], dict[str, list[str]]]:
    """Return the files to pull, and by reason those that are left out."""
    chosen, left = [], dict[str, list[str]]()
    for layer in layers:
        reason = None
        if layer.path in _PROJECT:
            if layer.size > _PROJECT[layer.path]:
                reason = f"over {human_bytes(_PROJECT[layer.path])}"
        elif problem_of_name(layer.path) is not None:
            reason = "not of the kinds of files that a release holds"
        elif layer.size > bounds.SMALL_FILE_BYTES and not layer.path.endswith(WEIGHTS_ENDING):
            reason = f"over {human_bytes(bounds.SMALL_FILE_BYTES)}"
        if reason is None:
            chosen.append(layer)
        else:
            left.setdefault(reason, []).append(layer.path)
    return chosen, left


class _Pull:
    """The download of an artifact's blobs into a folder, by their digests."""

    def __init__(self, client: OciClient, folder: Path, progress: Progress) -> None:
        self._client = client
        self._folder = folder
        self._progress = progress

    def files(self, layers: Sequence[OciLayer]) -> None:
        """Fetch what is not there; each blob is verified.

        Raises:
            NotFound, RegistryUnreachable, IntegrityError: One cannot be had as it is named.
            InstallError: There is not enough disk space.
        """
        by_digest = {layer.digest: layer for layer in layers}
        missing = [layer for layer in by_digest.values() if not self._whole(layer).is_file()]
        need = sum(layer.size - _size(self._partial(layer)) for layer in missing)
        need += sum(layer.size for layer in layers) - sum(one.size for one in by_digest.values())
        free = shutil.disk_usage(self._folder).free
        if need > max(free - bounds.DISK_RESERVE, 0):
            raise disk_full(self._folder, human_bytes(need), reserve=bounds.DISK_RESERVE)
        self._progress.stage("Pulling")
        self._progress.total(sum(layer.size for layer in missing))
        self._client.in_parallel(self._fetch, sorted(missing, key=lambda layer: -layer.size))

    def read(self, layer: OciLayer, most: int) -> bytes:
        """Return the bytes of a fetched file."""
        return read_file(self._whole(layer), most)

    def lay_out(self, layer: OciLayer, folder: Path) -> None:
        """Give a fetched file its name in the model's folder."""
        target = folder / layer.path
        make_folder(target.parent, within=self._folder)
        share_file(self._whole(layer), target, within=self._folder)

    def _whole(self, layer: OciLayer) -> Path:
        return self._folder / layer.digest.replace(":", "-")

    def _partial(self, layer: OciLayer) -> Path:
        return self._folder / f".{layer.digest.replace(':', '-')}.part"

    def _fetch(self, layer: OciLayer) -> None:
        """Fetch a blob, from where an earlier pull was interrupted.

        If that turns out to be other bytes, it is fetched from its beginning.
        """
        resumed = _size(self._partial(layer)) > 0
        try:
            self._fetched(layer)
        except IntegrityError:
            if not resumed:
                raise
            self._fetched(layer)

    def _fetched(self, layer: OciLayer) -> None:
        partial_file = self._partial(layer)
        have, state = _size(partial_file), hashlib.sha256()
        if have > layer.size:
            partial_file.unlink()
            have = 0
        for chunk in file_chunks(partial_file) if have else ():
            state.update(chunk)
        self._progress.advance(have)
        with (
            disk_errors(self._folder, partial_file),
            open(append_descriptor(partial_file), "wb") as out,
        ):
            for chunk in self._client.chunks(layer.digest, layer.size, have):
                state.update(chunk)
                out.write(chunk)
                self._progress.advance(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if f"sha256:{state.hexdigest()}" != layer.digest:
            partial_file.unlink()
            found = f"has the digest sha256:{state.hexdigest()}"
            raise IntegrityError(
                "M893",
                what=layer.path,
                address=self._client.address,
                found=found,
                wanted=layer.digest,
            )
        rename(partial_file, self._whole(layer))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_project(
    address: OciAddress, folder: Path, paths: Sequence[str], project: Mapping[str, bytes]
) -> None:
    """Check that the weights are those that the lock has as the result.

    Raises:
        IntegrityError: They are others.
        ConversionError: A tensor is there twice, or the project is malformed.
    """
    if MANIFEST in project:
        _parsed(parse_manifest, project[MANIFEST], MANIFEST, address)
    if LOCK_NAME not in project:
        return
    lock = _parsed(parse_lock, project[LOCK_NAME], LOCK_NAME, address)
    for locked in lock.composed[:1]:
        found = {}
        for path in paths:
            if not path.endswith(WEIGHTS_ENDING):
                continue
            for name, tensor in read_pack_header(folder / path).items():
                if (whole := whole_name(path, name)) in found:
                    raise ConversionError("M801", path=address, reason=f"it has {whole} twice")
                digest = digest_file(folder / path, tensor.offset, tensor.length)
                found[whole] = TouchedTensor(tensor.dtype, list(tensor.shape), digest)
        if (result := weights_digest(found)) != locked.result:
            raise IntegrityError(
                "M893",
                what="the weights",
                address=address,
                found=f"have the digest {result}",
                wanted=f"{locked.result}, as its lock has {locked.model}",
            )


def _parsed(
    parse: Callable[[str, Path], Parsed], data: bytes, name: str, address: OciAddress
) -> Parsed:
    """Return a file of the project, parsed."""
    path = Path(ASSEMBLY, name)
    try:
        return parse(data.decode("utf-8", "replace"), path)
    except ModpkgError as error:
        reason = f"its {path.as_posix()} is malformed: {_reason_of(error)}"
        raise ConversionError("M801", path=address, reason=reason) from None


def _reason_of(error: ModpkgError) -> str:
    """Return what is wrong, without a remedy for files of the user's own."""
    values = error.values
    return str(values.get("reason") or values.get("message") or error).rstrip(".")


def import_oci(
    source: Pulled, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``base`` from a pulled model, and return warnings; see `import_hf`.

    The project that installs it again is written into the folder ``assembly``, which is no part of
    the module.

    Raises:
        ConversionError: The task is malformed.
        What `import_hf` raises.
    """
    warnings = import_hf(
        source.folder,
        out,
        name,
        version,
        license=license or _license_of(source.descriptor),
        imported_from=source.address,
    )
    try:
        form = normal_form(read_manifest(out / MANIFEST))
        if source.task is not None:
            form["task"] = source.task
        if source.project:
            form["files"] = {"exclude": sorted(_PROJECT)}
            make_folder(out / ASSEMBLY)
            for file, data in source.project.items():
                write_atomically(out / ASSEMBLY / file, data)
        text = manifest_text(form)
        try:
            parse_manifest(text, out / MANIFEST)
        except ManifestError as error:
            reason = f"the task that its manifest has is malformed: {_reason_of(error)}"
            raise ConversionError("M801", path=source.address, reason=reason) from None
        write_atomically(out / MANIFEST, text.encode())
    except BaseException:
        remove_tree(out)
        raise
    return [*warnings, *source.left]


def _license_of(descriptor: ModelDescriptor) -> str | None:
    """Return the licence that a config names; None if it names none that is one."""
    licenses = descriptor.licenses or []
    text = licenses[0] if len(licenses) == 1 else " AND ".join(f"({one})" for one in licenses)
    try:
        return parse_license(text) if text else None
    except InvalidValue:
        return None
