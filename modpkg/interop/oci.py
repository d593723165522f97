"""Installed models in an OCI registry: a locked assembly, pushed as what transformers loads.

What is pushed is the folder that ``export --to hf`` writes, and below ``assembly/`` a manifest and
a lock: a project that installs the same model again from where its modules are published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.core.digests import Digest, digest_bytes, digest_file, file_chunks
from modpkg.core.errors import ConversionError
from modpkg.core.filenames import CONFIG, MANIFEST
from modpkg.core.files import make_folder, write_atomically
from modpkg.core.home import exports_folder
from modpkg.core.installed import InstalledModel
from modpkg.core.jsonfile import read_json
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.oci_address import OciAddress
from modpkg.core.packs import read_pack_header
from modpkg.core.progress import Progress
from modpkg.environment.workspace import Workspace
from modpkg.interop.export_card import Ingredient
from modpkg.interop.hf import export_hf, read_exportable
from modpkg.interop.locked_assembly import locked_assembly
from modpkg.interop.oci_artifact import (
    ASSEMBLY,
    WEIGHTS_ENDING,
    ModelDescriptor,
    OciLayer,
    model_config,
    model_manifest,
    whole_name,
)
from modpkg.manifest.normal import normal_form
from modpkg.manifest.schema import Manifest, Task
from modpkg.registry.oci_client import AT_ONCE, OciClient
from modpkg.registry.oci_mounts import known_sources, note_pushed
from modpkg.runtime.installed import find_model


class Exported(Struct, frozen=True):
    """A model that was pushed."""

    address: OciAddress
    """By the digest of its manifest."""
    files: list[str]
    uploaded: int
    """Bytes that the registry did not have."""


def export_oci(
    workspace: Workspace,
    name: str,
    address: OciAddress,
    *,
    card: str | None = None,
    made_of: Sequence[Ingredient] = (),
) -> Exported:
    """Push an installed model to an OCI registry; what is there already is not sent.

    Args:
        workspace: The workspace of its environment.
        name: Its name.
        address: Where it goes, with its tag.
        card: Its model card, in place of the base's.
        made_of: The modules that it was made of, for their licences.

    Raises:
        ConversionError: The model reads virtual tokens, or the address has a digest.
        RegistryUnreachable: The registry cannot be used, or does not allow it.
        InstallError: The model is not installed, or the disk is full.
        ModpkgError: Composing failed.
    """
    if address.digest is not None:
        reason = "a digest is the content's own; name a tag in place of it"
        raise ConversionError("M805", name=name, form=str(address), reason=reason)
    folder, packs = find_model(name, workspace)
    model = read_exportable(folder, "oci")
    client = OciClient(address, writes=True)
    before = client.tagged()  # without a login it ends here
    make_folder(exports_folder())
    staged = temporary_sibling(exports_folder() / model.name)
    try:
        paths = export_hf(folder, packs, staged, card=card)
        tensors = _headers(staged, paths)
        project = locked_assembly(workspace, model, whole=tensors.keys() == model.tensors.keys())
        make_folder(staged / ASSEMBLY)
        for file, data in project.items():
            write_atomically(staged / ASSEMBLY / file, data)
        paths = sorted([*paths, *(f"{ASSEMBLY}/{file}" for file in project)])
        layers = _layers(staged, paths, workspace.progress)
        descriptor = ModelDescriptor(
            name=model.name,
            version=model.version,
            licenses=sorted({module.license for module in made_of}) or None,
        )
        config = model_config(
            descriptor,
            layers,
            family=_family(staged),
            dtypes={dtype for dtype, _ in tensors.values()},
            parameters=sum(prod(shape) for _, shape in tensors.values()),
        )
        manifest = model_manifest(config, layers, descriptor, _task(model))
        uploaded = _push(client, staged, layers, config, workspace.progress)
    finally:
        discard(staged)
    digest = digest_bytes(manifest)
    if before != digest:
        client.push_manifest(manifest)
        uploaded += len(manifest)
    return Exported(address.pinned(digest), paths, uploaded)


def _task(model: InstalledModel) -> dict[str, Any] | None:
    """Return a model's task in its normal form; None if it has none."""
    if model.task is None:
        return None
    manifest = Manifest(path=Path(MANIFEST), task=msgspec.convert(model.task, Task))
    form: dict[str, Any] = normal_form(manifest)["task"]
    return form


def _headers(folder: Path, paths: Sequence[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of the tensors in a folder, by their names in the whole model."""
    found = {}
    for path in paths:
        if path.endswith(WEIGHTS_ENDING):
            for name, tensor in read_pack_header(folder / path).items():
                found[whole_name(path, name)] = (tensor.dtype, tensor.shape)
    return found


def _family(folder: Path) -> str | None:
    kind = read_json(folder / CONFIG).get("model_type") if (folder / CONFIG).exists() else None
    return kind if isinstance(kind, str) else None


def _layers(folder: Path, paths: Sequence[str], progress: Progress) -> list[OciLayer]:
    sizes = [(folder / path).stat().st_size for path in paths]
    progress.stage("Hashing")
    progress.total(sum(sizes))

    def layer(path: str, size: int) -> OciLayer:
        digest = digest_file(folder / path)
        progress.advance(size)
        return OciLayer(path, digest, size)

    with ThreadPoolExecutor(AT_ONCE, "modpkg-oci") as pool:
        return list(pool.map(layer, paths, sizes))


def _push(
    client: OciClient, folder: Path, layers: Sequence[OciLayer], config: bytes, progress: Progress
) -> int:
    """Push the blobs of an artifact, and return how many bytes of them were sent."""
    progress.stage("Pushing")
    progress.total(sum(layer.size for layer in layers) + len(config))
    blobs: dict[Digest, tuple[int, Callable[[int], Iterator[bytes]]]] = {
        layer.digest: (layer.size, partial(file_chunks, folder / layer.path)) for layer in layers
    }
    blobs[digest_bytes(config)] = (len(config), lambda start: iter((config[start:],)))
    sources = known_sources(client.address)
    client.mount_from({digest: sources[digest] for digest in blobs.keys() & sources.keys()})

    def push(digest: Digest) -> int:
        size, read = blobs[digest]
        sent = client.push_blob(digest, size, read)
        progress.advance(size)
        return size if sent else 0

    sent = sum(client.in_parallel(push, sorted(blobs, key=lambda digest: -blobs[digest][0])))
    note_pushed(client.address, blobs.keys())
    return sent
