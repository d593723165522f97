"""What a person names: ``NAME==VERSION``, ``NAME#7``, ``NAME``, ``NAME@GENERATION`` or a folder."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from msgspec import Struct, structs

from modpkg.community.modules.composed import compose_release, is_composed
from modpkg.community.modules.view import (
    ModuleView,
    view_of_content,
    view_of_files,
    view_of_release,
)
from modpkg.core.errors import InstallError, ModpkgError, ReleaseError, TrustError, UsageError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG, MANIFEST, MODEL_RECORD, MODULES
from modpkg.core.installed import InstalledModel, InstalledModule, read_installed
from modpkg.core.jsonfile import read_json
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.environment.first_load import compose_at_load
from modpkg.environment.named_release import check_named, take_named
from modpkg.environment.registries import Registries
from modpkg.environment.releases import fetch_release
from modpkg.environment.tried_candidates import with_candidate
from modpkg.environment.workspace import Workspace
from modpkg.interop.contents import contents_of
from modpkg.interop.hub_blob import check_links
from modpkg.manifest.read import read_manifest
from modpkg.registry.candidates import read_candidate
from modpkg.registry.select import newest_release
from modpkg.release.checkpoint import checkpoint_of
from modpkg.release.content import Content, collect
from modpkg.release.packing import folders_apart
from modpkg.toml.node import hint

_RELEASE = re.compile(r"^(?P<name>[^=@/\\]+)==(?P<version>[^=@/\\]+)$")
_CANDIDATE = re.compile(r"^(?P<name>[^=@#/\\]+)#(?P<number>\d{1,9})$")
_GENERATION = re.compile(r"^(?P<name>[^=@/\\]+)@(?P<number>\d{1,9})$")


class Reference(Struct, frozen=True):
    """What a text names, before anything is looked up.

    With a version it is a release; with a candidate's number, that candidate; with a generation, an
    installed model of that generation. With none it is a folder, if there is one, else a name.
    """

    text: str
    stem: str
    """What stands before the version, number or generation."""
    version: str | None = None
    """Normalised."""
    generation: int | None = None
    candidate: int | None = None

    @property
    def name(self) -> ModuleName:
        """The module's name.

        Raises:
            InvalidValue: ``stem`` is not a valid name.
        """
        return module_name(self.stem)

    @property
    def can_be_name(self) -> bool:
        """Whether it has no separator of folders."""
        return "/" not in self.stem and "\\" not in self.stem


def parse_reference(text: str) -> Reference:
    """Return what a text names.

    >>> parse_reference("summarizer==2.1.0").version
    '2.1.0'
    >>> parse_reference("summarizer@3").generation
    3
    >>> parse_reference("summarizer#7").candidate
    7
    >>> parse_reference("./summarizer").can_be_name
    False

    Raises:
        InvalidValue: What follows ``==`` is not a version.
    """
    if matched := _RELEASE.match(text):
        return Reference(text, matched["name"], version=str(parse_version(matched["version"])))
    if matched := _CANDIDATE.match(text):
        return Reference(text, matched["name"], candidate=int(matched["number"]))
    if matched := _GENERATION.match(text):
        return Reference(text, matched["name"], generation=int(matched["number"]))
    return Reference(text, text)


def parse_release(text: str) -> tuple[ModuleName, str]:
    """Return the name and version of ``NAME==VERSION``; ``NAME@VERSION`` is accepted too.

    Raises:
        UsageError: `text` has no version.
        InvalidValue: The name or version is not valid.
    """
    reference = parse_reference(text if "==" in text else text.replace("@", "==", 1))
    if reference.version is None:
        raise UsageError("M901", message=f"Name a release as NAME==VERSION, not {text!r}.")
    return reference.name, reference.version


def parse_candidate(text: str) -> tuple[ModuleName, int]:
    """Return the name and number of ``NAME#7``.

    Raises:
        UsageError: `text` has no number.
        InvalidValue: The name is not valid.
    """
    reference = parse_reference(text)
    if reference.candidate is None:
        raise UsageError("M901", message=f"Name a candidate as NAME#7, not {text!r}.")
    return reference.name, reference.candidate


def find_line(text: str, registries: Registries) -> IndexLine:
    """Return the release that ``NAME==VERSION`` or ``NAME#7`` names, or the newest one of ``NAME``.

    Raises:
        NotFound: The registry has no such release, or no such candidate.
        InvalidValue: Name or version is not valid.
    """
    reference = parse_reference(text)
    registry = registries.of(reference.name)
    if reference.version is not None:
        return registry.line(reference.name, reference.version)
    if reference.candidate is not None:
        return read_candidate(registry, reference.name, reference.candidate).line
    line = newest_release(registry.index(reference.name), or_yanked=True)
    if line is None:
        raise registry.not_found(reference.name, "any")
    return line


def fetch_named(text: str, workspace: Workspace) -> InstalledModule:
    """Fetch the release that ``NAME==VERSION`` names.

    Raises:
        UsageError: `text` has no version.
        NotFound: The registry has no such release.
        TrustError: The project may not have it; see `check_named`.
        What fetching can raise.
    """
    name, version = parse_release(text)
    take_named(workspace, workspace.registries.of(name).line(name, version), is_explicit=True)
    return fetch_release(workspace, name, version)


def find_view(text: str, workspace: Workspace, *, is_taken: bool = True) -> ModuleView:
    """Return what a person named: ``NAME==VERSION``, ``NAME#7``, ``NAME``, ``NAME@3`` or a folder.

    ``NAME`` is a model of the current environment, and ``NAME@3`` the same model as generation 3
    has it. A folder is one with safetensors files: of a module project, or as transformers and
    PEFT save them. A release is fetched when its tensors are first located. ``is_taken`` says
    whether something is made of it: one that the project may not have is refused then, else a
    warning; see `check_named`.

    Raises:
        ReleaseError: There is no such folder, or it has no weights.
        InstallError: No such model is installed.
        InvalidValue: Name or version is not valid.
        What reading a registry can raise.
    """
    reference = parse_reference(text)
    if reference.version is not None or reference.candidate is not None:
        line = find_line(text, workspace.registries)
        if reference.candidate is None:
            if is_taken:
                take_named(workspace, line, is_explicit=True)
            elif (said := _trust_warning(workspace, line)) is not None:
                workspace.progress.warn(said)
        return view_of_release(line, workspace)
    if Path(text).is_dir():
        return view_of_folder(text, workspace.progress)
    if not reference.can_be_name:
        raise ReleaseError("M804", what=text, reason="there is no such folder")
    return view_of_model(workspace, reference.name, reference.generation)


def _trust_warning(workspace: Workspace, line: IndexLine) -> str | None:
    """Return what is to be said of a release that is only shown; None if it is as locked ones."""
    try:
        change = check_named(workspace, line, is_explicit=True)
    except TrustError as error:
        change = str(error.values["change"]) if error.code == "M595" else str(error)
    return None if change is None else f"{change.removesuffix('.')}."


def find_weights(text: str, workspace: Workspace, *, is_taken: bool = True) -> ModuleView:
    """Return what a person named, see `find_view`; a release that has a recipe is composed.

    Raises:
        What `find_view` raises, and what composing can raise.
    """
    view = find_view(text, workspace, is_taken=is_taken)
    if view.record is None or not is_composed(view.record):
        return view
    reference = parse_reference(text)
    if reference.candidate is not None:
        registry = workspace.registries.of(reference.name)
        with_candidate(registry, read_candidate(registry, reference.name, reference.candidate))
    module = compose_release(workspace, module_name(view.record.name), view.record.version).module
    name, version = view.name, view.version
    return view_of_files(view.label, module.tensors, module.files, name=name, version=version)


def view_of_model(workspace: Workspace, name: ModuleName, number: int | None = None) -> ModuleView:
    """Return an installed model, as the current generation or generation ``number`` has it.

    Raises:
        ReleaseError: There is no such generation.
        InstallError: It has no such model.
        ModpkgError: It had to be composed, and cannot be; see `compose_at_load`.
    """
    environment = workspace.environment
    folder, model = _installed(workspace, name, number)
    tensors = {
        tensor: structs.replace(ref, file=str(environment.packs.absolute() / ref.file))
        for tensor, ref in model.tensors.items()
    }
    files = _content_of(folder).files
    files.pop(MODEL_RECORD, None)
    where = "installed" if number is None else f"generation {number}"
    label = f"{model.name} {model.version} ({where})"
    return view_of_files(label, tensors, files)


def _installed(
    workspace: Workspace, name: ModuleName, number: int | None
) -> tuple[Path, InstalledModel]:
    """Return a model's folder and record; it is composed."""
    environment = workspace.environment
    if number is None:
        number = environment.current_number()
    numbers = environment.numbers()
    if number is None or number not in numbers:
        available = f"it has {', '.join(map(str, numbers))}" if numbers else "nothing is installed"
        raise ReleaseError(
            "M804",
            what=name,
            reason=f"{environment.root} has no generation {number or 1}; {available}",
        )
    if name not in environment.generation(number).models:
        remedy = _instead(workspace, name, environment.generation(number).models)
        raise InstallError("M504", name=name, path=environment.root, hint=remedy)
    compose_at_load(workspace, number, name)
    folder = environment.folder(number) / "models" / name
    return folder, read_installed(folder, environment.packs)


def _instead(workspace: Workspace, name: ModuleName, models: Collection[str]) -> str:
    """Return the hint for a name that is no installed model: its newest release, or a model."""
    try:
        line = find_line(name, workspace.registries)
    except ModpkgError:
        return hint(name, models) or f"; it has {', '.join(models) or 'no models'}"
    return f" as a model; to compare a release, name its version: {name}=={line.version}"


def view_of_folder(text: str, progress: Progress) -> ModuleView:
    """Return a folder: the content of a module project, or all data files as a trainer left them.

    Raises:
        ReleaseError: The folder has no weights, or a file that cannot be part of a release.
    """
    folder = Path(text).absolute()
    manifest = None
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder / MANIFEST)
        content = collect(manifest)
    else:
        content = _content_of(folder)
    if not content.weights:
        raise ReleaseError("M804", what=folder, reason="it has no *.safetensors")
    progress.stage(f"Reading {folder.name}")
    progress.total(sum(pack.stat().st_size for pack in content.weights.values()))
    return view_of_content(text, content, manifest=manifest, progress=progress.advance)


def _content_of(folder: Path) -> Content:
    """Return the model in a folder, without what trainers leave beside it.

    Its weights are what an index names, or ``model.safetensors``; where there is neither, every
    file of weights beside the config.
    """
    check_links(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    weights = list(checkpoint_of(folder, config).files)
    weights = weights or sorted(path.name for path in folder.glob("*.safetensors"))
    sequence = folder / MODULES
    parts = folders_apart({MODULES: sequence} if sequence.is_file() else {})
    weights += [file for part in parts for file in _below(folder, part)]
    files = contents_of(folder, weights=weights, why="", parts=parts).files
    if (folder / ADAPTER_CONFIG).is_file():
        files = (*files, ADAPTER_CONFIG)  # what the folder is, is for the caller to judge
    # a hub's cache holds links to its blobs
    return Content(
        {path: (folder / path).resolve() for path in weights},
        {path: (folder / path).resolve() for path in files},
    )


def _below(folder: Path, part: str) -> list[str]:
    return [f"{part}/{path.name}" for path in sorted((folder / part).glob("*.safetensors"))]
