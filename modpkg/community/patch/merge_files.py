"""The files of a merge: three ways, file by file, and key by key in configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.compose.operators.head import is_document
from modpkg.core.digests import Digest, digest_file
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.core.records import canonical_json

_BY_KEY = (CONFIG, GENERATION_CONFIG)
_OF_NO_MATTER = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
"""Keys that saving sets anew: the base's stay."""


class FileConflict(Struct, frozen=True):
    """A file that several parents changed, and not to the same."""

    path: str
    reason: str


class MergedFiles(Struct, frozen=True):
    """Files of the result, and those that need a choice."""

    files: dict[str, Path]
    written: dict[str, bytes]
    """Files that were put together."""
    conflicts: tuple[FileConflict, ...]
    known: tuple[str, ...]
    """Paths of all files that the base or a parent has."""


def merge_files(
    base: Mapping[str, Path],
    parents: Sequence[Mapping[str, Path]],
    choose: Callable[[str], str | int | None] = lambda path: None,
) -> MergedFiles:
    """Return the files of the merge.

    A file that one parent changed is taken from it. One that several did is put together by key,
    if it is a configuration, or else a conflict, for which ``choose`` may name the base or a
    parent. Documents (README, licence, cases of tests) are the base's; of one that only parents
    have, the one with the lowest digest. Of a parent without a config.json, which is weights
    alone, a file that is not there counts as not changed.
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
            elif (said := choose(path)) is not None:
                chosen = own if isinstance(said, str) else theirs[said]
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
    """Return a configuration with the changes of all, or why there is none."""
    if any(file is None for file in changed):
        return "one removes it, another changes it"
    if path not in _BY_KEY or own is None:
        return "they changed it in different ways"
    before = read_json(own)
    after: dict[str, Any] = dict(before)
    told: dict[str, Any] = {}
    for file in changed:
        now = read_json(file) if file is not None else {}
        for key in {*before, *now}:
            if key in _OF_NO_MATTER or (key in now and key in before and now[key] == before[key]):
                continue
            value = now.get(key, msgspec.UNSET)
            if key in told and told[key] != value:
                return f"they set {key!r} to different values"
            told[key] = value
    for key, value in told.items():
        if value is msgspec.UNSET:
            after.pop(key, None)
        else:
            after[key] = value
    return msgspec.json.format(canonical_json(after), indent=2) + b"\n"
