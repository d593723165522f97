"""The manifest's tables as typed records; `read` and its siblings validate them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct
from packaging.version import Version

from modpkg.core.hub_address import HubAddress
from modpkg.core.names import ModuleName, Requirement
from modpkg.core.records import Kind, Relation
from modpkg.manifest.cutoff import Cutoff

DTypeName = Literal["float32", "float16", "bfloat16"]
Strategy = Literal["highest", "lowest", "lowest-direct"]
FitPolicy = Literal["exact-first", "any"]
"""Whether a base that modules fit exactly is preferred to one on which they drift."""
IMPORTANCE = "importance"
"""The parameter that may name a module, whose tensors weight those of another."""
TaskKind = Literal["text-generation", "summarization", "text-classification", "feature-extraction"]


ComposeAt = Literal["install", "load"]
"""When a model is composed: while it is installed, or when it is first loaded."""


COMMAND_LINE = "the command line"
"""Where a requirement is written that was given to a command."""


class HubModel(Struct, frozen=True):
    """``hub``, ``rev`` and ``against`` of a dependency: the model of a hub that it is."""

    address: HubAddress
    """The repository, at the revision that is written."""
    against: str | None = None
    """The base of an adapter: the name of one of a hub, or ``NAME==VERSION``."""

    def __str__(self) -> str:
        return str(self.address) + (f" against {self.against}" if self.against else "")

    def entries(self) -> dict[str, str]:
        """Return the keys of a manifest that say so."""
        written = {
            "hub": self.address.repository,
            "rev": self.address.revision,
            "against": self.against,
        }
        return {key: value for key, value in written.items() if value is not None}


class Dependency(Struct, frozen=True):
    """One entry of ``[dependencies]`` or of a list under ``[extras]``."""

    requirement: Requirement
    registry: str | None = None
    """Alias under ``[registries]``; None means the default registry."""
    where: str = ""
    """``file:line``, or `COMMAND_LINE`, for explanations."""
    asked: frozenset[str] = frozenset()
    """The extras that the command line asks for, where the rest is written elsewhere."""
    compose_at: ComposeAt | None = None
    """When the model that it is gets composed; None: an adapter, head or patch when it is first
    loaded, any other when it is installed."""
    from_default: bool = False
    """Whether the default registry is named, and not only what is left where none is."""
    hub: HubModel | None = None
    """What it is of a hub, in place of a registry."""

    @property
    def name(self) -> ModuleName:
        return ModuleName(self.requirement.name)

    @property
    def source(self) -> str | None:
        """What a lock records of where it comes from: an alias, or an address of a hub."""
        return self.registry if self.hub is None else str(self.hub)


Scalar = bool | float | str
Gradient = tuple[Scalar, ...]
"""Values at equal distances from the first layer to the last."""


class Filtered(Struct, frozen=True):
    """A value for the tensors whose name has ``filter`` in it; None is for every tensor."""

    value: Scalar | Gradient
    filter: str | None = None


Setting = Scalar | tuple[Scalar | Filtered, ...]
"""A parameter of a composition: one value, a gradient over the layers, or values by filter, of
which the first that fits holds."""


class Step(Struct, frozen=True, kw_only=True):
    """One step of a composition: a module acts on the base through an operator."""

    op: str
    module: ModuleName
    scale: Setting = 1.0
    """Numbers only."""
    replace: tuple[str, ...] = ()
    """Names of base tensors (or prefixes that end with '.') that the module may replace."""
    parameters: dict[str, Setting] = {}
    """Sorted by name; their meaning depends on the operator and the method."""
    range: tuple[int, int] | None = None
    """Of a step in a run of layers: the module's layers that it merges; None: those of the run."""


class Layers(Struct, frozen=True, kw_only=True):
    """A range of layers of one module, or some tensors of it, as part of a model."""

    module: ModuleName
    range: tuple[int, int] | None = None
    """The first of the module's layers, and the one after the last; None: only tensors."""
    scale: Setting | None = None
    """Factor of their tensors; None leaves them unchanged."""
    tensors: tuple[str, ...] = ()
    """Names (or prefixes ending with '.') of tensors outside of layers to take from it too."""
    steps: tuple[Step, ...] = ()
    """The models that are merged into these layers and tensors."""
    method: str | None = None
    """How they are merged; None: as the recipe's method says."""
    parameters: dict[str, Setting] = {}
    """The method's parameters; they take precedence over the recipe's. Sorted by name."""


class TokenRow(Struct, frozen=True, kw_only=True):
    """Where the row of one token comes from, for the modules that lack it."""

    token: str
    module: ModuleName | None = None
    """The module whose row it is; None: it is zeros."""
    of: str | None = None
    """The token of that module whose row it is; None: the same one."""
    number: int | None = None
    """The same, by its number."""
    force: bool = False
    """Whether it replaces the rows of the modules that have the token, too."""


Missing = Literal["base", "mean"]
UNION = "union"
"""As the source of a vocabulary: the tokens of all modules."""


class Vocabulary(Struct, frozen=True, kw_only=True):
    """The tokens of the result: each module's rows are moved to where they are."""

    source: str
    """The module whose tokens they are, or `UNION`: all modules', the base's first."""
    missing: Missing = "base"
    """Which row a module gets of a token that it lacks, and several others have: the base's, or the
    mean of theirs. Without one in the base, and of one module only, there is no choice."""
    tokens: tuple[TokenRow, ...] = ()
    pad_to_multiple_of: int | None = None
    """The number of rows is a multiple of it; the added ones are the mean of the others."""


class Compose(Struct, frozen=True, kw_only=True):
    """``[compose]`` of a model module, or ``[models.NAME]`` of an app."""

    base: ModuleName
    method: str = "sum"
    """The reducer that combines the changes of the steps."""
    parameters: dict[str, Setting] = {}
    """The method's parameters, and defaults for those of the steps; sorted by name."""
    layers: tuple[Layers, ...] = ()
    """Used instead of the base's layers, in this order."""
    steps: tuple[Step, ...] = ()
    dtype: DTypeName | None = None
    """dtype of the result's floating-point tensors; None keeps the base's."""
    tokenizer: ModuleName | None = None
    """The module whose tokenizer, chat template and generation settings are used; None leaves it to
    the adapters, and to the base."""
    vocabulary: Vocabulary | None = None
    """The tokens that rows are moved to; None merges rows of the same number."""
    chat_template: str | None = None
    """A template in place of the tokenizer's, or ``auto``: the one that most of the modules have;
    None keeps the tokenizer's."""
    tie_word_embeddings: bool | None = None
    """False gives the tensors that the base ties, such as embedding and output layer, values of
    their own; None leaves the base's ``config.json`` as it is."""

    def modules(self) -> list[str]:
        """Return the names of the modules it is composed of, base first."""
        steps = [*(step for run in self.layers for step in run.steps), *self.steps]
        owners = [self.parameters, *(run.parameters for run in self.layers)]
        owners += [step.parameters for step in steps]
        named = [s for owner in owners if isinstance(s := owner.get(IMPORTANCE), str)]
        taken = [*(run.module for run in self.layers), *(step.module for step in steps)]
        texts = [self.tokenizer] if self.tokenizer is not None else []
        if self.vocabulary is not None and self.vocabulary.source != UNION:
            texts.append(ModuleName(self.vocabulary.source))
        return list(dict.fromkeys([self.base, *taken, *named, *texts]))


class Task(Struct, frozen=True, kw_only=True):
    """``[task]``: the input and output of a model."""

    kind: TaskKind
    prompt: str | None = None
    """Template with ``{{ text }}`` for the input; nothing else is interpreted."""
    system: str | None = None
    """System message, for tokenizers that have a chat template."""
    chat: bool | None = None
    """Whether to use the tokenizer's chat template; None: if it has one."""
    max_new_tokens: int | None = None
    """None: as ``generation_config.json`` says, else 256, or half of a smaller model's context."""
    temperature: float | None = None
    """Of sampled text; 0 for the most probable text. None: as ``generation_config.json`` says."""
    top_p: float | None = None
    """Sample from the most probable tokens that have this probability together."""
    stop: tuple[str, ...] = ()
    """Texts at which generation ends; they are not part of the result."""


class Test(Struct, frozen=True, kw_only=True):
    """One entry of ``[[tests]]``: a value that the module guarantees."""

    name: str
    cases: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    """How much worse the value may be after an update."""
    seed: int = 0
    """Random seed: for resampling intervals, and for metrics that sample."""
    time_limit: float | None = None
    """Seconds that the test may take on one model; None: the runner decides."""
    model: ModuleName | None = None
    """In an app: the dependency or assembly that is tested; None means each of its models."""


class Against(Struct, frozen=True):
    """``against`` of ``[module]``: the release of its base that a module was trained on."""

    name: ModuleName
    version: Version
    where: str = ""
    """``file:line``, for explanations."""


class ModuleTable(Struct, frozen=True, kw_only=True):
    """``[module]``."""

    name: ModuleName
    version: Version
    kind: Kind
    license: str
    """SPDX expression in its normal spelling."""
    summary: str = ""
    against: Against | None = None


class FilesTable(Struct, frozen=True, kw_only=True):
    """``[files]``: which files of the folder belong to the release."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    made_up_secrets: tuple[str, ...] = ()
    """Files in which what looks like a secret is none, such as cases of a test."""


class LicensePolicy(Struct, frozen=True, kw_only=True):
    """``[licenses]``: the licences that a project accepts in what it installs."""

    allow: tuple[str, ...] | None = None
    """The only licences that are accepted; None for any."""
    deny: tuple[str, ...] = ()
    exceptions: dict[ModuleName, tuple[str, ...]] = {}
    """Licences accepted for one module, overriding the other two; sorted by name."""
    where: str = ""
    """``file:line``, for explanations."""


class TrustRule(Struct, frozen=True):
    """One entry of ``[trust]``: who has to have signed the modules that a pattern names."""

    pattern: str
    """A name in normal form, in which ``*`` stands for any letters."""
    signers: tuple[str, ...]
    """Any of them; see `modpkg.trust.public_key`."""
    where: str = ""
    """``file:line``, for explanations."""


class Origin(Struct, frozen=True, kw_only=True):
    """One entry of ``[provenance] built-from``: a release that the module was made from."""

    name: ModuleName
    version: Version
    relation: Relation = "built"
    where: str = ""
    """``file:line``, for explanations."""


class MergedParent(Struct, frozen=True, kw_only=True):
    """One of the copies that were merged."""

    release: str = ""
    """``NAME==VERSION``; "" for a folder."""
    folder: str = ""
    """The last part of a folder's path; "" for a release."""
    weights: str
    """Digest of the copy's tensors, as `modpkg.core.interface.weights_digest` computes it."""
    weight: float = 1.0
    importance: str = ""
    """Digest of the tensors that weigh its values; "" without."""


class MergeChoice(Struct, frozen=True):
    """An entry of the resolution file."""

    table: str
    """``tensors`` or ``files``."""
    pattern: str
    choice: str


class MergeConflicts(Struct, frozen=True, kw_only=True):
    """What had to be decided."""

    tensors: int = 0
    values: int = 0
    """Changed to different values at the same place."""
    opposite: int = 0
    """Of those, the ones changed in opposite directions."""
    files: int = 0


class RememberedMerge(Struct, frozen=True, kw_only=True):
    """How a module was merged."""

    base: str
    """The release that the copies were made from, as ``NAME==VERSION``."""
    parents: tuple[MergedParent, ...]
    method: str | None = None
    """How conflicts were decided that no entry of the resolution file decides."""
    parameters: dict[str, Setting] = {}
    resolution: tuple[MergeChoice, ...] = ()
    """In the file's order: the first that matches holds."""
    conflicts: MergeConflicts = MergeConflicts()
    result: str
    """Digest of the merged tensors."""


class Card(Struct, frozen=True, kw_only=True):
    """``[card]``: what a model card says, for people and for hubs; nothing depends on it."""

    base_models: tuple[str, ...] = ()
    """What it was made from, as a hub names it: ``ORG/NAME``."""
    datasets: tuple[str, ...] = ()
    """What it was trained on, as a hub names it."""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class ResolutionTable(Struct, frozen=True, kw_only=True):
    """``[resolution]``: how versions are chosen."""

    strategy: Strategy = "highest"
    prereleases: tuple[ModuleName, ...] = ()
    """Names whose pre-releases count as final releases, sorted."""
    fit: FitPolicy = "exact-first"
    strict: bool = False
    """Whether a module may only act on a base that it fits exactly."""
    require_signed: bool = False
    """Whether only signed releases are locked."""
    exclude_newer: Cutoff | None = None
    """Releases published later are ignored."""
    exclude_newer_package: dict[ModuleName, Cutoff | None] = {}
    """Cut-offs of single names, sorted; None exempts a name."""


class Manifest(Struct, frozen=True, kw_only=True):
    """A ``modpkg.toml``, or the ``[tool.modpkg]`` of a ``pyproject.toml``: module or app."""

    path: Path
    module: ModuleTable | None = None
    app: str | None = None
    """The app's name."""
    requires_modpkg: str = ""
    """The versions of modpkg that can install it; "" for all."""
    dependencies: tuple[Dependency, ...] = ()
    """In the order of the file, which is the order in which the resolver visits them."""
    extras: dict[ModuleName, tuple[Dependency, ...]] = {}
    constraints: tuple[Dependency, ...] = ()
    """Additional requirements on names that are needed anyway; sorted by name."""
    overrides: tuple[Dependency, ...] = ()
    """Replace every requirement on a name; sorted by name."""
    resolution: ResolutionTable = ResolutionTable()
    licenses: LicensePolicy = LicensePolicy()
    trust: tuple[TrustRule, ...] = ()
    compose: Compose | None = None
    task: Task | None = None
    tests: tuple[Test, ...] = ()
    suites: tuple[Dependency, ...] = ()
    """Modules of kind ``suite`` whose tests the module has to pass; they are not installed."""
    files: FilesTable = FilesTable()
    origins: tuple[Origin, ...] = ()
    """``[provenance]``: the releases it was made from, besides its base."""
    imported_from: str | None = None
    """``[provenance]``: where an imported module's files are from, pinned to a commit or a
    digest."""
    merge: RememberedMerge | None = None
    """``[provenance]``: how `modpkg merge` made it, if it did."""
    card: Card = Card()
    registries: dict[str, str] = {}
    """Address by alias."""
    roots: dict[str, str] = {}
    """By alias, the digest of the first root of a registry whose index has to be signed."""
    models: dict[ModuleName, Compose] = {}
    tasks: dict[ModuleName, Task] = {}
    """``[models.NAME.task]`` of each assembly that has one."""
    composed_at: dict[ModuleName, ComposeAt] = {}
    """``compose-at`` of each assembly that has one; others are composed when they are installed."""

    @property
    def folder(self) -> Path:
        return self.path.parent
