"""Errors for what is not installed, with the command that installs it."""

from __future__ import annotations

from collections.abc import Iterable

from modpkg.core.errors import InstallError, ModpkgError
from modpkg.core.records import Kind
from modpkg.environment.assembly import ON_A_BASE
from modpkg.environment.generations import text_digest
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest
from modpkg.toml.node import hint


def nothing_installed(workspace: Workspace) -> InstallError:
    """Return the error for an environment in which nothing is installed."""
    manifest = _manifest(workspace)
    named = manifest is not None and (manifest.dependencies or manifest.models)
    command = _install(workspace) if named else _install(workspace, "NAME")
    return InstallError("M503", path=workspace.environment.root, command=command)


def not_installed(workspace: Workspace, name: str, known: Iterable[str]) -> InstallError:
    """Return the error for a name that is not among those that are installed."""
    manifest = _manifest(workspace)
    if manifest is not None and name in _names(manifest):
        remedy = f"; run {_install(workspace)!r}, since {manifest.path.name} names it"
    elif manifest is not None and manifest.app is not None and name == manifest.app:
        models = ", ".join(known) or "none"
        remedy = f": it is the app itself, and what it has installed is {models}"
    else:
        remedy = hint(name, known) or f"; run {_install(workspace, name)!r}"
    return InstallError("M504", name=name, path=workspace.environment.root, hint=remedy)


def no_model_remedy(workspace: Workspace, name: str, kind: Kind) -> str:
    """Return what to do about an installed module of which the environment makes no model."""
    if kind == "expert":
        return "use it in the recipe of a model, with its base and a router"
    if kind not in ("base", "model", *ON_A_BASE):
        return "it has nothing to run"
    manifest = _manifest(workspace)
    if manifest is None or all(name != each.name for each in manifest.dependencies):
        return f"it is there for another module only: run {_install(workspace, name)!r}"
    generation = workspace.environment.readable()
    if generation is not None and generation.manifest != text_digest(workspace.text):
        return f"run {_install(workspace)!r}, since {manifest.path.name} names it"
    whose = "its release" if kind == "base" else "the base that it was made for"
    return (
        f"it cannot be loaded by itself: {whose} has no config.json, or it needs a recipe "
        "([models.NAME] in the manifest); the install that brought it has said which"
    )


def _names(manifest: Manifest) -> set[str]:
    return {*manifest.models, *(dependency.name for dependency in manifest.dependencies)}


def _manifest(workspace: Workspace) -> Manifest | None:
    """Return the project's manifest; None if it is broken, of which its own commands tell."""
    try:
        return workspace.manifest
    except ModpkgError:
        return None


def _install(workspace: Workspace, *names: str) -> str:
    """Return the command that installs into this environment."""
    return " ".join(["modpkg install", *names]) + workspace.project.user_option
