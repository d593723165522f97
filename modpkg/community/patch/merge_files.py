"""The files of a merge: a three-way merge by file, and by key in configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.compose.operators.head import is_document
from modpkg.core.digests import Digest, digest_file
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG
from modpkg.core.jsonfile import json_text, read_json

_BY_KEY = (CONFIG, GENERATION_CONFIG)
_IGNORED_KEYS = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
"""Keys that every save rewrites: the base's are kept."""


class FileConflict(Struct, frozen=True):
    """A file that several parents changed differently."""

    path: str
    reason: str


class MergedFiles(Struct, frozen=True):
    """The files of a merge, and those in conflict."""

    files: dict[str, Path]
    written: dict[str, bytes]
    """Contents of files that were merged by key."""
    conflicts: tuple[FileConflict, ...]
    known: tuple[str, ...]
    """Paths of all files that the base or a parent has."""


def merge_files(
    base: Mapping[str, Path],
    parents: Sequence[Mapping[str, Path]],
    choose: Callable[[str], str | int | None] = lambda path: None,
) -> MergedFiles:
    """Merge files.

    A file that one parent changed is taken from it. If several did, a configuration is merged by
    key, and any other file is a conflict. Documents (README, licence, test cases) are the base's;
    one that only parents have is the one with the lowest digest. If a parent has no config.json,
    it is weights only, and its missing files count as unchanged.

    Args:
        base: The base's files, by path.
        parents: The parents' files.
        choose: Decides a conflict: returns "base", the index of a parent, or None.
    """
    digests: dict[Path, Digest] = {}

    def digest(path: Path | None) -> Digest | None:
        if path is None:
            return None
        if path not in digests:
            digests[path] = digest_file(path)
        return digests[path]

    files: dict[str, Path] = {}
    written: dict[str, bytes] = {}
    conflicts = []
    known = sorted({*base, *(path for files in parents for path in files)})
    for path in known:
        own = base.get(path)
        theirs = [_file(parent, path, own) for parent in parents]
        changed = [file for file in theirs if digest(file) != digest(own)]
        chosen: Path | None = changed[0] if changed else own
        if len({digest(file) for file in changed}) > 1:
            if path != CONFIG and is_document(path):
                chosen = own or min(filter(None, changed), key=digest_file)
            elif (choice := choose(path)) is not None:
                chosen = own if isinstance(choice, str) else theirs[choice]
            else:
                merged = _by_key(path, own, changed)
                if isinstance(merged, str):
                    conflicts.append(FileConflict(path, merged))
                else:
                    written[path] = merged
                continue
        if chosen is not None:
            files[path] = chosen
    return MergedFiles(files, written, tuple(conflicts), tuple(known))


def _file(files: Mapping[str, Path], path: str, own: Path | None) -> Path | None:
    missing = own if CONFIG not in files or is_document(path) else None
    return files.get(path, missing)


def _by_key(path: str, own: Path | None, changed: Sequence[Path | None]) -> bytes | str:
    """Return a configuration with all changes, or the reason for a conflict."""
    if any(file is None for file in changed):
        return "removed in one, changed in another"
    if path not in _BY_KEY or own is None:
        return "changed in different ways"
    before = read_json(own)
    after: dict[str, Any] = dict(before)
    changes: dict[str, Any] = {}
    for file in changed:
        now = read_json(file) if file is not None else {}
        for key in {*before, *now}:
            if key in _IGNORED_KEYS or (key in now and key in before and now[key] == before[key]):
                continue
            value = now.get(key, msgspec.UNSET)
            if key in changes and changes[key] != value:
                return f"{key!r} is set to different values"
            changes[key] = value
    for key, value in changes.items():
        if value is msgspec.UNSET:
            after.pop(key, None)
        else:
            after[key] = value
    return json_text(after) + b"\n"
