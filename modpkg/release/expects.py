"""The interface that a module expects of its base, computed from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from modpkg.adapters import bind_adapter, bind_expert, bind_router
from modpkg.adapters.changes import VirtualTokens
from modpkg.adapters.expert import experts_of
from modpkg.core.errors import ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG, PATCH, ROUTER
from modpkg.core.interface import WEIGHTS_PORT, weights_digest
from modpkg.core.jsonfile import read_json
from modpkg.core.records import Expects, Port, Provides, ReleaseRecord, TensorEntry, TouchedTensor
from modpkg.core.tensors import DTypeShape, types_of
from modpkg.manifest.schema import ModuleTable
from modpkg.release.patched import check_against, read_patch


def _read_by_prompt(
    module: str, prompt: VirtualTokens, base: ReleaseRecord, provides: Provides
) -> dict[str, Port]:
    """Return the ports that virtual tokens need: all layers of the base read them.

    Raises:
        ReleaseError: The tokens were made for another width or number of layers.
    """
    wanted = prompt.ports()
    for port, value in wanted.items():
        if provides.ports.get(port, value) != value:
            raise ReleaseError(
                "M206",
                path=module,
                reason=f"its virtual tokens are for a base whose port {port!r} is {value}, and "
                f"that of {base.name} {base.version} is {provides.ports[port]}",
            )
    named = ("architecture", "hidden", "layers")
    ports = {port: provides.ports[port] for port in named if port in provides.ports}
    return {**ports, WEIGHTS_PORT: weights_digest(base.tensors)}


def expects_of(
    module: ModuleTable,
    tensors: Mapping[str, TensorEntry],
    files: Mapping[str, Path],
    base: ReleaseRecord,
    provides: Provides,
) -> Expects:
    """Return the part of ``base`` that the module touches, with its current digests.

    An adapter touches the tensors that it is added to, a patch those that it changes or removes
    (whose digests have to be those that it was made for). A head replaces tensors of the same
    name and reads the base's output, so it also expects the base's width, and records the digest
    of all its weights. So does an expert, which also expects the number of layers.

    Raises:
        ReleaseError, ComposeError: The module does not fit the base.
        PatchError: The patch was made for another base.
    """
    types = types_of(tensors)
    ports: dict[str, Port] = {}
    if module.kind == "adapter" or (module.kind == "patch" and ADAPTER_CONFIG in files):
        if ADAPTER_CONFIG not in files:
            raise ReleaseError(
                "M211",
                where=f"adapter {module.name}",
                path=ADAPTER_CONFIG,
                remedy="add the file that PEFT wrote beside the weights",
            )
        config = read_json(files[ADAPTER_CONFIG])
        architecture = provides.ports.get("architecture")
        bound = bind_adapter(
            module.name,
            types,
            config,
            provides.tensors,
            architecture=str(architecture) if architecture is not None else None,
            base_name=f"{base.name} {base.version}",
            model_config={"num_hidden_layers": provides.ports["layers"]}
            if "layers" in provides.ports
            else {},
            digests={name: entry.digest for name, entry in tensors.items()},
        )
        touched = {bound.base_names.get(name, name) for name in (c.target for c in bound.changes)}
        if tokenizer := provides.ports.get("tokenizer"):
            ports["tokenizer"] = tokenizer
        if bound.prompt is not None:
            ports |= _read_by_prompt(module.name, bound.prompt, base, provides)
    elif module.kind == "patch" and PATCH in files:
        record = read_patch(files[PATCH], module.name)
        check_against(record, module.name, tensors, f"{base.name} {base.version}", base.tensors)
        touched = record.removed.keys() | {
            name for name, item in record.tensors.items() if item.was is not None
        }
    elif module.kind == "patch":
        # Sparse values come with their indices.
        touched = {re.sub(r"\.(?:indices|values)$", "", name) for name in types}
        if missing := sorted(touched - base.tensors.keys()):
            raise ReleaseError(
                "M206",
                path=module.name,
                reason=f"it patches tensor {missing[0]!r}, which {base.name} does not have",
            )
    else:
        touched = types.keys() & base.tensors.keys()
        known: tuple[str, ...] = ("architecture", "hidden", "tokenizer")
        if module.kind == "expert":
            known += ("layers",)
            _bind_expert(module.name, types, files, base, provides)
        for port in known:
            if port in provides.ports:
                ports[port] = provides.ports[port]
        ports[WEIGHTS_PORT] = weights_digest(base.tensors)
    return Expects(
        tensors={
            name: TouchedTensor(entry.dtype, list(entry.shape), entry.digest)
            for name, entry in sorted(base.tensors.items())
            if name in touched
        },
        ports=ports,
    )


def _bind_expert(
    name: str,
    types: Mapping[str, DTypeShape],
    files: Mapping[str, Path],
    base: ReleaseRecord,
    provides: Provides,
) -> None:
    """Check that an expert or a router fits the base's layers."""
    base_name = f"{base.name} {base.version}"
    if ROUTER in files:
        bind_router(name, types, experts_of(files[ROUTER]), provides.tensors, base_name=base_name)
        return
    others = bind_expert(name, types, provides.tensors, base_name=base_name).others
    if others:
        reason = "an expert is made of mlp.gate_proj, mlp.up_proj and mlp.down_proj"
        raise ReleaseError("M208", tensor=others[0], module=name, base=base_name, reason=reason)
