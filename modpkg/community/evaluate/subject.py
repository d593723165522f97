"""What tests run on: a module composed as it would be released, or a model of a project."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet

from modpkg.adapters import METHODS
from modpkg.compose.composition import Composition
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import TestError
from modpkg.core.filenames import ADAPTER_CONFIG, PATCH, REPORT
from modpkg.core.jsonfile import read_json
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.records import ReleaseRecord, canonical_json
from modpkg.core.report import Subject
from modpkg.environment.models import ModelRecipe, manifest_of
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose, Dependency, Manifest, Step, Task
from modpkg.manifest.values import make_requirement
from modpkg.registry.base import find_base
from modpkg.registry.origins import find_origins
from modpkg.registry.reader import Registry
from modpkg.registry.select import newest_release
from modpkg.release.build import acts_on_base, build
from modpkg.resolve.lock import Lock
from modpkg.store.store import Store

_NOT_RUN = re.compile(
    r"(?i)(?:^|/)(?:readme|licen[cs]e|copying|notice)[^/]*$|\.(?:md|jsonl|csv|parquet)$"
)
"""Files that nothing reads when a model runs; they may change without making it another."""


"""What `modpkg patch create` leaves among a patch's files."""
_BLOB = re.compile("[0-9a-f]{64}")


class Runnable(Struct, frozen=True, kw_only=True):
    """A model that tests can run on; nothing of its weights has to be here yet."""

    subject: Subject
    digest: Digest
    """Of what is run; see `composition_digest`."""
    plan: InstallPlan
    recipe: ModelRecipe
    composition: Composition


class Pin(Struct, frozen=True):
    """One release that a trial is to have."""

    name: ModuleName
    version: str
    registry: str | None = None
    """Address of the tree that it comes from; None: from where the project gets the name."""


def composition_digest(composition: Composition, task: Task | None) -> Digest:
    """Return the digest of what runs: tensors and what is made of them, config, files and task.

    No name or version of a module is in it: what is equal under another name is equal.
    """
    return digest_bytes(
        canonical_json(
            {
                "weights": composition.key,
                "config": composition.config,
                "files": {
                    path: _named(blob)
                    for path, blob in composition.files.items()
                    if path != REPORT and not _NOT_RUN.search(path)
                },
                "task": None if task is None else msgspec.to_builtins(task),
            }
        )
    )


def _named(file: Path) -> str:
    """Return the digest of a file: a blob of the store is named by it."""
    return file.name if _BLOB.fullmatch(file.name) else digest_file(file)[7:]


def runnable(plan: InstallPlan, name: str, kind: str) -> Runnable:
    """Return a model of a plan.

    Raises:
        TestError: there is none of this name.
    """
    for recipe in plan.recipes:
        if recipe.name == name:
            composition = plan.compositions[name]
            locked = plan.lock.find(name)
            version = recipe.version if locked is None else locked.version
            return Runnable(
                subject=Subject(name, version, kind),
                digest=composition_digest(composition, recipe.task),
                plan=plan,
                recipe=recipe,
                composition=composition,
            )
    known = ", ".join(recipe.name for recipe in plan.recipes) or "none"
    raise TestError("M719", reason=f"{name} is no model that can run (there are: {known})")


def trial_manifest(
    around: Manifest,
    pins: Sequence[Pin],
    models: Mapping[ModuleName, tuple[Compose, Task | None]],
) -> Manifest:
    """Return the manifest of an app that has these releases, and these assemblies of them.

    What ``around`` says of registries, constraints, overrides and the choice of versions holds.
    """
    pinned = {pin.name for pin in pins}
    trees = {f"trial-{number}": pin for number, pin in enumerate(pins) if pin.registry}
    aliases = {pin.name: alias for alias, pin in trees.items()}
    dependencies = [
        Dependency(
            make_requirement(pin.name, set(), SpecifierSet(f"=={pin.version}")),
            aliases.get(pin.name) or _alias(around, pin.name),
            f"the trial of {pin.name}",
        )
        for pin in pins
    ]
    early = {pin.name for pin in pins if parse_version(pin.version).is_prerelease}
    resolution = msgspec.structs.replace(
        around.resolution,
        prereleases=tuple(sorted({*around.resolution.prereleases, *early})),
        exclude_newer_package={
            **around.resolution.exclude_newer_package,
            **{pin.name: None for pin in pins},
        },
    )
    return Manifest(
        path=around.path,
        app="trial",
        dependencies=(
            *dependencies,
            *(d for d in around.dependencies if d.registry and d.name not in pinned),
        ),
        suites=around.suites,
        constraints=tuple(bound for bound in around.constraints if bound.name not in pinned),
        overrides=around.overrides,
        resolution=resolution,
        registries={
            **around.registries,
            **{alias: pin.registry for alias, pin in trees.items() if pin.registry},
        },
        models={name: recipe for name, (recipe, _) in models.items()},
        tasks={name: task for name, (_, task) in models.items() if task is not None},
    )


def _alias(around: Manifest, name: str) -> str | None:
    return next((d.registry for d in around.dependencies if d.name == name), None)


def plan_trial(workspace: Workspace, manifest: Manifest, lock: Lock | None = None) -> InstallPlan:
    """Plan what a manifest, and a lock if one is given, would install; no project is touched.

    Raises:
        ModpkgError: as for `plan_install`.
    """
    return plan_install(workspace.for_manifest(manifest), InstallRequest(lock=lock))


def own_model(
    record: ReleaseRecord, base: Sequence[str], store: Store
) -> tuple[Compose, Task | None] | None:
    """Return the assembly that shows what a module does; None where it is a model by itself.

    An adapter, head or patch is put on the base that it was built against, whose tensors are
    called ``base``: alone, at full scale, and a head takes the place of what it brings.

    Raises:
        TestError: it is of a kind that does nothing by itself.
    """
    manifest = manifest_of(record)
    if record.kind == "base" or (record.kind == "model" and manifest.compose is not None):
        return None
    name = module_name(record.name)
    if record.kind == "model" and record.tensors:
        return Compose(base=name), manifest.task
    on = next(iter(record.expects), None)
    if on is None:
        raise TestError("M719", reason=f"a module of kind {record.kind!r} is no model by itself")
    step = Step(op=_operator(record, store), module=name)
    if step.op == "head":
        step = msgspec.structs.replace(
            step, replace=tuple(sorted(record.tensors.keys() & set(base)))
        )
    return Compose(base=module_name(on), steps=(step,)), manifest.task


def _operator(record: ReleaseRecord, store: Store) -> str:
    if record.kind == "head":
        return "head"
    if ADAPTER_CONFIG in record.files:
        digest = Digest(record.files[ADAPTER_CONFIG].digest)
        config = read_json(store.blobs.path(digest))
        method = METHODS.get(str(config.get("peft_type")))
        return method.operator if method is not None else "lora"
    if PATCH in record.files:
        return "patch"
    scattered = all(name.endswith((".indices", ".values")) for name in record.tensors)
    return "sparse" if scattered else "replace"


class Release(Struct, frozen=True, kw_only=True):
    """One release that is tested or vetted."""

    pin: Pin
    record: ReleaseRecord
    around: Manifest
    """Whose registries and wishes hold for it."""


def release_model(
    workspace: Workspace, release: Release, *, others: Sequence[Pin] = ()
) -> Runnable:
    """Return a release composed as it shows what it does, on the newest that resolves.

    ``others`` are releases that it is to be composed with.

    Raises:
        TestError: it is no model. ResolutionImpossible. What planning raises.
    """
    record = release.record
    pins = [release.pin, *others]
    registries = trial_registries(workspace, release.around, pins)
    tensors: list[str] = []
    if (on := next(iter(record.expects), None)) is not None:
        expected = registries.of(on)
        if ADAPTER_CONFIG in record.files:
            digest = Digest(record.files[ADAPTER_CONFIG].digest)
            registries.of(record.name).blob(digest, f"{ADAPTER_CONFIG} of {record.name}")
        wanted = next((pin for pin in others if pin.name == on), None)
        lines = [line for line in expected.index(on) if line.provides is not None]
        if wanted is not None:
            lines = [expected.line(on, wanted.version)]
        if record.kind == "head" and (newest := newest_release(lines, or_yanked=True)):
            tensors = list(expected.provides(newest.provides or "").tensors)
    own = own_model(record, tensors, workspace.store)
    models = {} if own is None else {module_name(record.name): own}
    manifest = trial_manifest(release.around, pins, models)
    plan = plan_trial(workspace, manifest)
    return runnable(plan, record.name, record.kind)


def trial_registries(workspace: Workspace, around: Manifest, pins: Sequence[Pin]) -> Registries:
    """Return the registries of a trial with these pins."""
    return workspace.registries_for(trial_manifest(around, pins, {}))


@contextmanager
def built_release(workspace: Workspace, manifest: Manifest) -> Iterator[Release]:
    """Build a module project into a folder that is gone afterwards, and yield its release.

    Raises:
        TestError: it is an app. What building raises.
    """
    module = manifest.module
    if module is None:
        raise TestError(
            "M719", reason=f"{manifest.path.name} is an app's, and a module's is needed"
        )
    base = None
    registries = trial_registries(workspace, manifest, ())
    origins = find_origins(manifest, registries.of)
    if acts_on_base(manifest):
        by_name: dict[str, Registry] = {
            item.name: registries.of(item.name) for item in manifest.dependencies
        }
        base = find_base(manifest, by_name, None)
    with tempfile.TemporaryDirectory(prefix="modpkg-build-") as folder:
        tree = Path(folder) / "tree"
        workspace.progress.stage(f"Building {module.name}")
        built = build(
            manifest, module, tree, base=base, origins=origins, progress=workspace.progress.advance
        )
        pin = Pin(module.name, built.line.version, str(tree))
        yield Release(pin=pin, record=built.record, around=manifest)
