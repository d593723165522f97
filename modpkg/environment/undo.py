"""Undoing what a command that fails has changed in a project."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from modpkg.core.bounds import LOCK_BYTES
from modpkg.core.errors import InstallError
from modpkg.core.files import write_atomically
from modpkg.core.regular_file import read_file
from modpkg.environment.generations import Environment
from modpkg.environment.project import Project


@contextlib.contextmanager
def undone_on_error(project: Project) -> Iterator[None]:
    """Put the lock, the manifest and the current generation back if the block fails.

    As far as the disk lets it: of a killed command, or where nothing can be written any more, the
    next install makes the environment agree with the manifest and the lock that are there.
    """
    environment = Environment(project.environment)
    current = environment.current_number()
    paths = (project.lock_path, project.manifest_path)
    before = {path: read_file(path, LOCK_BYTES) if path.exists() else None for path in paths}
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, InstallError):
            if current is not None and environment.current_number() != current:
                environment.switch(current)
        for path, data in before.items():
            with contextlib.suppress(OSError, InstallError):
                _put_back(path, data)
        raise


def _put_back(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    elif read_file(path, LOCK_BYTES) != data:
        write_atomically(path, data)
