"""Modules and models whose files are on this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.errors import EnvironmentDamaged
from modpkg.core.filenames import MODEL_RECORD
from modpkg.core.records import DigestText, ReleaseRecord, Shape
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import unseal

REPAIR = "'modpkg install' repairs it"
"""What to do about a damaged environment."""


class TensorRef(Struct, frozen=True):
    """A tensor's bytes on this machine; they were verified when they came into the store."""

    file: str
    """Path of the pack; absolute, or relative to an environment's ``packs`` folder."""
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


def read_model(folder: Path) -> InstalledModel:
    """Return the record of an installed model.

    Raises:
        EnvironmentDamaged: The record is missing or damaged.
    """
    try:
        return unseal(read_file(folder / MODEL_RECORD), InstalledModel)
    except (OSError, msgspec.MsgspecError) as error:
        raise EnvironmentDamaged("M506", path=folder, reason=str(error), remedy=REPAIR) from None
