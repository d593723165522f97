"""Projects: the paths of manifest, lock and environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from modpkg.core.errors import ManifestError, RunError
from modpkg.core.filenames import ENVIRONMENT, LOCK_NAME, MANIFEST
from modpkg.core.files import write_atomically
from modpkg.core.home import user_project
from modpkg.manifest.find import find_manifest
from modpkg.toml.text import read_head

if TYPE_CHECKING:
    from modpkg.manifest.schema import Manifest

PROJECT_VARIABLE = "MODPKG_PROJECT"
"""Environment variable with a project's folder, in place of the working folder's project."""
_USER_MANIFEST = (
    '# The modules of your user environment, outside any project.\n[app]\nname = "user"\n'
)


class Project(Struct, frozen=True):
    """A folder with a manifest; the user's own environment is one too."""

    manifest_path: Path
    is_user: bool = False

    @property
    def folder(self) -> Path:
        return self.manifest_path.parent

    @property
    def lock_path(self) -> Path:
        return self.folder / LOCK_NAME

    @property
    def environment(self) -> Path:
        return self.folder / ENVIRONMENT

    @property
    def user_option(self) -> str:
        """The option by which commands mean the user's own project, where there is another here."""
        return " --user" if self.is_user and find_manifest(Path.cwd()) is not None else ""

    @property
    def to_lock(self) -> str:
        """What to do where there is no lock (M411)."""
        return f"run 'modpkg lock{self.user_option}' to create it"

    def text(self) -> str:
        """Return the manifest's text; the user's project has a default.

        Raises:
            ManifestError: There is no manifest.
        """
        try:
            content = read_head(self.manifest_path, follow=self.is_user)
            return content.decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            if self.is_user:
                return _USER_MANIFEST
            raise ManifestError(
                "M111", folder=self.folder, remedy="'modpkg init' makes one"
            ) from None

    def parse(self, text: str | None = None) -> Manifest:
        """Return the parsed manifest, or ``text`` parsed as this project's manifest."""
        from modpkg.manifest.read import (
            parse_manifest,  # an install with nothing to do does without
        )

        return parse_manifest(self.text() if text is None else text, self.manifest_path)

    def write(self, text: str) -> None:
        """Replace the manifest's text."""
        if text.encode() != self.text().encode("utf-8", "surrogateescape") or (
            self.is_user and not self.manifest_path.exists()
        ):
            write_atomically(self.manifest_path, text.encode())


def project_in(folder: str | os.PathLike[str]) -> Project:
    """Return the project whose manifest is in a folder.

    ``..`` is what the system makes of it, so a link before it leads to where the link points.

    Raises:
        ManifestError: The folder has no manifest.
    """
    place = Path(folder).expanduser().absolute()
    if ".." in place.parts:
        place = Path(os.path.realpath(place))
    path = find_manifest(place)
    if path is None or path.parent != place:
        raise ManifestError("M111", folder=place, remedy=f"'modpkg init {place}' makes one")
    return Project(path)


def project_for(caller: str | None) -> Project:
    """Return the project around the working folder, for code in the file ``caller``.

    Raises:
        RunError: The file is in another project: which one is meant is not guessed.
        ManifestError: ``MODPKG_PROJECT`` names a folder without a manifest.
    """
    found = find_project()
    if caller is None or os.environ.get(PROJECT_VARIABLE):
        return found
    own = find_manifest(Path(caller).parent)
    if own is not None and own != found.manifest_path:
        other = "your user environment" if found.is_user else str(found.folder)
        raise RunError("M727", caller=caller, project=own.parent, other=other)
    return found


def find_project(start: Path | None = None, *, user: bool = False) -> Project:
    """Return the project that contains ``start`` (default: the working folder), or the user's.

    The user's own project is returned if there is no other, or with ``user``. Without ``start``,
    ``MODPKG_PROJECT`` takes precedence over both.

    Raises:
        ManifestError: ``MODPKG_PROJECT`` names a folder without a manifest.
    """
    if start is None and (chosen := os.environ.get(PROJECT_VARIABLE)):
        return project_in(chosen)
    if not user:
        path = find_manifest(start or Path.cwd())
        if path is not None:
            return Project(path)
    return Project(user_project() / MANIFEST, is_user=True)
