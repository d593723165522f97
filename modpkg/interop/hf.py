"""Directories as transformers and sentence-transformers save them: in and out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.core.errors import ConversionError, RunError
from modpkg.core.filenames import CONFIG, MODEL_RECORD, MODULES, WEIGHTS
from modpkg.core.installed import InstalledModel, read_model
from modpkg.core.jsonfile import read_json
from modpkg.core.packs import read_pack_header
from modpkg.interop.module_project import (
    copy_files,
    files_of,
    front_matter,
    license_of,
    new_project,
    write_manifest,
)
from modpkg.interop.weights import MAX_SHARD, write_weights
from modpkg.runtime.architecture import refuse_remote_code
from modpkg.runtime.sentence_modules import (
    EMBEDS,
    after_transformer,
    check_modules,
    modules_of,
    split_tensors,
)
from modpkg.runtime.sentence_settings import read_settings

IGNORED_FILES = (
    "onnx/*",
    "openvino/*",
    "*.safetensors.index.json",
    "*.msgpack",
    "*.h5",
    "*.bin",
    "*.ot",
)
"""Files of a model directory that are not imported: weights in other formats, and indexes."""


def import_hf(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``base`` from a model directory, and return warnings.

    Raises:
        ConversionError: `source` is not such a directory, or has no safetensors weights.
        RunError: Its config needs remote code.
        PackError: Its weights are damaged.
        InstallError: `out` cannot be written.
    """
    _check_sentence_modules(name, source)
    if not (source / CONFIG).is_file():
        raise ConversionError("M801", path=source, reason="it has no config.json")
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in source.glob("*.bin"))
        raise ConversionError(
            "M801",
            path=source,
            reason=f"its weights are pickles ({pickles[0]}); load it with transformers and "
            "save_pretrained() it, which writes safetensors"
            if pickles
            else "it has no *.safetensors",
        )
    config = read_json(source / CONFIG)
    refuse_remote_code(name, source)
    for kind, part in modules_of(name, source):
        if kind in ("Dense", "LayerNorm") and not (source / part / WEIGHTS).is_file():
            reason = f"its {part} has no model.safetensors; load it with sentence-transformers and "
            raise ConversionError("M801", path=source, reason=reason + "save() it")
    for path in weights:
        read_pack_header(path.resolve())
    spdx, warnings = license_of(source, license)
    with new_project(out) as staged:
        left = copy_files(source, staged, skip=IGNORED_FILES)
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


def _check_sentence_modules(name: str, source: Path) -> None:
    """Check that modpkg runs the modules and settings of a sentence-transformers model.

    Raises:
        ConversionError: It does not.
    """
    modules = modules_of(name, source)
    if not (source / MODULES).exists():
        return
    try:
        check_modules(name, modules)
        read_settings(name, source)
    except RunError as error:
        reason = f"{error.values['reason']}. To import the transformer alone, take {MODULES} away"
        raise ConversionError("M801", path=source, reason=reason) from None


def _task(source: Path, config: Mapping[str, Any]) -> str | None:
    """Return the task that the config names; None if it names none."""
    if (source / MODULES).exists():
        return "feature-extraction"
    architectures = config.get("architectures") or [""]
    if architectures[0].endswith(("ForCausalLM", "LMHeadModel")):
        return "text-generation"
    if architectures[0].endswith("ForSequenceClassification"):
        return "text-classification"
    return None


def read_exportable(folder: Path, form: str) -> InstalledModel:
    """Return the record of an installed model that can be written as weights alone.

    Raises:
        ConversionError: The model reads virtual tokens, which are not weights.
        EnvironmentDamaged: The record is damaged.
    """
    model = read_model(folder)
    if model.prompt is not None:
        raise ConversionError(
            "M805",
            name=model.name,
            form=form,
            reason=f"it reads the virtual tokens of {model.prompt.module} while it runs, and they "
            "cannot be merged into weights; use modpkg.load or 'modpkg run', or export the adapter "
            "to peft",
        )
    return model


def write_hf(
    model: InstalledModel,
    folder: Path,
    packs: Path,
    staged: Path,
    *,
    max_shard_bytes: int = MAX_SHARD,
) -> None:
    """Write an installed model's files and weights as transformers saves them.

    Modules after the transformer (sentence-transformers) are left out when the model has another
    task than embedding: a head reads the transformer's output.
    """
    left: tuple[str, ...] = (MODEL_RECORD,)
    own, after = split_tensors(model.name, folder, model.tensors)
    if (model.task or {}).get("kind", EMBEDS) != EMBEDS:
        left += after_transformer(model.name, folder)
        after = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and relative not in left:
            (staged / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / relative)
            (staged / relative).chmod(0o644)
    write_weights(own, packs, staged, max_shard_bytes=max_shard_bytes)
    for part, tensors in after.items():
        (staged / part).mkdir(parents=True, exist_ok=True)
        write_weights(tensors, packs, staged / part)


def export_hf(
    folder: Path, packs: Path, out: Path, *, max_shard_bytes: int = MAX_SHARD
) -> list[str]:
    """Write an installed model as a directory that transformers opens; return the file names.

    Weights are copied byte for byte, in one safetensors file or, above ``max_shard_bytes`` of
    tensors, in several with an index.

    Raises:
        ConversionError: The model reads virtual tokens, or `out` is not empty.
        InstallError: `out` cannot be written.
        EnvironmentDamaged: The model's record is damaged.
    """
    with new_project(out) as staged:
        write_hf(
            read_exportable(folder, "hf"), folder, packs, staged, max_shard_bytes=max_shard_bytes
        )
    return files_of(out)
