"""``modpkg fork``: a module project that starts as another module's release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.community.modules.reference import find_line, parse_reference
from modpkg.core.errors import UsageError
from modpkg.core.filenames import ADAPTER_CONFIG, MANIFEST, REPORT
from modpkg.core.files import make_folder, write_atomically
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.records import ACTING_KINDS
from modpkg.core.tree import copy_verified
from modpkg.environment.models import manifest_of
from modpkg.environment.named_release import take_named
from modpkg.environment.releases import fetch_line
from modpkg.environment.workspace import Workspace
from modpkg.interop.module_project import new_project
from modpkg.interop.weights import write_weights
from modpkg.manifest.normal import manifest_text
from modpkg.manifest.read import parse_manifest
from modpkg.release.content import check_data, check_path

FIRST = "1.0.0"
"""The first version of a fork."""


class Forked(Struct, frozen=True):
    """A project that a fork wrote."""

    folder: Path
    name: str
    version: str
    origin: str
    release: str
    """Digest of the origin's release."""
    tensors: int
    files: int


def fork(origin: str, name: ModuleName, out: Path, workspace: Workspace) -> Forked:
    """Fork ``NAME==VERSION``, ``NAME#7`` or the newest release of ``NAME``, as the module ``name``.

    Raises:
        NotFound: There is no such release.
        UsageError: `name` is the origin's own name.
        TrustError: The project may not have it; see `take_named`.
        What fetching can raise, and `write_fork`.
    """
    line = find_line(origin, workspace.registries)
    if line.name == name:
        raise UsageError("M901", message=f"Choose another name for the fork than {name}.")
    reference = parse_reference(origin)
    if reference.candidate is None:
        take_named(workspace, line, is_explicit=reference.version is not None)
    module = fetch_line(workspace, line)
    workspace.progress.stage(f"Writing {name}")
    with workspace.store.lock():
        return write_fork(module, name, out)


def write_fork(module: InstalledModule, name: ModuleName, out: Path) -> Forked:
    """Write a release as the project of another module, with its origin under ``[provenance]``.

    Files and tensors are the release's, byte for byte: what is built of it refers to all of them
    where the registry has them. The test report is left out: it is about the origin.

    Raises:
        ConversionError: ``out`` is not empty.
        InstallError: Writing failed; nothing remains.
        RecordError, ManifestError, InvalidValue: The release is malformed.
    """
    files = {
        check_path(path): blob
        for path, blob in module.files.items()
        if path not in (REPORT, MANIFEST)
    }
    with new_project(out) as staged:
        for path, blob in files.items():
            check_data(blob, path)
            make_folder((staged / path).parent)
            what = f"{path} of {module.name}"
            copy_verified(blob, staged / path, module.record.files.get(path), what)
        if module.tensors:
            stem = "adapter_model" if ADAPTER_CONFIG in files else "model"
            write_weights(module.tensors, Path(), staged, stem=stem)
        text = manifest_text(_normal_form(module, name))
        parse_manifest(text, staged / MANIFEST)
        write_atomically(staged / MANIFEST, text.encode())
    return Forked(
        folder=out,
        name=name,
        version=FIRST,
        origin=f"{module.name} {module.version}",
        release=module.release,
        tensors=len(module.tensors),
        files=len(files),
    )


def _normal_form(module: InstalledModule, name: ModuleName) -> dict[str, Any]:
    """Return the normal form of the fork's manifest."""
    manifest_of(module.record)
    form = {key: value for key, value in module.record.manifest.items() if key != "files"}
    origin = {"name": module.name, "relation": "forked", "version": module.version}
    form["module"] = form["module"] | {"name": str(name), "version": FIRST}
    if module.record.kind in ACTING_KINDS and module.record.expects:
        base = module.record.provenance.built_from[0]
        form["module"]["against"] = f"{base.name}=={base.version}"
    form["provenance"] = {"built-from": [origin]}
    return form
