"""A release candidate: the next version of a base, as a module project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from modpkg.community.modules.view import ModuleView
from modpkg.core.filenames import MANIFEST, REPORT
from modpkg.core.files import copy_file, make_folder, write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.records import BuiltFrom
from modpkg.interop.module_project import new_project
from modpkg.interop.weights import write_weights
from modpkg.manifest.merge import merge_data
from modpkg.manifest.normal import manifest_text
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.schema import RememberedMerge
from modpkg.release.content import check_path

Origin = tuple[str, str, str]
"""Name, version and relation of a release that another is made from."""


def next_version(version: str) -> str:
    """Return the next patch version.

    >>> next_version("1.0"), next_version("1.2.9")
    ('1.0.1', '1.2.10')
    """
    release = Version(version).release
    return ".".join(map(str, (*release[:2], 0, 0)[:2])) + f".{[*release, 0, 0][2] + 1}"


def candidate_name(
    base: InstalledModule, name: str | None, version: str | None, after: Sequence[ModuleView] = ()
) -> tuple[ModuleName, str]:
    """Return the name and version of a module made from a base.

    Args:
        base: Its base.
        name: The chosen name; the base's if None.
        version: The chosen version. If None, the next one after the base's, and after those of
            releases of the base in ``after``.

    Raises:
        InvalidValue: Name or version is not valid.
    """
    chosen = module_name(name or base.name)
    if version is None:
        versions = [base.version, *(v.version for v in after if v.name == base.name and v.version)]
        version = next_version(str(max(map(parse_version, versions))))
    return chosen, str(parse_version(version))


def write_candidate(
    base: InstalledModule,
    tensors: Mapping[str, TensorRef],
    files: Mapping[str, Path],
    out: Path,
    *,
    name: str,
    version: str,
    origins: Sequence[Origin],
    parts: Sequence[BuiltFrom] = (),
    merge: RememberedMerge | None = None,
) -> None:
    """Write a module project with the base's manifest and other weights and files.

    What is made of a base that is composed has weights of its own, and no recipe. ``origins`` and
    the ``parts`` of such a base go under ``[provenance]``, sorted, and so does how it was merged. A
    test report is left out, as it is about other weights, and so is a manifest among ``files``: it
    is the base's.

    Raises:
        ConversionError: ``out`` is not empty.
        InstallError: Writing failed; nothing remains.
        ManifestError: The base's manifest is not valid under this name and version.
    """
    normal: dict[str, Any] = dict(base.record.manifest)
    normal["module"] = {**normal["module"], "name": name, "version": version}
    if normal.pop("compose", None) is not None:
        normal["module"]["kind"] = "base"
        normal = {k: v for k, v in normal.items() if k not in ("dependencies", "extras")}
    known = {(origin, number) for origin, number, _ in origins}
    more = [(p.name, p.version, "built") for p in parts if (p.name, p.version) not in known]
    built = [
        {"name": origin, "version": number, "relation": relation}
        for origin, number, relation in sorted({*origins, *more})
    ]
    normal["provenance"] = {"built-from": built}
    if merge is not None:
        normal["provenance"]["merge"] = merge_data(merge)
    text = manifest_text(normal)
    with new_project(out) as staged:
        for path, file in sorted(files.items()):
            if path in (REPORT, MANIFEST):
                continue
            target = staged / check_path(path)
            make_folder(target.parent)
            copy_file(file, target, mode=0o644)
        write_weights(tensors, Path(), staged)
        parse_manifest(text, staged / MANIFEST)
        write_atomically(staged / MANIFEST, text.encode())
