"""A module that acts on a base, as a model by itself: alone on its base, at full scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from modpkg.adapters import METHODS
from modpkg.adapters.memory import disk_names, read_memory
from modpkg.core.digests import parse_digest
from modpkg.core.filenames import ADAPTER_CONFIG, MEMORY, PATCH
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.core.records import ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.manifest.schema import Compose, Step

ON_A_BASE = ("adapter", "head", "patch")
"""Kinds of modules that are a model together with the base that they were made for."""
ASSEMBLED_FROM = (ADAPTER_CONFIG, MEMORY)
"""The files of a release that `assembly` reads."""


def base_of(record: ReleaseRecord) -> str | None:
    """Return the name of the base that a release was built against; None if there is none."""
    return next(iter(record.expects), None)


def assembled_from(record: ReleaseRecord, blobs: BlobTree) -> dict[str, Path]:
    """Return the files of a release that `assembly` reads, those that it has, by path."""
    return {
        path: blobs.path(parse_digest(record.files[path].digest))
        for path in record.files.keys() & set(ASSEMBLED_FROM)
    }


def assembly(record: ReleaseRecord, base: Collection[str], files: Mapping[str, Path]) -> Compose:
    """Return the recipe of a release on the base that it was built against (see `base_of`).

    The base is untied for an adapter that needs it.

    Args:
        record: The release.
        base: The names of the base's tensors, of which a head replaces those of the same names.
        files: Its files, from `assembled_from`.
    """
    name = module_name(record.name)
    step = Step(op=_operator(record, files), module=name)
    memory = read_memory(dict(files), record.name)
    if step.op == "head":
        names = disk_names(memory, record.tensors)
        replaced = tuple(sorted(set(names.values()) & set(base)))
        step = Step(op="head", module=name, replace=replaced)
    return Compose(
        base=module_name(next(iter(record.expects))),
        steps=(step,),
        tie_word_embeddings=None if memory is None or memory.untied is None else False,
    )


def _operator(record: ReleaseRecord, files: Mapping[str, Path]) -> str:
    """Return the operator that applies a module to its base."""
    if record.kind == "head":
        return "head"
    if ADAPTER_CONFIG in record.files:
        method = METHODS.get(str(read_json(files[ADAPTER_CONFIG]).get("peft_type")))
        return method.operator if method is not None else "lora"
    if PATCH in record.files:
        return "patch"
    scattered = all(name.endswith((".indices", ".values")) for name in record.tensors)
    return "sparse" if scattered else "replace"
