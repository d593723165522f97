"""What is compared or merged: a release, an installed model, or a directory of weights."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from msgspec import Struct, structs

from modpkg.core.digests import digest_file
from modpkg.core.errors import InstallError, ReleaseError
from modpkg.core.filenames import MANIFEST, MODEL_RECORD
from modpkg.core.installed import InstalledModel, InstalledModule, TensorRef, read_model
from modpkg.core.names import module_name, parse_version
from modpkg.core.progress import Progress
from modpkg.environment.generations import Environment
from modpkg.environment.project import Project, find_project
from modpkg.environment.registries import Registries
from modpkg.environment.releases import fetch_release
from modpkg.interop.hf import NOT_TAKEN
from modpkg.manifest.read import read_manifest
from modpkg.release.content import Content, check_data, collect
from modpkg.release.packing import folders_apart, tensors_of
from modpkg.store.store import Store

_RELEASE = re.compile(r"^(?P<name>[^=@/\\]+)==(?P<version>[^=@/\\]+)$")
_GENERATION = re.compile(r"^(?P<name>[^=@/\\]+)@(?P<number>\d{1,9})$")


class Side(Struct, frozen=True):
    """One side of a comparison."""

    label: str
    tensors: dict[str, TensorRef]
    """``file`` is absolute."""
    files: dict[str, Path] = {}
    """The other files, by path."""
    name: str | None = None
    """Of the module, where it is one."""
    version: str | None = None


def find_side(
    text: str,
    store: Store,
    progress: Progress,
    *,
    user: bool = False,
    registry: str | None = None,
    offline: bool = False,
) -> Side:
    """Return what a person named: ``NAME==VERSION``, ``NAME``, ``NAME@GENERATION`` or a folder.

    A release is fetched as far as the store lacks it. ``NAME`` is a model of the current
    environment, and ``NAME@3`` the same model as generation 3 has it. A folder is one with
    safetensors files: of a module project, or as transformers and PEFT save them.

    Raises:
        ReleaseError: there is no such thing. Everything that fetching can raise.
    """
    project = find_project(user=user)
    if found := _RELEASE.match(text):
        name, version = module_name(found["name"]), str(parse_version(found["version"]))
        registries = Registries(
            project.parse(), store.blobs, default=registry, offline=offline, warn=progress.warn
        )
        module = fetch_release(name, version, registries, store, progress)
        return side_of(module)
    if Path(text).is_dir():
        return _of_folder(text, Path(text).absolute(), progress)
    if found := _GENERATION.match(text):
        name, number = module_name(found["name"]), int(found["number"])
        model = _installed(project, name, number)
        return _of_model(project, model, number, f"generation {number}")
    if "/" in text or "\\" in text:
        raise ReleaseError("M804", what=text, reason="there is no such folder")
    model = _installed(project, module_name(text), None)
    return _of_model(project, model, None, "installed")


def side_of(module: InstalledModule) -> Side:
    """Return a release as a side."""
    tensors = _absolute(module.tensors, Path())
    label = f"{module.name} {module.version}"
    return Side(label, tensors, dict(module.files), module.name, module.version)


def _of_model(project: Project, model: InstalledModel, number: int | None, how: str) -> Side:
    environment = Environment(project.environment)
    folder = environment.folder(number or environment.current_number() or 1)
    files = _below(folder / "models" / model.name)
    files.pop(MODEL_RECORD, None)
    return Side(f"{model.name} {model.version} ({how})", _packs(project, model), files)


def _installed(project: Project, name: str, number: int | None) -> InstalledModel:
    environment = Environment(project.environment)
    if number is None:
        number = environment.current_number()
    if number is None or number not in environment.numbers():
        whole = environment.numbers()
        raise ReleaseError(
            "M804",
            what=name,
            reason=f"{environment.root} has no generation {number or 1}"
            + (f"; it has {', '.join(map(str, whole))}" if whole else "; nothing is installed"),
        )
    generation = environment.generation(number)
    if name not in generation.models:
        raise InstallError(
            "M504",
            name=name,
            path=environment.root,
            hint=f"; to compare a release, name its version: {name}==1.0.0",
        )
    return read_model(environment.folder(number) / "models" / name)


def _packs(project: Project, model: InstalledModel) -> dict[str, TensorRef]:
    return _absolute(model.tensors, Environment(project.environment).packs)


def _absolute(tensors: dict[str, TensorRef], folder: Path) -> dict[str, TensorRef]:
    return {
        name: structs.replace(ref, file=str(folder.absolute() / ref.file))
        for name, ref in tensors.items()
    }


def _of_folder(text: str, folder: Path, progress: Progress) -> Side:
    """Return a folder: a module project's content, or all data files as a trainer left them."""
    name = version = None
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder / MANIFEST)
        content = collect(manifest)
        if manifest.module is not None:
            name, version = manifest.module.name, str(manifest.module.version)
    else:
        files = _below(folder)
        places = ("", *folders_apart(files))
        packs = [
            pack for place in places for pack in sorted((folder / place).glob("*.safetensors"))
        ]
        content = Content({pack.relative_to(folder).as_posix(): pack for pack in packs}, files)
    if not content.weights:
        raise ReleaseError("M804", what=folder, reason="it has no *.safetensors")
    progress.stage(f"Reading {folder.name}")
    progress.total(sum(pack.stat().st_size for pack in content.weights.values()))
    tensors: dict[str, TensorRef] = {}
    for tensor, part in tensors_of(content).items():
        tensors[tensor] = TensorRef(
            file=str(part.path),
            offset=part.offset,
            length=part.length,
            dtype=part.dtype,
            shape=list(part.shape),
            digest=digest_file(part.path, part.offset, part.length),
        )
        progress.advance(part.length)
    return Side(text, tensors, content.files, name, version)


def _below(folder: Path) -> dict[str, Path]:
    """Return the data files in a folder, by path; what trainers leave beside them stays out."""
    files = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        real = path.resolve()  # a hub's cache holds links to its blobs
        if hidden or not real.is_file() or any(relative.match(pattern) for pattern in NOT_TAKEN):
            continue
        if path.suffix == ".safetensors":
            continue
        with contextlib.suppress(ReleaseError):
            check_data(real, relative.as_posix())
            files[relative.as_posix()] = real
    return files
