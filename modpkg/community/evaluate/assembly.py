"""A release composed so that it can run: an adapter, head or patch alone on its base."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from modpkg.community.evaluate.test_target import TestTarget, find_target
from modpkg.community.modules.trial import (
    Assembly,
    PinnedRelease,
    plan_trial,
    trial_manifest,
    trial_registries,
)
from modpkg.community.modules.view import ModuleView
from modpkg.core.digests import parse_digest
from modpkg.core.errors import TestError
from modpkg.core.names import module_name
from modpkg.core.records import ReleaseRecord
from modpkg.environment.assembly import (
    ASSEMBLED_FROM,
    assembled_from,
    assembly,
    base_of,
)
from modpkg.environment.models import manifest_of
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose
from modpkg.registry.select import newest_release
from modpkg.store.store import Store


def pin_of(release: ModuleView) -> PinnedRelease:
    """Return the pin of a published or built release."""
    record = release.released
    return PinnedRelease(module_name(record.name), record.version, release.tree)


def release_target(
    workspace: Workspace, release: ModuleView, others: Sequence[ModuleView] = ()
) -> TestTarget:
    """Return a release as a model that can run, with the newest versions that resolve.

    ``others`` are releases that it has to be composed with.

    Raises:
        TestError: The release cannot run by itself.
        ModpkgError: Planning failed; see `modpkg.environment.plan.plan_install`.
    """
    record = release.released
    pins = [pin_of(release), *map(pin_of, others)]
    registries = trial_registries(workspace, pins)
    for path in record.files.keys() & set(ASSEMBLED_FROM):  # `assembly_of` reads them
        digest = parse_digest(record.files[path].digest)
        registries.of(record.name).blob(digest, f"{path} of {record.name}")
    base = _base_tensors(record, registries, pins) if record.kind == "head" else ()
    assembly = assembly_of(record, base, workspace.store)
    models = {} if assembly is None else {module_name(record.name): assembly}
    plan = plan_trial(workspace, trial_manifest(workspace.manifest, pins, models))
    return find_target(plan, record.name, record.kind)


def _base_tensors(
    record: ReleaseRecord, registries: Registries, pins: Sequence[PinnedRelease]
) -> Collection[str]:
    """Return the names of the tensors of the base that a release is put on."""
    if (name := base_of(record)) is None:
        return ()
    registry = registries.of(name)
    lines = [line for line in registry.index(name) if line.provides is not None]
    if (pin := next((pin for pin in pins if pin.name == name), None)) is not None:
        lines = [registry.line(name, pin.version)]
    newest = newest_release(lines, or_yanked=True)
    if newest is None or newest.provides is None:
        return ()
    return registry.provides(newest.provides).tensors.keys()


def assembly_of(record: ReleaseRecord, base: Collection[str], store: Store) -> Assembly | None:
    """Return the assembly in which a release runs; None if it is a complete model by itself.

    An adapter, head or patch is put on the base that it was built against: alone, at full scale; a
    head replaces the tensors of the same names among those of the base (``base``).

    Raises:
        TestError: The module is of a kind that cannot run by itself.
    """
    manifest = manifest_of(record)
    if record.kind == "base" or (record.kind == "model" and manifest.compose is not None):
        return None
    name = module_name(record.name)
    if record.kind == "model" and record.tensors:
        return Compose(base=name), manifest.task
    if base_of(record) is None:
        raise TestError("M719", reason=f"a module of kind {record.kind!r} cannot run by itself")
    return assembly(record, base, assembled_from(record, store.blobs)), manifest.task
