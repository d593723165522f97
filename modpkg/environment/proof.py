"""Proving what is installed: that the bytes of models and modules are those that the lock names.

The lock is what is believed: it has the digest of each release record and of each composed result.
From there on everything is derived again: a record names the digests of its tensors and files, the
composition that the records make says what is in a model's folder, and what is mapped is hashed.
What the environment says of itself proves nothing, since whoever changes a file can change that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, structs

from modpkg.compose.composition import Composition
from modpkg.compose.plan import COMPOSE_ENGINE
from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.errors import EnvironmentDamaged, InstallError, TrustError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModel, Prompt, TensorRef, read_installed
from modpkg.core.jsonfile import json_text
from modpkg.core.names import module_name
from modpkg.core.printable import os_reason
from modpkg.core.tensors import canonical_identity
from modpkg.environment.absent import not_installed, nothing_installed
from modpkg.environment.attested import attested
from modpkg.environment.generations import Generation
from modpkg.environment.models import ModelRecipe
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.recomposition import recomposed
from modpkg.environment.signed_registries import log_of
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose, Task
from modpkg.resolve.lock import LockedModule, LockedResult
from modpkg.store.corruption import Corruption, StoredPlace, corrupt_among
from modpkg.store.store import alignments

ProvenBy = Literal["lock", "modules", "recomposed"]
_REPAIR = "'modpkg store verify' repairs what is in the store"


class Flaw(Struct, frozen=True):
    """Something installed that is not what the lock says."""

    of: str
    """Name and version of the module or model."""
    reason: str
    path: str = ""
    """The file, if it is one."""
    code: str = ""
    """Of the error, if it is one of a registry's log."""


class ProvenModule(Struct, frozen=True, kw_only=True):
    """What was found out about a locked module."""

    name: str
    version: str
    release: str
    """Digest of its record."""
    registry: str
    signer: str
    """Who signed it, by the lock; empty for nobody."""
    signatures: list[str] | None = None
    """Whose signatures the registry has now that count; null if it was not asked."""
    logged: bool | None = None
    """Whether the release is in the registry's log; null if it has none, or was not asked."""
    bytes: int
    """Bytes of its weights and files in the store, which were hashed."""
    absent: int
    """Number of its weights and files that the store does not have."""


class ProvenModel(Struct, frozen=True, kw_only=True):
    """What was found out about a model of the environment."""

    name: str
    version: str
    inputs: str
    """Digest of what it is composed of."""
    result: str | None
    """Digest of its weights by its record; null if it was not loaded yet, and is composed then."""
    proven_by: ProvenBy | None
    """Why these are the right weights: they are the lock's result, they are as the modules have
    them, or composing again gave the same; null if nothing says so, or their bytes are others."""
    bytes: int
    """Bytes of its weights, which were hashed."""
    last_places: dict[str, int | None] = {}
    """By tensor that composing again made otherwise, by how many units in the last place."""


class Proof(Struct, frozen=True):
    """What was proven of an environment."""

    models: list[ProvenModel]
    modules: list[ProvenModule]
    bytes: int
    """Bytes that were hashed, each once."""
    flaws: list[Flaw]


def prove(workspace: Workspace, names: Sequence[str] = (), *, again: bool = False) -> Proof:
    """Prove that what is installed is what the lock says.

    Args:
        workspace: The workspace.
        names: Models or modules; all if there are none.
        again: Whether models whose result the lock has are composed again too.

    Raises:
        InstallError: Nothing is installed, or none of a name, or from another lock; or something
            has to be fetched, and ``--offline`` forbids it.
        LockError: There is no lock, or it is out of date.
        ModpkgError: A registry cannot be read, or composing failed.
    """
    environment = workspace.environment
    while True:
        generation = environment.current()
        if generation is None:
            raise nothing_installed(workspace)
        if not environment.is_from(generation, workspace.lock, workspace.lock_text()):
            raise InstallError("M570", path=environment.root, lock=workspace.project.lock_path)
        with workspace.store.lock():
            plan = plan_install(workspace, InstallRequest(frozen=True))
            proof = _Prover(plan, generation).run(names, again=again)
        if environment.current_number() == generation.number:
            return proof


class _Prover:
    """Proves models and modules of one generation."""

    def __init__(self, plan: InstallPlan, generation: Generation) -> None:
        self._plan, self._generation = plan, generation
        self._environment, self._store = plan.workspace.environment, plan.workspace.store
        self._flaws: list[Flaw] = []
        self._mapped: dict[StoredPlace, tuple[str, Corruption]] = {}
        """What is to be hashed, and of what it is."""
        self._damaged: set[StoredPlace] = set()
        """What of that has another digest."""

    def run(self, names: Sequence[str], *, again: bool) -> Proof:
        models, modules = self._chosen(names)
        found = [self._module(module) for module in modules]
        proven = self._attested(modules, found)
        records = {name: self._record(name) for name in models}
        size = self._hash()
        done = [self._model(name, record, again=again) for name, record in records.items()]
        return Proof(done, proven, size, self._flaws)

    def _chosen(self, names: Sequence[str]) -> tuple[list[str], list[LockedModule]]:
        """Return the models that are meant, and the modules that are, or that these are made of."""
        lock, known = self._plan.lock, self._generation.models
        if not names:
            return [*known], [*lock.module]
        models, modules = list[str](), set[str]()
        for name in dict.fromkeys(map(module_name, names)):
            if name not in known and lock.find(name) is None:
                every = [*known, *(each.name for each in lock.module)]
                raise not_installed(self._plan.workspace, name, every)
            modules.add(name)
            if name in known:
                models.append(name)
                recipe = self._recipe(name)
                modules.update(recipe.modules() if recipe is not None else ())
        return models, [module for module in lock.module if module.name in modules]

    def _recipe(self, name: str) -> ModelRecipe | None:
        return next((each for each in self._plan.recipes if each.name == name), None)

    def _flaw(self, of: str, reason: str, path: Path | None = None, code: str = "") -> None:
        self._flaws.append(Flaw(of, reason, "" if path is None else str(path), code))

    def _expect(self, of: str, items: Iterable[Corruption]) -> int:
        """Note bytes that are to be hashed, once for all links to a file; return their number."""
        size = 0
        for item in items:
            try:
                place = item.place()
            except OSError as error:
                self._flaw(of, os_reason(error), Path(item.path))
                continue
            self._mapped.setdefault(place, (of, item))
            size += item.length
        return size

    def _hash(self) -> int:
        """Hash what was noted, and tell of what has another digest; return the bytes of all."""
        progress = self._plan.workspace.progress
        items = [item for _, item in self._mapped.values()]
        size = sum(item.length for item in items)
        progress.stage("Verifying")
        progress.total(size)
        owners = {(i.path, i.offset, i.digest): (of, at) for at, (of, i) in self._mapped.items()}
        counts: dict[tuple[str, str, str], int] = {}
        for item in corrupt_among(items, progress.advance):
            of, place = owners[item.path, item.offset, item.digest]
            self._damaged.add(place)
            key = (of, item.path, item.reason)
            counts[key] = counts.get(key, 0) + 1
        for (of, path, reason), count in counts.items():
            times = f" (in {count} places)" if count > 1 else ""
            self._flaw(of, f"{reason}{times}; {_REPAIR}", Path(path))
        return size

    def _module(self, module: LockedModule) -> ProvenModule:
        """Note what the store has of a module."""
        record, store = self._plan.transfer.records[module.name], self._store
        places = store.find(alignments(record))
        here, absent = list[Corruption](), 0
        for entry in record.tensors.values():
            if (place := places.get(entry.digest)) is None:
                absent += 1
                continue
            path = str(store.packs.path(place.pack))
            here.append(_bytes("tensor", path, entry.digest, place.offset, place.length))
        for file in record.files.values():
            size = store.size_of(parse_digest(file.digest))
            absent += size is None
            if size is not None:
                path = str(store.blobs.path(parse_digest(file.digest)))
                here.append(_bytes("file", path, file.digest, 0, size))
        return ProvenModule(
            name=module.name,
            version=module.version,
            release=module.release,
            registry=module.registry,
            signer=module.signer,
            bytes=self._expect(f"{module.name} {module.version}", here),
            absent=absent,
        )

    def _attested(
        self, modules: Sequence[LockedModule], found: Sequence[ProvenModule]
    ) -> list[ProvenModule]:
        """Return modules with what their registries have for them now."""
        workspace = self._plan.workspace
        lock, registries = self._plan.lock, workspace.registries_for(self._plan.manifest)
        by_name = registries.by_name(lock)
        said = attested(
            modules,
            by_name,
            lambda registry: log_of(registries.locked(registry, lock)),
            workspace.progress.warn,
            offline=workspace.options.offline,
        )
        for module in modules:
            for reason in said[module.name].flaws:
                code = reason.code if isinstance(reason, TrustError) else ""
                self._flaw(f"{module.name} {module.version}", str(reason), code=code)
        return [
            structs.replace(one, signatures=said[one.name].signatures, logged=said[one.name].logged)
            for one in found
        ]

    def _record(self, name: str) -> InstalledModel | None:
        """Return a model's record, and note what it maps; None if it cannot be believed at all."""
        of, folder = self._label(name), self._folder(name)
        try:
            model = read_installed(folder, self._environment.packs)
        except EnvironmentDamaged as error:
            self._flaw(of, str(error.values["reason"]), folder)
            return None
        composition, recipe = self._plan.compositions.get(name), self._recipe(name)
        if composition is None or recipe is None:
            self._flaw(of, "modpkg.lock and the manifest have no such model", folder)
            return None
        versions = {one: self._plan.transfer.records[one].version for one in recipe.modules()}
        if model.key != composition.key and not self._is_older(model):
            self._flaw(of, "it was composed of something else than modpkg.lock has", folder)
        for path, reason in contradictions(model, recipe, versions, composition):
            self._flaw(of, reason, folder / path)
        self._expect(of, self._weights(model))
        return model

    def _weights(self, model: InstalledModel) -> list[Corruption]:
        """Return what a model maps, to be hashed."""
        packs = self._environment.packs
        return [
            _bytes("tensor", str(packs / ref.file), ref.digest, ref.offset, ref.length)
            for ref in _mapped_by(model)
        ]

    def _is_damaged(self, model: InstalledModel) -> bool:
        """Return whether not all that a model maps has the digests that its record has."""
        try:
            return not self._damaged.isdisjoint(item.place() for item in self._weights(model))
        except OSError:
            return True

    def _model(self, name: str, model: InstalledModel | None, *, again: bool) -> ProvenModel:
        """Return what is proven of a model, whose weights are what its record says."""
        version = self._generation.models[name]
        if model is None:
            return ProvenModel(
                name=name, version=version, inputs="", result=None, proven_by=None, bytes=0
            )
        size = sum(ref.length for ref in _mapped_by(model))
        proven_by: ProvenBy | None = None
        last_places: dict[str, int | None] = {}
        if model.result is not None:
            composition = self._plan.compositions[name]
            proven_by = self._without_composing(model, composition)
            if again or proven_by is None:
                proven_by, last_places = self._again(model)
            if self._is_damaged(model):
                proven_by = None
        return ProvenModel(
            name=name,
            version=version,
            inputs=model.key,
            result=model.result,
            proven_by=proven_by,
            bytes=size,
            last_places=last_places,
        )

    def _without_composing(
        self, model: InstalledModel, composition: Composition
    ) -> ProvenBy | None:
        """Return what says that a model's result is the right one; None if nothing does."""
        locked = self._locked(model.name)
        if locked is not None and (locked.inputs, locked.result) == (model.key, model.result):
            return "lock"
        if locked is not None and locked.inputs == composition.key:  # else it is of an earlier lock
            self._flaw(self._label(model.name), "modpkg.lock has another result")
            return None
        return None if composition.types() else "modules"

    def _locked(self, name: str) -> LockedResult | None:
        return next((one for one in self._plan.lock.composed if one.model == name), None)

    def _is_older(self, model: InstalledModel) -> bool:
        """Return whether a model is the lock's, of an engine whose keys this one does not make."""
        locked = self._locked(model.name)
        return (
            locked is not None
            and locked.engine != COMPOSE_ENGINE
            and (locked.inputs, locked.result) == (model.key, model.result)
        )

    def _again(self, model: InstalledModel) -> tuple[ProvenBy | None, dict[str, int | None]]:
        """Compose a model again; return what proves it then, and which tensors differ."""
        from modpkg.compose.last_places import last_places_apart

        with recomposed(self._plan, model.name) as made:
            if made.result == model.result:
                return "recomposed", {}
            packs = self._environment.packs
            apart: dict[str, int | None] = {}
            for name in sorted(made.tensors.keys() | model.tensors.keys()):
                one, other = made.tensors.get(name), model.tensors.get(name)
                if one is None or other is None:
                    apart[name] = None
                elif canonical_identity(one) != canonical_identity(other):
                    mapped = structs.replace(other, file=str(packs / other.file))
                    apart[name] = last_places_apart(one, mapped)
        first, steps = next(iter(apart.items()))
        far = "" if steps is None else f" by up to {steps} units in the last place"
        self._flaw(
            self._label(model.name),
            f"composed again, {len(apart)} of its tensors differ, {first}{far}",
        )
        return None, apart

    def _label(self, name: str) -> str:
        return f"{name} {self._generation.models[name]}"

    def _folder(self, name: str) -> Path:
        return self._environment.folder(self._generation.number) / "models" / name


def contradictions(
    model: InstalledModel,
    recipe: ModelRecipe,
    versions: Mapping[str, str],
    composition: Composition,
) -> Iterator[tuple[str, str]]:
    """Yield where the record of a model is not what its composition makes, as path and reason.

    Args:
        model: The record; the files beside it have the digests that it says.
        recipe: The model as manifest and lock have it.
        versions: Of its modules, by name.
        composition: What the locked releases make of it.
    """
    said = (model.version, model.modules, _decoded(model.recipe, Compose), _task(model))
    if said != (recipe.version, versions, recipe.recipe, recipe.task):
        yield "", "its record has another recipe, task or version than the locked release"
    documents = {**composition.documents, CONFIG: composition.config}
    expected = {
        path: f"sha256:{blob.name}"
        for path, blob in composition.files.items()
        if path not in documents
    }
    expected |= {path: digest_bytes(json_text(one)) for path, one in documents.items()}
    actual = model.files or {}
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            yield path, "it is missing"
        elif path not in expected:
            yield path, "nothing that is locked has this file"
        elif actual[path] != expected[path]:
            yield path, "it is not what the locked releases make"
    if model.result is None:
        return
    types = composition.types()
    if model.tensors.keys() != composition.kept.keys() | types.keys():
        yield "", "it has other tensors than the locked releases make"
    for name, ref in model.tensors.items():
        kept = composition.kept.get(name)
        if kept is not None and canonical_identity(ref) != canonical_identity(kept):
            yield "", f"its tensor {name} is not that of the locked release"
        elif kept is None and types.get(name, ("", ())) != (ref.dtype, tuple(ref.shape)):
            yield "", f"its tensor {name} has another dtype or shape than composing gives"
    if _without_places(model.prompt) != _without_places(composition.prompt):
        yield "", "its virtual tokens are not those of the locked release"


def _decoded(value: object, kind: type[Struct]) -> Struct | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _task(model: InstalledModel) -> Struct | None:
    return None if model.task is None else _decoded(model.task, Task)


def _without_places(prompt: Prompt | None) -> object:
    if prompt is None:
        return None
    tensors = {name: canonical_identity(ref) for name, ref in prompt.tensors.items()}
    return structs.replace(prompt, tensors={}), tensors


def _mapped_by(model: InstalledModel) -> list[TensorRef]:
    prompt = model.prompt.tensors if model.prompt is not None else {}
    return [*model.tensors.values(), *prompt.values()]


def _bytes(
    kind: Literal["tensor", "file"], path: str, digest: str, offset: int, length: int
) -> Corruption:
    """Return bytes to hash, as what is reported if they have another digest."""
    return Corruption(kind=kind, path=path, digest=digest, offset=offset, length=length)
