"""Adapter directories of PEFT: import and export."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from modpkg.adapters.reader import check_alone
from modpkg.compose.named_code import check_no_code
from modpkg.core.digests import parse_digest
from modpkg.core.errors import (
    ConversionError,
    InvalidValue,
    ModpkgError,
    ReleaseError,
)
from modpkg.core.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, MANIFEST, MEMORY, MODULES
from modpkg.core.files import make_folder, shown, write_atomically
from modpkg.core.hub_address import HubAddress
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import json_text, read_json
from modpkg.core.names import (
    ModuleName,
    listed,
    parse_requirement,
    parse_version,
    specifier_text,
)
from modpkg.core.packs import read_pack_header
from modpkg.core.tensors import types_of
from modpkg.core.tree import copy_verified
from modpkg.environment.absent import not_installed, nothing_installed
from modpkg.environment.generations import Environment, ModuleState
from modpkg.environment.releases import fetch_module
from modpkg.environment.workspace import Workspace
from modpkg.interop.contents import contents_of, copy_data, copy_weights
from modpkg.interop.exported_configs import without_foreign_class
from modpkg.interop.foreign_adapters import as_peft
from modpkg.interop.hub_blob import check_links
from modpkg.interop.hub_licenses import UNKNOWN_LICENSE
from modpkg.interop.model_card import CARD, license_of, read_card
from modpkg.interop.module_project import (
    files_of,
    new_project,
    write_manifest,
)
from modpkg.interop.narrow_adapters import widen
from modpkg.interop.peft_names import names_in_memory, names_of_layers
from modpkg.interop.weights import ANY_SIZE, write_weights
from modpkg.manifest.against import parse_release
from modpkg.manifest.read import read_manifest
from modpkg.manifest.schema import Compose
from modpkg.registry.base import find_base
from modpkg.release.base import Base
from modpkg.release.checkpoint import checkpoint_of
from modpkg.release.content import check_path
from modpkg.resolve.lock import LockedModule
from modpkg.runtime.memory_layout import layout_of
from modpkg.runtime.sentence_modules import WITH_WEIGHTS, modules_of
from modpkg.store.store import Store


def import_peft(
    source: Path,
    out: Path,
    name: str,
    version: str,
    *,
    base: str,
    against: str | None = None,
    license: str | None = None,
    part: str | None = None,
    workspace: Workspace | None = None,
    imported_from: HubAddress | None = None,
) -> list[str]:
    """Write a module of kind ``adapter`` from an adapter directory, and return warnings.

    Adapters of mlx-lm, kohya, LyCORIS and diffusers are converted to PEFT's form.

    ``base`` is the requirement on the base it was trained on. Building the module checks that the
    adapter can be composed exactly with that base.

    Args:
        source: The directory, or a file of kohya, LyCORIS or diffusers.
        out: Folder of the project.
        name: Name of the module.
        version: Its version.
        base: The requirement.
        against: The release of the base that it was trained on, as ``NAME==VERSION``; None if the
            requirement has only one version, or nobody knows.
        license: SPDX expression, if the source has none.
        part: Which part of a file that is for several models.
        workspace: Finds the base of a file whose names alone do not tell the layers.
        imported_from: Where the directory was downloaded from.

    Raises:
        ConversionError: `source` is not such a directory, or its weights are a pickle.
        InvalidValue: `base` is not a requirement, or `against` no release in its range.
        RegistryError, NotFound: The base is needed and not found.
        PackError: The weights are damaged.
        ComposeError: Its method or one of its settings is not supported, whatever its base.
        InstallError: `out` cannot be written.
    """
    pin = against_of(base, against)
    find = None if workspace is None else partial(_base, workspace, name, version, base, pin)
    check_links(source)
    with as_peft(source, part=part, find=find) as (folder, warnings):
        return warnings + _import(
            folder,
            out,
            name,
            version,
            base=base,
            against=pin,
            license=license,
            imported_from=imported_from,
        )


def against_of(base: str, against: str | None) -> str | None:
    """Return the release of a base that an adapter was trained on, as far as it was given.

    Raises:
        InvalidValue: ``base`` is not a requirement, or ``against`` is no release in its range.
    """
    requirement = parse_requirement(base)
    name, specifier = requirement.name, requirement.specifier
    if against is not None:
        other, version = parse_release(against, name)
        if other != name or not specifier.contains(version, prereleases=True):
            raise InvalidValue("M116", against=against, base=base)
        return f"{name}=={version}"
    for clause in specifier:
        if clause.operator == "==" and not clause.version.endswith(".*"):
            return f"{name}=={parse_version(clause.version)}"
    return None


def _base(workspace: Workspace, name: str, version: str, base: str, against: str | None) -> Base:
    """Return the release of a base that an adapter is converted for, as for a build."""
    requirement = parse_requirement(base)
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(
            Path(folder),
            name=name,
            version=version,
            kind="adapter",
            license=UNKNOWN_LICENSE,
            summary=name,
            base=(requirement.name, specifier_text(requirement.specifier) or "*"),
            against=against,
        )
        manifest = read_manifest(Path(folder) / MANIFEST)
    registry = workspace.registries_for(manifest).of(requirement.name)
    try:
        return find_base(manifest, {requirement.name: registry})
    except ReleaseError as error:
        if error.code != "M210":
            raise
        found = error.values["found"]
        raise ReleaseError("M210", where=f"--base {base}", kind="adapter", found=found) from None


def _import(
    source: Path,
    out: Path,
    name: str,
    version: str,
    *,
    base: str,
    against: str | None,
    license: str | None,
    imported_from: HubAddress | None,
) -> list[str]:
    requirement = parse_requirement(base)
    if not (source / ADAPTER_CONFIG).is_file():
        raise ConversionError("M801", path=source, reason=_without_config(source))
    weights = source / ADAPTER_WEIGHTS
    if not weights.is_file():
        pickle = (source / "adapter_model.bin").is_file()
        raise ConversionError(
            "M801",
            path=source,
            reason="its weights are a pickle (adapter_model.bin); load it with PEFT and save it "
            "with safe_serialization=True"
            if pickle
            else "it has no adapter_model.safetensors",
        )
    types = types_of(read_pack_header(weights.resolve()))
    config = read_json(source / ADAPTER_CONFIG)
    check_alone(name, types, config)
    kind = config["peft_type"]
    said = read_card(source)
    spdx, warnings = license_of(said, license)
    warnings += said.warnings
    why = f"an adapter's weights are {ADAPTER_WEIGHTS}"
    parts = _sentence_folders(name, source)
    contents = contents_of(source, weights=[ADAPTER_WEIGHTS], why=why, parts=parts)
    with new_project(out) as staged:
        copy_data(source, staged, contents.files)
        copy_weights(source, staged, [ADAPTER_WEIGHTS])
        warnings += [*contents.left, *widen(staged / ADAPTER_WEIGHTS)]
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="adapter",
            license=spdx,
            summary=f"{kind} adapter for {requirement.name}",
            card=said.card,
            imported_from=imported_from,
            base=(requirement.name, specifier_text(requirement.specifier) or "*"),
            against=against,
        )
    return warnings


def _sentence_folders(name: str, source: Path) -> list[str]:
    """Return the folders of the modules that an adapter of sentence-transformers has beside it.

    Raises:
        ConversionError: One has weights, which an adapter does not carry.
        RunError: ``modules.json`` is invalid.
    """
    parts = [(kind, part) for kind, part in modules_of(name, source) if part]
    for kind, part in parts:
        if kind in WITH_WEIGHTS or checkpoint_of(source / part).files:
            raise ConversionError(
                "M801",
                path=source,
                reason=f"its {part} has weights, which an adapter does not carry. If they are its "
                f"base's, take {MODULES} away: the base's modules are then used",
            )
    return [part for _, part in parts]


def _without_config(source: Path) -> str:
    """Return why a folder without an adapter_config.json is not an adapter, and what it holds."""
    if inside := sorted(path.parent.name for path in source.glob(f"*/{ADAPTER_CONFIG}")):
        one = shown(source / inside[0])
        return (
            f"it is not an adapter but holds {listed(inside)}; import each by its folder, as "
            f"'modpkg import peft {one}'"
        )
    if (source / CONFIG).is_file():
        return "it has no adapter_config.json; 'modpkg import hf' takes a whole model"
    return "it has no adapter_config.json"


def fetch_adapter(workspace: Workspace, name: ModuleName) -> tuple[InstalledModule, float]:
    """Return an installed adapter, or the only one of an installed model, and its scale.

    Raises:
        ConversionError: The model is not a base with one adapter.
        InstallError: Nothing is installed, or not under this name.
        RegistryError: The store lacks it, and it cannot be fetched.
    """
    environment = workspace.environment
    generation = environment.current()
    if generation is None:
        raise nothing_installed(workspace)
    states = {module.name: module for module in generation.modules}
    scale = 1.0
    chosen = states.get(name)
    if name in generation.models:
        chosen, scale = _only_adapter(name, environment, states)
    if chosen is None:
        raise not_installed(workspace, name, states)
    if chosen.kind == "base":
        raise _no_adapter(name)
    locked = LockedModule(
        name=chosen.name,
        version=chosen.version,
        kind=chosen.kind,
        registry=chosen.registry,
        release=chosen.release,
    )
    return fetch_module(workspace, locked), scale


def _no_adapter(name: str) -> ConversionError:
    reason = "it is a base without an adapter; only an adapter, or a model of one base and one "
    return ConversionError("M805", name=name, form="peft", reason=reason + "adapter, can be")


def _only_adapter(
    name: str, environment: Environment, states: dict[str, ModuleState]
) -> tuple[ModuleState, float]:
    recipe = msgspec.convert(environment.model(name).recipe, Compose)
    adapters = [step for step in recipe.steps if states[step.module].kind == "adapter"]
    if not recipe.steps:
        raise _no_adapter(name)
    plain = recipe.method == "sum" and not recipe.layers and len(recipe.steps) == 1
    if not plain or not adapters:
        raise ConversionError(
            "M805",
            name=name,
            form="peft",
            reason=f"it is composed in {len(recipe.steps)} steps ({len(adapters)} with an "
            "adapter); only a model of one base and one adapter can be exported to PEFT",
        )
    scale = adapters[0].scale
    if not isinstance(scale, float):
        raise ConversionError(
            "M805",
            name=name,
            form="peft",
            reason="its scale differs by tensor, which PEFT does not support",
        )
    return states[adapters[0].module], scale


def base_names(workspace: Workspace, module: InstalledModule) -> Callable[[str], str] | None:
    """Return what gives the names in memory of the tensors of an adapter's base.

    None if nobody can tell: transformers is not installed, or does not know the architecture.
    """
    for origin in module.record.provenance.built_from[:1]:
        try:
            registry = workspace.registries.of(ModuleName(origin.name))
            record = registry.release(origin.release, f"the release record of {origin.name}")
            if CONFIG not in record.files:
                return None
            digest = parse_digest(record.files[CONFIG].digest)
            data = registry.blob(digest, f"{CONFIG} of {origin.name}")
            config = msgspec.json.decode(data, type=dict[str, Any])
            layout = layout_of(origin.name, config, record.tensors)
        except (ModpkgError, msgspec.MsgspecError):
            return None
        return None if layout is None else names_of_layers(module, record, config, layout)
    return None


def export_peft(
    module: InstalledModule,
    out: Path,
    *,
    scale: float = 1.0,
    rename: Callable[[str], str] | None = None,
    store: Store | None = None,
    card: str | None = None,
) -> list[str]:
    """Write an adapter as a directory that PEFT opens; return the file names.

    ``rename`` gives the name in memory of a tensor of the base: PEFT's paths are those. A
    ``scale`` other than 1 is multiplied into LoRA's alpha, since B @ A is only multiplied by
    ``alpha / rank`` (or ``alpha / √rank``). With a ``store`` the weights are linked where possible;
    see `write_weights`. ``card`` is its model card, if it has none.

    Raises:
        ConversionError: `module` is not a PEFT adapter, or its method has no alpha to scale.
        InstallError: `out` cannot be written.
    """

    def refuse(reason: str) -> ConversionError:
        return ConversionError(
            "M805", name=f"{module.name} {module.version}", form="peft", reason=reason
        )

    if ADAPTER_CONFIG not in module.files:
        raise refuse(f"it has no {ADAPTER_CONFIG}")
    written = read_json(module.files[ADAPTER_CONFIG])
    config = without_foreign_class(written)
    check_no_code(module.name, config, ADAPTER_CONFIG)
    if scale != 1.0:
        if (unscaled := _unscaled(config)) is not None:
            raise refuse(
                f"it is composed with scale {scale:g}, and alpha does not scale {unscaled}"
            )
        config = _scaled(config, scale)
    renamed, config = names_in_memory(module, config, rename or str)
    tensors = {renamed.get(name, name): ref for name, ref in module.tensors.items()}
    with new_project(out) as staged:
        for path, blob in module.files.items():
            if path == MEMORY:
                continue
            target = staged / check_path(path)
            make_folder(target.parent)
            what = f"{path} of {module.name}"
            copy_verified(blob, target, module.record.files.get(path), what)
        if card is not None and not (staged / CARD).exists():
            write_atomically(staged / CARD, card.encode())
        if scale != 1.0 or renamed or config != written:
            write_atomically(staged / ADAPTER_CONFIG, json_text(config))
        write_weights(
            tensors,
            Path(),
            staged,
            stem="adapter_model",
            max_shard_bytes=ANY_SIZE,
            store=store,
        )
    return files_of(out)


def _unscaled(config: Mapping[str, Any]) -> str | None:
    """Return the part of an adapter that alpha does not scale; None when it scales all."""
    if (method := config.get("peft_type")) != "LORA":
        return f"what {method} does"
    if config.get("bias", "none") != "none":
        return "its biases"
    for key in ("use_dora", "kasa_config", "modules_to_save", "trainable_token_indices"):
        if config.get(key):
            return f"its {key}"
    return None


def _scaled(config: Mapping[str, Any], scale: float) -> dict[str, Any]:
    alpha = config.get("lora_alpha", 8)  # 8 is PEFT's own default
    patterns = config.get("alpha_pattern") or {}
    return {
        **config,
        "lora_alpha": alpha * scale,
        "alpha_pattern": {pattern: value * scale for pattern, value in patterns.items()},
    }
