"""The manifest's tables, typed. Paths, positions and defaults are the reader's business."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct
from packaging.requirements import Requirement
from packaging.version import Version

from modpkg.manifest.cutoff import Cutoff
from modpkg.names import ModuleName
from modpkg.records import Kind

DTypeName = Literal["float32", "float16", "bfloat16"]
Strategy = Literal["highest", "lowest", "lowest-direct"]
TaskKind = Literal["text-generation", "summarization", "text-classification", "feature-extraction"]


class Dependency(Struct, frozen=True):
    """One entry of ``[dependencies]`` or of a list under ``[extras]``."""

    requirement: Requirement
    registry: str | None = None
    """Alias under ``[registries]``; None means the default registry."""
    where: str = ""
    """``file:line``, for explanations."""

    @property
    def name(self) -> ModuleName:
        return ModuleName(self.requirement.name)


class Step(Struct, frozen=True, kw_only=True):
    """One step of a composition: a module acts on the base through an operator."""

    op: str
    module: ModuleName
    scale: float = 1.0
    replace: tuple[str, ...] = ()
    """Names of base tensors (or prefixes that end with '.') that the module may replace."""


class Compose(Struct, frozen=True, kw_only=True):
    """``[compose]`` of a model module, or ``[models.NAME]`` of an app."""

    base: ModuleName
    steps: tuple[Step, ...] = ()
    dtype: DTypeName | None = None
    """dtype of the result's floating-point tensors; None keeps the base's."""


class Task(Struct, frozen=True, kw_only=True):
    """``[task]``: how text goes in and comes out."""

    kind: TaskKind
    prompt: str | None = None
    """Template with ``{{ text }}`` where the input goes; nothing else is interpreted."""
    system: str | None = None
    """System message, for tokenizers that have a chat template."""
    chat: bool | None = None
    """Whether the prompt is put through the tokenizer's chat template; None: if it has one."""
    max_new_tokens: int = 256


class Test(Struct, frozen=True, kw_only=True):
    """One entry of ``[[tests]]``: what the module promises."""

    name: str
    cases: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    model: ModuleName | None = None
    """In an app: the dependency or assembly that is tested; None means each of its models."""


class ModuleTable(Struct, frozen=True, kw_only=True):
    """``[module]``."""

    name: ModuleName
    version: Version
    kind: Kind
    license: str
    """SPDX expression in its normal spelling."""
    summary: str = ""


class FilesTable(Struct, frozen=True, kw_only=True):
    """``[files]``: which files of the folder belong to the release; the defaults fit most."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class ResolutionTable(Struct, frozen=True, kw_only=True):
    """``[resolution]``: how versions are chosen."""

    strategy: Strategy = "highest"
    prereleases: tuple[ModuleName, ...] = ()
    """Names whose pre-releases may be chosen, sorted."""
    exclude_newer: Cutoff | None = None
    """Releases published after it are left out."""
    exclude_newer_package: dict[ModuleName, Cutoff | None] = {}
    """Names with a cut-off of their own, sorted; None where a name has none."""


class Manifest(Struct, frozen=True, kw_only=True):
    """A ``modpkg.toml``, or the ``[tool.modpkg]`` of a ``pyproject.toml``: module or app."""

    path: Path
    module: ModuleTable | None = None
    app: str | None = None
    """The app's name."""
    requires_modpkg: str = ""
    """The versions of modpkg that can read the manifest or install the module; "" for all."""
    dependencies: tuple[Dependency, ...] = ()
    """In the order they are written: the resolver visits them so."""
    extras: dict[ModuleName, tuple[Dependency, ...]] = {}
    constraints: tuple[Dependency, ...] = ()
    """Narrow a name where it is needed; sorted by name."""
    overrides: tuple[Dependency, ...] = ()
    """Replace every requirement on a name; sorted by name."""
    resolution: ResolutionTable = ResolutionTable()
    compose: Compose | None = None
    task: Task | None = None
    tests: tuple[Test, ...] = ()
    files: FilesTable = FilesTable()
    registries: dict[str, str] = {}
    models: dict[ModuleName, Compose] = {}
    tasks: dict[ModuleName, Task] = {}
    """``[models.NAME.task]`` of each assembly that has one."""

    @property
    def folder(self) -> Path:
        return self.path.parent
