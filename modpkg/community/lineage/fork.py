"""``modpkg fork``: a module project that begins as another module's release, tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.filenames import ADAPTER_CONFIG, MANIFEST, REPORT
from modpkg.core.files import copy_file, make_folder, safe_path, write_atomically
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.environment.models import manifest_of
from modpkg.interop.module_project import new_project
from modpkg.interop.weights import write_weights
from modpkg.manifest.normal import manifest_text
from modpkg.manifest.read import parse_manifest
from modpkg.release.content import is_left_out

FIRST = "1.0.0"
"""The version that a fork begins with: its numbers are its own."""
_GLOB = re.compile(r"([*?\[])")


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


def fork(module: InstalledModule, name: ModuleName, out: Path) -> Forked:
    """Write a release as the project of another module, with its origin under ``[provenance]``.

    Files and tensors are the release's, byte for byte: what is built of it refers to all of them
    where the registry has them. The report of its tests stays behind: it tells of the origin.

    Raises:
        ConversionError: there is something in ``out``. InstallError: nothing remains.
        RecordError, ManifestError, InvalidValue: the release is not sound.
    """
    files = {
        safe_path(path): blob
        for path, blob in module.files.items()
        if path not in (REPORT, MANIFEST)
    }
    with new_project(out) as staged:
        for path, blob in files.items():
            make_folder((staged / path).parent)
            copy_file(blob, staged / path)
        if module.tensors:
            stem = "adapter_model" if ADAPTER_CONFIG in files else "model"
            write_weights(module.tensors, Path(), staged, stem=stem)
        text = manifest_text(_form(module, name, sorted(files)))
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


def _form(module: InstalledModule, name: ModuleName, files: list[str]) -> dict[str, Any]:
    """Return the normal form of the fork's manifest."""
    manifest_of(module.record)
    form = {key: value for key, value in module.record.manifest.items() if key != "files"}
    origin = {"name": module.name, "relation": "forked", "version": module.version}
    form["module"] = form["module"] | {"name": str(name), "version": FIRST}
    form["provenance"] = {"built-from": [origin]}
    if any(map(is_left_out, files)):
        named = [_GLOB.sub(r"[\1]", path) for path in files]
        form["files"] = {"include": [*named, "*.safetensors"] if module.tensors else named}
    return form
