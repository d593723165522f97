"""Known projects, whose locks name what the store must keep."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.digests import digest_bytes
from modpkg.core.files import not_text, write_atomically
from modpkg.core.records import canonical_json
from modpkg.core.regular_file import read_file

CURRENT = "current"
"""The pointer to the current generation, in an environment's folder."""


class KnownProject(Struct, frozen=True, kw_only=True):
    """``projects/<hex>``: where a project is that was installed with this store."""

    spec: int = 1
    lock: str
    """Path of its lock file."""
    environment: str
    """Path of its environment's folder."""


class Projects:
    """One small file per project, named by the digest of its lock file's path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def register(self, lock: Path, environment: Path) -> None:
        """Add a project, if it is not known yet.

        Raises:
            InstallError: The path of its folder is not UTF-8.
        """
        project = _project(lock, environment)
        try:
            data = canonical_json(msgspec.to_builtins(project))
        except UnicodeEncodeError:
            raise not_text(project.lock) from None
        if not self.knows(lock, environment):
            write_atomically(self._path(project), data)

    def knows(self, lock: Path, environment: Path) -> bool:
        """Return whether a project was installed with this store."""
        project = _project(lock, environment)
        return _read(self._path(project)) == project

    def _path(self, project: KnownProject) -> Path:
        return self.root / digest_bytes(project.lock.encode("utf-8", "surrogateescape"))[7:]

    def known(self) -> dict[Path, KnownProject]:
        """Return all known projects by the path of their file; damaged files are left out."""
        paths = sorted(self.root.iterdir()) if self.root.is_dir() else []
        return {path: project for path in paths if (project := _read(path)) is not None}

    def prune(self) -> None:
        """Remove projects whose lock and environment both no longer exist."""
        for path, project in self.known().items():
            if not Path(project.lock).exists() and not Path(project.environment).exists():
                path.unlink(missing_ok=True)


def _project(lock: Path, environment: Path) -> KnownProject:
    return KnownProject(lock=str(lock.absolute()), environment=str(environment.absolute()))


def _read(path: Path) -> KnownProject | None:
    try:
        return msgspec.json.decode(read_file(path), type=KnownProject)
    except (OSError, msgspec.MsgspecError):
        return None
