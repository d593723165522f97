"""Directories as transformers and sentence-transformers save them: in and out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from modpkg.digests import file_chunks
from modpkg.errors import ImportRefused
from modpkg.files import write_atomically
from modpkg.installed import MODEL_RECORD, TensorRef, read_model
from modpkg.interop.module_project import (
    copy_files,
    front_matter,
    license_of,
    new_project,
    write_manifest,
)
from modpkg.packs import pack_chunks, read_pack_header
from modpkg.release.data import read_json
from modpkg.runtime.architecture import refuse_remote_code

MAX_SHARD = 5_000_000_000
"""Bytes of tensors in one file; transformers' own default."""

_SKIP = ("onnx/*", "openvino/*", "*.safetensors.index.json", "*.msgpack", "*.h5", "*.bin", "*.ot")


def import_hf(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``base`` from a model directory, and return warnings.

    Raises:
        ImportRefused: it is no such directory, or has no safetensors weights.
        RemoteCode: its config asks for code of its own.
        FolderNotEmpty, PackError, DiskFull.
    """
    if not (source / "config.json").is_file():
        raise ImportRefused(path=source, reason="it has no config.json")
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in source.glob("*.bin"))
        raise ImportRefused(
            path=source,
            reason=f"its weights are pickles ({pickles[0]}); load it with transformers and "
            "save_pretrained() it, which writes safetensors"
            if pickles
            else "it has no *.safetensors",
        )
    config = read_json(source / "config.json")
    refuse_remote_code(name, source)
    for path in weights:
        read_pack_header(path.resolve())
    spdx, warnings = license_of(source, license)
    with new_project(out) as staged:
        left = copy_files(source, staged, skip=_SKIP)
        warnings += [f"left out: {item}" for item in left]
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="base",
            license=spdx,
            summary=front_matter(source / "README.md", "summary") or f"Imported from {source.name}",
            task=_task(source, config),
        )
    return warnings


def _task(source: Path, config: Mapping[str, Any]) -> str | None:
    """Return the task that the directory is for, when it says so."""
    if (source / "modules.json").exists():
        return "feature-extraction"
    architectures = config.get("architectures") or [""]
    if architectures[0].endswith(("ForCausalLM", "LMHeadModel")):
        return "text-generation"
    if architectures[0].endswith("ForSequenceClassification"):
        return "text-classification"
    return None


def export_hf(
    folder: Path, packs: Path, out: Path, *, max_shard_bytes: int = MAX_SHARD
) -> list[str]:
    """Write an installed model as a directory that transformers opens; return the file names.

    Weights are copied byte for byte, in one safetensors file or, above ``max_shard_bytes`` of
    tensors, in several with an index.

    Raises:
        FolderNotEmpty, DiskFull, EnvironmentDamaged.
    """
    model = read_model(folder)
    with new_project(out) as staged:
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_file() and relative.as_posix() != MODEL_RECORD:
                (staged / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, staged / relative)
                (staged / relative).chmod(0o644)
        shards = _shards(model.tensors, max_shard_bytes)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            file = "model.safetensors"
            if len(shards) > 1:
                file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            refs = {name: model.tensors[name] for name in names}
            types = {name: (ref.dtype, tuple(ref.shape)) for name, ref in refs.items()}
            data = {name: _bytes(packs, ref) for name, ref in refs.items()}
            write_atomically(staged / file, pack_chunks(types, data))
            weight_map |= dict.fromkeys(names, file)
        if len(shards) > 1:
            index = {
                "metadata": {"total_size": sum(ref.length for ref in model.tensors.values())},
                "weight_map": dict(sorted(weight_map.items())),
            }
            text = msgspec.json.format(msgspec.json.encode(index), indent=2)
            write_atomically(staged / "model.safetensors.index.json", text)
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _shards(tensors: Mapping[str, TensorRef], limit: int) -> list[list[str]]:
    """Split tensors into groups of at most ``limit`` bytes, in the order of their names."""
    groups: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        length = tensors[name].length
        if groups[-1] and size + length > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += length
    return groups


def _bytes(packs: Path, ref: TensorRef) -> Iterator[bytes]:
    yield from file_chunks(packs / ref.file, ref.offset, ref.length)
