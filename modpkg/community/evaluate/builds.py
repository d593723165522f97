"""Built releases as views: of a project that is built into a temporary folder, or built before."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modpkg.community.modules.project import build_project
from modpkg.community.modules.view import ModuleView, view_of_build
from modpkg.core.errors import TestError
from modpkg.environment.workspace import Workspace


@contextmanager
def built_release(workspace: Workspace) -> Iterator[ModuleView]:
    """Build the workspace's module into a temporary folder, and yield the release.

    Raises:
        TestError: The project is an app.
        ModpkgError: Building fails.
    """
    manifest = workspace.manifest
    if manifest.module is None:
        reason = f"{manifest.path.name} declares an app, not a module"
        raise TestError("M719", reason=reason)
    with tempfile.TemporaryDirectory(prefix="modpkg-build-") as folder:
        tree = Path(folder) / "tree"
        build_project(workspace, tree)
        yield view_of_tree(workspace, tree)


def view_of_tree(workspace: Workspace, tree: Path) -> ModuleView:
    """Return the only release in a registry tree.

    Raises:
        TestError: The tree has no release, or several.
    """
    registry = workspace.open_registries.at(str(tree.absolute()), tree)
    lines = [line for name in registry.names() or [] for line in registry.index(name)]
    if len(lines) != 1:
        raise TestError("M721", what=tree, reason=f"it has {len(lines)} releases instead of one")
    return view_of_build(lines[0], registry, None, tree)
