"""A release candidate: the next version of a base, as a module project."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from modpkg.core.filenames import MANIFEST, REPORT
from modpkg.core.files import safe_path
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.interop.module_project import new_project
from modpkg.interop.weights import write_weights
from modpkg.manifest.normal import manifest_text
from modpkg.manifest.read import parse_manifest

Origin = tuple[str, str, str]
"""Name, version and relation of a release that another is made from."""


def next_version(version: str) -> str:
    """Return the version after one: its last number raised.

    >>> next_version("1.0"), next_version("1.2.9")
    ('1.0.1', '1.2.10')
    """
    release = Version(version).release
    return ".".join(map(str, (*release[:2], 0, 0)[:2])) + f".{[*release, 0, 0][2] + 1}"


def write_candidate(
    base: InstalledModule,
    tensors: Mapping[str, TensorRef],
    files: Mapping[str, Path],
    out: Path,
    *,
    name: str,
    version: str,
    origins: Sequence[Origin],
) -> None:
    """Write a module project with the base's manifest, other weights and files.

    ``origins`` go under ``[provenance]``, sorted. Left out are a report of tests, which tells of
    other weights, and a manifest, which is the base's whatever a patch brings.

    Raises:
        ConversionError, InstallError: nothing remains. ManifestError.
    """
    normal: dict[str, Any] = dict(base.record.manifest)
    normal["module"] = {**normal["module"], "name": name, "version": version}
    built = [
        {"name": origin, "version": number, "relation": relation}
        for origin, number, relation in sorted(set(origins))
    ]
    normal["provenance"] = {"built-from": built}
    text = manifest_text(normal)
    with new_project(out) as staged:
        for path, file in sorted(files.items()):
            if path in (REPORT, MANIFEST):
                continue
            target = staged / safe_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            target.chmod(0o644)
        write_weights(tensors, Path(), staged)
        parse_manifest(text, staged / MANIFEST)
        (staged / MANIFEST).write_text(text)
