"""Trials: releases planned together in a manifest in memory; nothing is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from packaging.specifiers import SpecifierSet

from modpkg.core.names import ModuleName, Requirement
from modpkg.environment.plan import InstallPlan, InstallRequest, plan_install
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Compose, Dependency, HubModel, Manifest, Task
from modpkg.resolve.lock import Lock

Assembly = tuple[Compose, Task | None]
"""A model of a trial: its ``[compose]``, and its task."""


class PinnedRelease(Struct, frozen=True):
    """A release that a trial has to use."""

    name: ModuleName
    version: str
    tree: Path | None = None
    """The registry tree it was built into; None if the project's registries have it."""


def trial_manifest(
    project_manifest: Manifest,
    pins: Sequence[PinnedRelease],
    models: Mapping[ModuleName, Assembly],
) -> Manifest:
    """Return the manifest of an app that requires exactly these releases, and has these models.

    Registries, constraints, overrides and the resolution policy are those of ``project_manifest``.
    """
    pinned = {pin.name for pin in pins}
    trees = {f"trial-{number}": pin for number, pin in enumerate(pins) if pin.tree is not None}
    aliases = {pin.name: alias for alias, pin in trees.items()}
    dependencies = [
        Dependency(
            Requirement(pin.name, (), SpecifierSet(f"=={pin.version}")),
            aliases.get(pin.name) or _alias(project_manifest, pin.name),
            f"the trial of {pin.name}",
            hub=None if pin.name in aliases else _hub(project_manifest, pin.name),
        )
        for pin in pins
    ]
    resolution = msgspec.structs.replace(
        project_manifest.resolution,
        exclude_newer_package={
            **project_manifest.resolution.exclude_newer_package,
            **{pin.name: None for pin in pins},
        },
    )
    return Manifest(
        path=project_manifest.path,
        app="trial",
        dependencies=(
            *dependencies,
            *(d for d in project_manifest.dependencies if d.source and d.name not in pinned),
        ),
        suites=project_manifest.suites,
        constraints=tuple(c for c in project_manifest.constraints if c.name not in pinned),
        overrides=project_manifest.overrides,
        resolution=resolution,
        registries={
            **project_manifest.registries,
            **{alias: str(pin.tree) for alias, pin in trees.items()},
        },
        roots=project_manifest.roots,
        models={name: compose for name, (compose, _) in models.items()},
        tasks={name: task for name, (_, task) in models.items() if task is not None},
    )


def _alias(manifest: Manifest, name: str) -> str | None:
    return next((d.registry for d in manifest.dependencies if d.name == name), None)


def _hub(manifest: Manifest, name: str) -> HubModel | None:
    return next((d.hub for d in manifest.dependencies if d.name == name), None)


def trial_registries(workspace: Workspace, pins: Sequence[PinnedRelease] = ()) -> Registries:
    """Return the registries of a trial with these releases."""
    return workspace.registries_for(trial_manifest(workspace.manifest, pins, {}))


def plan_trial(workspace: Workspace, manifest: Manifest, lock: Lock | None = None) -> InstallPlan:
    """Plan what a manifest would install, or a lock for it; no project is touched.

    Raises:
        ModpkgError: See `plan_install`.
    """
    return plan_install(workspace.for_manifest(manifest), InstallRequest(lock=lock))
