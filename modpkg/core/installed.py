"""Modules and models whose files are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core import system
from modpkg.core.bounds import MODEL_FILES
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import digest_file
from modpkg.core.errors import EnvironmentDamaged
from modpkg.core.filenames import MODEL_RECORD
from modpkg.core.interface import weights_digest
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.records import DigestText, ReleaseRecord, Shape
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import unseal
from modpkg.core.system_folders import is_link

REPAIR = "'modpkg install' repairs it"
"""What to do about a damaged environment."""


class TensorRef(Struct, frozen=True):
    """A tensor's bytes on this machine; they were verified when they came into the store."""

    file: str
    """Path of the pack; absolute, or its name in an environment's ``packs`` folder."""
    offset: int
    length: int
    dtype: str
    """As safetensors spells it."""
    shape: Shape
    digest: DigestText


class InstalledModule(Struct, frozen=True, kw_only=True):
    """A module of the resolution that is complete in the store."""

    name: str
    version: str
    kind: str
    release: DigestText
    record: ReleaseRecord
    tensors: dict[str, TensorRef]
    files: dict[str, Path]
    """By path inside the release, the blob in the store."""


class Prompt(Struct, frozen=True, kw_only=True):
    """Virtual tokens that a model reads before its text."""

    module: str
    """The module that they are from."""
    count: int
    task: str
    """PEFT's ``task_type``: it decides where they go."""
    heads: int | None
    """Number of heads that keys and values are divided among; None for embeddings."""
    index: int
    """Index of the task, where there are several."""
    tensors: dict[str, TensorRef]
    """``embeddings``; for several tasks, ``columns`` and ``rows`` beside them."""


class InstalledModel(Struct, kw_only=True):
    """``model.json``: one runnable model of an environment, beside its config and tokenizer.

    It is stored in ``generations/<n>/models/<name>/``, sealed (see `seal`); ``file`` of its
    tensors is relative to the environment's ``packs`` folder.
    """

    spec: int = 1
    name: str
    version: str
    key: str
    """Digest of the composition's inputs."""
    result: str | None
    """Digest of what was composed; see `modpkg.core.interface.weights_digest`. None until then: the
    model is composed when it is first loaded."""
    task: dict[str, object] | None
    tensors: dict[str, TensorRef]
    """Empty until it is composed."""
    modules: dict[str, str]
    """The modules it was composed of, with their versions."""
    recipe: dict[str, object]
    """Its recipe: ``base``, ``steps`` …, as under ``[compose]``."""
    prompt: Prompt | None = None
    files: dict[str, DigestText] | None = None
    """Digests of the files beside it, by path; None where an older modpkg made it."""


def read_model(folder: Path) -> InstalledModel:
    """Return the record of a model in a folder that modpkg has just written, or has checked.

    Raises:
        EnvironmentDamaged: The record is missing or damaged.
    """
    try:
        return unseal(read_file(folder / MODEL_RECORD, follow=False), InstalledModel)
    except (OSError, msgspec.MsgspecError) as error:
        if isinstance(error, OSError) and system.is_failure(error):
            raise  # what the disk does not give is not damaged
        raise _damaged(folder, decoding_reason(error)) from None


def read_installed(folder: Path, packs: Path) -> InstalledModel:
    """Return the record of a model of an environment, whose folder and packs are its own.

    The folder came from wherever the project came from: its seal only detects damage. Nothing in it
    may therefore be a link, and its record names only files among the environment's packs.

    Raises:
        EnvironmentDamaged: The record is missing or damaged, or names a file elsewhere, or
            something in the folder is neither a file nor a folder, or was changed.
    """
    model = read_model(folder)
    prompt = model.prompt.tensors if model.prompt is not None else {}
    for name in {ref.file for ref in (*model.tensors.values(), *prompt.values())}:
        if not is_pack_name(name):
            reason = f"its record names a file that is no pack of its own: {name[:200]}"
            raise _damaged(folder, reason)
        if is_link(packs / name):
            raise _damaged(folder, f"its pack {name} is a link")
    try:
        for parent in (folder, *folder.parents[:2]):
            if is_link(parent):
                raise _damaged(folder, f"{parent.name} is a link")
        strange = irregular_in(folder)
        if strange is None and model.files is not None and files_in(folder) != model.files:
            strange = "a file beside its record was changed, added or removed"
    except OSError as error:
        if system.is_failure(error):
            raise  # what the disk does not give is not damaged
        strange = str(error)
    if strange is None and model.result not in (None, weights_digest(model.tensors)):
        strange = "its result is not that of its tensors"
    if strange is not None:
        raise _damaged(folder, strange)
    return model


def files_in(folder: Path) -> dict[str, DigestText]:
    """Return the digests of the files in a model's folder beside its record, by path.

    Raises:
        OSError: One cannot be read.
    """
    paths = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _digest(named[name]) for name in sorted(named) if name != MODEL_RECORD}


def _digest(path: Path) -> DigestText:
    """Return a file's digest; models link the same tokenizer, which is hashed once per process."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity not in _digests:
        _digests[identity] = digest_file(path)
    return _digests[identity]


_digests: dict[tuple[int, int, int, int], DigestText] = {}
"""Digests of files by device, inode, size and time of the last change."""


def _damaged(folder: Path, reason: str) -> EnvironmentDamaged:
    return EnvironmentDamaged("M506", path=folder, reason=reason, remedy=REPAIR)


def is_pack_name(name: str) -> bool:
    """Return whether a text has the form of the name of a pack in an environment."""
    return _PACK.fullmatch(name) is not None


_PACK = lazy_pattern(r"[0-9a-f]{64}(?:-[0-9]{1,2}-of-[0-9]{1,2})?(?:\.[a-z]{1,20})?")


def irregular_in(folder: Path) -> str | None:
    """Return what in a folder is neither a file nor a folder, such as a link; None if nothing is.

    Raises:
        OSError: A folder cannot be listed.
    """
    pending, seen = [folder], 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MODEL_FILES:
                    return f"it has more than {MODEL_FILES} files"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    return f"{entry.name} is neither a file nor a folder of its own"
    return None
