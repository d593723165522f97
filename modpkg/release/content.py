"""The files of a project that belong to its release: weights and data, never code."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from modpkg.core.errors import ReleaseError
from modpkg.core.filenames import DIST, LOCK_NAME, MANIFEST, PYPROJECT
from modpkg.core.packs import IS_POINTER, LFS_POINTER
from modpkg.core.regular_file import open_file
from modpkg.core.release_path import safe_path
from modpkg.manifest.schema import Manifest
from modpkg.release.data_names import problem_of_name

_MAGIC = (
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"#!", "a script"),
    (b"PK\x03\x04", "a zip archive (as PyTorch's pickles are)"),
    (b"\x1f\x8b", "a compressed archive"),
)
_ARRAY, _OBJECTS = b"\x93NUMPY", re.compile(rb"'descr'[^\n]*O")
"""The beginning of an array in NumPy's own form, and what in its header says it is a pickle."""
_HEAD = 1024
"""How much of a file is looked at, bytes."""
_LEFT_OUT = (MANIFEST, LOCK_NAME, PYPROJECT, DIST, "build", "node_modules")
_SOURCES_OF_A_PROJECT = (".py", ".sh", ".ipynb")
"""Left out by default: a project's own scripts."""


class Content(Struct, frozen=True):
    """The files of a release to build, by their path in it."""

    weights: dict[str, Path]
    files: dict[str, Path]


def collect(manifest: Manifest) -> Content:
    """Return the weights (``*.safetensors``) and the other files of a module project.

    By default these are all files of the folder except hidden files, the manifest, the lock,
    ``dist``, ``build`` and scripts; ``[files] include`` and ``exclude`` (globs against the
    path) change that. Index files of sharded weights are left out: the tensor table replaces them.

    Raises:
        ReleaseError: A file is not data or is a link, one that is named does not exist, or two
            would be one file on another system.
        InvalidValue: A path is not allowed in a release.
    """
    weights: dict[str, Path] = {}
    files: dict[str, Path] = {}
    include, exclude = manifest.files.include, manifest.files.exclude
    matched: set[str] = set()
    for relative, path in _walk(manifest.folder):
        chosen = [pattern for pattern in include if fnmatch.fnmatchcase(relative, pattern)]
        matched.update(chosen)
        if any(fnmatch.fnmatchcase(relative, pattern) for pattern in exclude):
            continue
        if include and not chosen:
            continue
        if not include and _is_left_out(relative):
            continue
        if path.is_symlink():
            raise ReleaseError("M203", path=path)
        if sign := next((sign for sign in _NOT_IN_WINDOWS if sign in safe_path(relative)), None):
            reason = f"{relative} has {sign!r} in its name, which Windows forbids; rename it"
            raise ReleaseError("M206", path=manifest.folder, reason=reason)
        if relative.endswith(".safetensors"):
            weights[relative] = path
        elif not relative.endswith(".safetensors.index.json"):
            check_data(path, relative)
            files[relative] = path
    for pattern in include:
        if pattern not in matched:
            raise ReleaseError(
                "M211",
                where=f"{manifest.path.name}: files.include",
                path=pattern,
                remedy="fix the pattern or add the file",
            )
    if (problem := twin_problem([*weights, *files])) is not None:
        raise ReleaseError("M206", path=manifest.folder, reason=f"{problem}; rename one of them")
    for test in manifest.tests:
        safe_path(test.cases)
        if test.cases not in files:
            raise ReleaseError(
                "M211",
                where=f"{manifest.path.name}: test {test.name!r}",
                path=test.cases,
                remedy="add the file of cases, or remove the test",
            )
    return Content(weights=dict(sorted(weights.items())), files=dict(sorted(files.items())))


_NOT_IN_WINDOWS = '<>"|?*'
"""Besides what `safe_path` refuses in releases that exist."""


def twin_problem(paths: Iterable[str]) -> str | None:
    """Return which two paths cannot be told apart on every file system; None if all can be.

    Some file systems ignore case, some compose letters with their accents, and a file and a folder
    cannot have one name.
    """
    folded: dict[str, str] = {}
    for path in paths:
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if (twin := folded.setdefault(plain, path)) != path:
            return f"{twin} and {path} differ only by case or by how letters are composed"
    for plain, path in folded.items():
        parents = [plain[:at] for at in range(len(plain)) if plain[at] == "/"]
        if (parent := next((folded[p] for p in parents if p in folded), None)) is not None:
            return f"{parent} is a file, and {path} needs it to be a folder"
    return None


def check_data(path: Path, shown: str) -> None:
    """Check by its name and first bytes that a file is data, and is there.

    Raises:
        ReleaseError: The file is of another kind (see `problem_of_name`), or begins like code or a
            pickle, or is Git's pointer to a file.
    """
    if (what := problem_of_name(shown)) is not None:
        raise ReleaseError("M202", path=path, what=what)
    with open_file(path) as file:
        head = file.read(_HEAD)
    if head.startswith(LFS_POINTER):
        raise ReleaseError("M206", path=path, reason=IS_POINTER)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise ReleaseError("M202", path=path, what=what)
    if len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5:
        raise ReleaseError("M202", path=path, what="a pickle")
    if head.startswith(_ARRAY) and _OBJECTS.search(head):
        raise ReleaseError("M202", path=path, what="an array of objects, which is a pickle")


def check_path(path: str) -> str:
    """Return a path of a release, checked before something is written under it.

    Raises:
        InvalidValue: It leads out of the folder, or a part of it is hidden; see `safe_path`.
        ReleaseError: It is not the name of data; see `problem_of_name`.
    """
    if (what := problem_of_name(safe_path(path))) is not None:
        raise ReleaseError("M202", path=path, what=what)
    return path


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    pending = [folder]
    while pending:
        current = pending.pop()
        for entry in sorted(os.scandir(current), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            relative = path.relative_to(folder).as_posix()
            if entry.is_symlink():
                yield relative, path
            elif entry.is_dir():
                if relative not in _LEFT_OUT and entry.name != "__pycache__":
                    pending.append(path)
            else:
                yield relative, path


def _is_left_out(relative: str) -> bool:
    """Return whether a file is left out unless ``[files] include`` names it."""
    top = relative.split("/", 1)[0]
    return top in _LEFT_OUT or relative.endswith(_SOURCES_OF_A_PROJECT)
