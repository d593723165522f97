"""Directories as transformers and sentence-transformers save them: in and out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modpkg.adapters.quantised import UNREAD
from modpkg.core import system
from modpkg.core.errors import ConversionError, RunError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG, MODEL_RECORD, MODULES, WEIGHTS
from modpkg.core.files import copy_file, make_folder, write_atomically
from modpkg.core.hub_address import HubAddress
from modpkg.core.installed import InstalledModel, read_model
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed
from modpkg.core.oci_address import OciAddress
from modpkg.interop.contents import (
    OTHER_WEIGHTS,
    PICKLES,
    contents_of,
    copy_data,
    copy_weights,
)
from modpkg.interop.exported_configs import check_exported
from modpkg.interop.full_precision import refs_of, write_full_precision
from modpkg.interop.hub_blob import check_hub_blob, check_links
from modpkg.interop.model_card import CARD, license_of, read_card
from modpkg.interop.module_project import (
    files_of,
    new_project,
    write_manifest,
)
from modpkg.interop.remote_code import leave_out_code
from modpkg.interop.weights import ANY_SIZE, MAX_SHARD, write_weights
from modpkg.release.checkpoint import Checkpoint, checkpoint_of
from modpkg.release.content import check_data, check_path
from modpkg.runtime.architecture import refuse_remote_code
from modpkg.runtime.sentence_modules import (
    EMBEDS,
    WITH_WEIGHTS,
    after_transformer,
    check_modules,
    modules_of,
    split_tensors,
)
from modpkg.runtime.sentence_settings import read_settings
from modpkg.store.store import Store

if TYPE_CHECKING:
    from modpkg.interop.architecture_fit import ArchitectureFit


def import_hf(
    source: Path,
    out: Path,
    name: str,
    version: str,
    *,
    license: str | None = None,
    dequantize: bool = False,
    imported_from: HubAddress | OciAddress | None = None,
) -> list[str]:
    """Write a module of kind ``base`` from a model directory, and return warnings.

    Its weights are what its index names, or ``model.safetensors``; see `checkpoint_of`. They are
    compared with the architecture, as transformers would load them: a parameter without a tensor is
    refused, a tensor that the architecture does not have is left out.

    Args:
        source: The directory.
        out: Folder of the new module.
        name: Name of the new module.
        version: Version of the new module.
        license: SPDX expression; by default the README's.
        dequantize: Whether quantised weights are written in full precision.
        imported_from: Where the directory was downloaded from.

    Raises:
        ConversionError: `source` is not such a directory, or has no safetensors weights.
        ReleaseError: A shard is missing, or the architecture needs other tensors.
        RunError: Its config needs remote code, or is invalid.
        PackError: Its weights are damaged.
        InstallError: `out` cannot be written.
    """
    check_links(source)
    _check_sentence_modules(name, source)
    if not (source / CONFIG).is_file():
        raise ConversionError("M801", path=source, reason=_without_config(source))
    config = read_json(source / CONFIG)
    checkpoint = checkpoint_of(source, config)
    if not checkpoint.files:
        raise ConversionError("M801", path=source, reason=_without_weights(source, checkpoint))
    if below := [file for file in checkpoint.files if "/" in file]:
        reason = f"its index names {listed(below)} in a folder; move it beside the index and name "
        raise ConversionError("M801", path=source, reason=reason + "it so")
    weights, parts = list(checkpoint.files), []
    for kind, part in modules_of(name, source):
        if part:
            parts.append(part)
            weights += _weights_of_part(source, kind, part)
    said = read_card(source)
    spdx, warnings = license_of(said, license)
    warnings += said.warnings
    contents = contents_of(source, weights=weights, why=checkpoint.why, parts=parts)
    with new_project(out) as staged:
        copy_data(source, staged, contents.files)
        warnings += contents.left
        warnings += leave_out_code(staged)
        refuse_remote_code(name, staged)
        warnings += _write_weights(
            name, source, staged, checkpoint.files, weights, dequantize=dequantize
        )
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="base",
            license=spdx,
            summary=said.summary or f"Imported from {imported_from or source.name}",
            task=_task(source, config),
            card=said.card,
            imported_from=imported_from,
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


def _write_weights(
    name: str,
    source: Path,
    staged: Path,
    own: Collection[str],
    every: Collection[str],
    *,
    dequantize: bool,
) -> list[str]:
    """Write the weights beside the configs, compared with the architecture; return warnings.

    Args:
        name: Name of the new module.
        source: The folder.
        staged: Where its configs are already.
        own: The files that the architecture describes.
        every: Those, and the files of modules after the transformer.
        dequantize: Whether quantised weights are written in full precision.
    """
    from modpkg.interop.architecture_fit import check_after_transformer, compare

    warnings = []
    check_after_transformer(name, source, every, staged)
    compared = compare(name, staged, refs_of(source, own))
    stored, full = compared.stored, compared.full
    if dequantize and (stored is None or full is None):
        reason = "its weights are not quantised, so --dequantize has nothing to do"
        if stored is not None:
            reason = f"its weights cannot be dequantised exactly: {compared.reason}"
        raise ConversionError("M801", path=source, reason=reason)
    lacks = compared.report is None
    if stored is not None and not dequantize:
        hint = "import the model that was quantised, to build adapters on it"
        if full is not None:
            hint = "add --dequantize to import it in full precision"
        elif not stored.tensor and not lacks:
            hint = "if its tensors are in full precision, take quantization_config out first"
        where = "the weights are" if stored.tensor else "by its config.json the weights are"
        loads = "they load only where the quantiser is installed"
        if stored.form in UNREAD:
            loads = "transformers does not read them"
        warning = (
            f"{where} quantised ({stored.form}): adapters cannot be built on them, and {loads}; "
        )
        warning += hint
        if lacks:
            warning += f". They were not compared with an architecture: {compared.reason}"
        warnings.append(warning)
    warnings += _run_otherwise(read_json(staged / CONFIG), compared)
    if lacks and stored is None:
        warnings.append(f"the weights were not compared with an architecture: {compared.reason}")
    unexpected = compared.report.unexpected if compared.report is not None else ()
    if unexpected:
        warnings.append(
            f"left out: {listed(unexpected)} (the architecture has no such tensor, and "
            "transformers ignores them)"
        )
    if full is not None and dequantize:
        for file in own:
            check_hub_blob(source / file)
        write_full_precision(source, staged, full.without(frozenset(unexpected)))
        copy_weights(source, staged, set(every) - set(own))
    else:
        copy_weights(source, staged, every, without=frozenset(unexpected))
    return warnings


def _run_otherwise(config: Mapping[str, Any], compared: ArchitectureFit) -> list[str]:
    """Return warnings of where modpkg runs a model otherwise than transformers' ``AutoModel``."""
    warnings = []
    kind, report = config.get("model_type"), compared.report
    if report is not None and isinstance(kind, str) and kind != report.model_type:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if kind in CONFIG_MAPPING:
            warnings.append(
                f"config.json names {report.architecture} in architectures and {kind!r} in "
                "model_type: it runs as the first, and transformers' AutoModel takes the second"
            )
    return warnings


def _without_config(source: Path) -> str:
    """Return why a folder without a config.json is not a model, and what it is instead."""
    if (source / ADAPTER_CONFIG).is_file():
        return f"it is an adapter (import it so: {peft_command(source)})"
    if source.is_file():
        form = "gguf" if source.suffix == ".gguf" else "safetensors"
        return f"it is a file (import it so: modpkg import {form} {system.shell_word(str(source))})"
    if reason := _gguf(source):
        return f"it has no config.json; {reason}"
    if snapshots := sorted(path.parent.name for path in source.glob(f"snapshots/*/{CONFIG}")):
        reason = f"it is a model's folder of a hub's cache; import snapshots/{snapshots[-1]}"
        place = system.shell_word(str(source / "snapshots" / snapshots[-1]))
        return f"{reason}: modpkg import hf {place}"
    if cached := sorted(source.glob("models--*/snapshots/*")) or sorted(
        source.glob("hub/models--*/snapshots/*")
    ):
        folders = dict.fromkeys(path.parents[1].name for path in cached)
        names = [name.removeprefix("models--").replace("--", "/") for name in folders]
        form = "peft --base NAME" if (cached[0] / ADAPTER_CONFIG).is_file() else "hf"
        return (
            f"it is a hub's cache, of {listed(names)}; import one of its models, like: "
            f"modpkg import {form} {system.shell_word(str(cached[0]))}"
        )
    inside = sorted(path.parent.name for path in source.glob(f"*/{CONFIG}"))
    hint = f"; its folders {listed(inside)} have one" if inside else ""
    return f"it has no config.json{hint}"


def _without_weights(source: Path, checkpoint: Checkpoint) -> str:
    """Return why a folder has no weights that can be taken."""
    if (source / WEIGHTS).is_symlink():
        return f"its {WEIGHTS} is a broken link; fetch the folder again"
    if (source / ADAPTER_CONFIG).is_file():
        return f"it has an adapter's files only (import them so: {peft_command(source)})"
    if others := sorted(path.name for path in source.glob("*.safetensors")):
        return (
            f"{checkpoint.why}, so that it is not known whether {listed(others)} is the whole "
            f"model; rename its file to {WEIGHTS}, or write an index"
        )
    for pattern in OTHER_WEIGHTS:
        others = sorted(path.name for path in source.glob(pattern))
        if others and pattern != "*.gguf":
            kind = "pickles" if pattern in PICKLES else "of a format that is not imported"
            return (
                f"its weights are {kind} ({others[0]}); save them as safetensors first: "
                f"{_rewritten(source)}. Then: modpkg import hf NEW"
            )
    return _gguf(source) or "it has no *.safetensors"


def peft_command(source: Path) -> str:
    """Return the command that imports an adapter's folder."""
    return f"modpkg import peft {system.shell_word(str(source))} --base NAME"


def _rewritten(source: Path) -> str:
    """Return the Python that saves a folder's model as safetensors in a folder NEW."""
    architectures = read_json(source / CONFIG).get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    known = isinstance(name, str) and name.isidentifier()
    return (
        f"transformers.{name if known else 'AutoModel'}.from_pretrained({str(source)!r}, "
        "dtype='auto').save_pretrained('NEW'), and copy its tokenizer's files into NEW"
    )


def _gguf(source: Path) -> str | None:
    """Return what to do with a folder of GGUF files; None if it has none."""
    found = sorted(path.name for path in source.glob("*.gguf"))
    if not found:
        return None
    return f"'modpkg import gguf' takes its {listed(found)}"


def _weights_of_part(source: Path, kind: str, part: str) -> list[str]:
    """Return the weights of a module of sentence-transformers, by their paths in the folder.

    Raises:
        ConversionError: Its weights are missing, or pickles.
    """
    files = [f"{part}/{file}" for file in checkpoint_of(source / part).files]
    if not files and (kind in WITH_WEIGHTS or list((source / part).glob("*.bin"))):
        reason = f"its {part} has no model.safetensors; load it with sentence-transformers and "
        raise ConversionError("M801", path=source, reason=reason + "save() it")
    return files


def _task(source: Path, config: Mapping[str, Any]) -> str | None:
    """Return the task that the config names; None if it names none."""
    if (source / MODULES).exists():
        return "feature-extraction"
    architectures = config.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if first.endswith(("ForCausalLM", "LMHeadModel")):
        return "text-generation"
    if first.endswith("ForSequenceClassification"):
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
    store: Store | None = None,
) -> None:
    """Write an installed model's files and weights as transformers saves them.

    Modules after the transformer (sentence-transformers) are left out when the model has another
    task than embedding: a head reads the transformer's output. With a ``store`` the weights are
    linked where possible; see `write_weights`.

    Raises:
        RunError: A config names code that the other tool would run.
    """
    check_exported(model.name, folder)
    left: tuple[str, ...] = (MODEL_RECORD,)
    own, after = split_tensors(model.name, folder, model.tensors)
    if (model.task or {}).get("kind", EMBEDS) != EMBEDS:
        left += after_transformer(model.name, folder)
        after = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and relative not in left:
            check_path(relative)
            check_data(path, relative)
            make_folder((staged / relative).parent)
            copy_file(path, staged / relative, mode=0o644)
    write_weights(own, packs, staged, max_shard_bytes=max_shard_bytes, store=store)
    for part, tensors in after.items():
        make_folder(staged / part)
        write_weights(tensors, packs, staged / part, max_shard_bytes=ANY_SIZE, store=store)


def export_hf(
    folder: Path,
    packs: Path,
    out: Path,
    *,
    max_shard_bytes: int = MAX_SHARD,
    store: Store | None = None,
    card: str | None = None,
) -> list[str]:
    """Write an installed model as a directory that transformers opens; return the file names.

    Weights are copied byte for byte, in one safetensors file or, above ``max_shard_bytes`` of
    tensors, in several with an index. With a ``store`` they are linked where possible; see
    `write_weights`. ``card`` is its model card, in place of the base's.

    Raises:
        ConversionError: The model reads virtual tokens, or `out` is not empty.
        InstallError: `out` cannot be written.
        EnvironmentDamaged: The model's record is damaged.
    """
    with new_project(out) as staged:
        model = read_exportable(folder, "hf")
        write_hf(model, folder, packs, staged, max_shard_bytes=max_shard_bytes, store=store)
        if card is not None:
            write_atomically(staged / CARD, card.encode())
    return files_of(out)
