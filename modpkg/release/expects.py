"""The interface that a module expects of its base, computed from its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, structs

from modpkg.adapters import bind_adapter, bind_expert, bind_router
from modpkg.adapters.changes import INDEX_ROLES, AdapterChanges, VirtualTokens
from modpkg.adapters.expert import experts_of
from modpkg.adapters.memory import REARRANGED, disk_names, read_memory
from modpkg.adapters.quantised import INTEGERS, Quantised, quantised
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError, ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG, PATCH, ROUTER
from modpkg.core.interface import WEIGHTS_PORT, weights_digest
from modpkg.core.jsonfile import read_json
from modpkg.core.records import (
    Expects,
    MemoryRecord,
    Port,
    Provides,
    ReleaseRecord,
    TensorEntry,
    TouchedTensor,
    UntiedRecord,
)
from modpkg.core.same_values import tied_output
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


class BaseMemory(Protocol):
    """How transformers has the base of a module in memory."""

    def record(
        self, types: Mapping[str, DTypeShape], config: Mapping[str, Any]
    ) -> MemoryRecord | None:
        """Return it with the names that the module has; None if it is as on disk, or unknown."""

    def untied(self) -> UntiedRecord | str:
        """Return how the base is untied, or why it cannot be."""

    def check_classifier(
        self, module: str, edits: Mapping[str, Any], types: Mapping[str, DTypeShape]
    ) -> None:
        """Check that the base's class with an adapter's classifier exists, and has all tensors.

        Args:
            module: The adapter's name, for errors.
            edits: What it changes in ``config.json``.
            types: The tensors of the result.

        Raises:
            ComposeError: It does not.
        """


class Bound(Struct, frozen=True):
    """What binding a module to its base finds out."""

    expects: Expects
    memory: MemoryRecord | None = None
    """Of an adapter that does not name the base's tensors as they are on disk."""


def _on_codes(module: str, base: ReleaseRecord, stored: Quantised) -> ReleaseError:
    return ReleaseError(
        "M215",
        module=module,
        base=f"{base.name} {base.version}",
        form=stored.form,
        sign=stored.sign,
        remedy=stored.remedy,
    )


def _check_floats(
    module: str,
    bound: AdapterChanges,
    tensors: Mapping[str, TensorEntry],
    base: ReleaseRecord,
    stored: Quantised | None,
) -> None:
    """Check that what an adapter is added to, and what it adds, are numbers to compute with.

    Raises:
        ReleaseError: A tensor holds codes, or other numbers, or is quantised when it is loaded.
    """
    if stored is not None and not stored.tensor and bound.changes:
        raise _on_codes(module, base, stored)
    for change in bound.changes:
        target = bound.base_names.get(change.target, change.target)
        if target in base.tensors and base.tensors[target].dtype not in FLOATS:
            if stored is not None:
                raise _on_codes(module, base, stored)
            raise _not_floats(module, base, target, base.tensors[target].dtype)
        for role, name in change.inputs.items():
            if role not in INDEX_ROLES and name in tensors and tensors[name].dtype not in FLOATS:
                remedy = ""
                if tensors[name].dtype.startswith("F8_E"):
                    remedy = "; 'modpkg import peft' writes such floats as BF16, with equal values"
                raise _not_floats(module, base, name, tensors[name].dtype, remedy)


def _not_floats(
    module: str, base: ReleaseRecord, tensor: str, dtype: str, remedy: str = ""
) -> ReleaseError:
    return ReleaseError(
        "M208",
        tensor=tensor,
        module=module,
        base=f"{base.name} {base.version}",
        reason=f"its dtype is {dtype}, which nothing can be added to or multiplied with{remedy}",
    )


def expects_of(
    module: ModuleTable,
    tensors: Mapping[str, TensorEntry],
    files: Mapping[str, Path],
    base: ReleaseRecord,
    provides: Provides,
    *,
    model_config: Mapping[str, Any] | None = None,
    memory: BaseMemory | None = None,
) -> Bound:
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
    record: MemoryRecord | None = None
    if module.kind == "adapter" or (module.kind == "patch" and ADAPTER_CONFIG in files):
        if ADAPTER_CONFIG not in files:
            raise ReleaseError(
                "M211",
                where=f"adapter {module.name}",
                path=ADAPTER_CONFIG,
                remedy="add the file that PEFT wrote beside the weights",
            )
        config = read_json(files[ADAPTER_CONFIG])
        stored = quantised(provides.tensors, model_config)
        if stored is not None and stored.form == INTEGERS:
            stored = None  # nothing says that they are codes
        try:
            bound, record = _bind_adapter(
                module.name,
                tensors,
                config,
                files,
                base=base,
                provides=provides,
                model_config={**_layers(provides), **(model_config or {})},
                memory=memory,
            )
        except (ReleaseError, ComposeError):
            if stored is None:
                raise
            raise _on_codes(module.name, base, stored) from None
        _check_floats(module.name, bound, tensors, base, stored)
        if memory is not None and bound.added and not (bound.rows or bound.base_names):
            result = types_of(provides.tensors)
            result |= {name: types[tensor] for name, tensor in bound.added.items()}
            memory.check_classifier(module.name, bound.config, result)
        untied = {} if record is None or record.untied is None else record.untied.tensors
        touched = {
            untied.get(name, bound.base_names.get(name, name))
            for name in (change.target for change in bound.changes)
        }
        if tokenizer := provides.ports.get("tokenizer"):
            ports["tokenizer"] = tokenizer
        if bound.prompt is not None:
            ports |= _read_by_prompt(module.name, bound.prompt, base, provides)
    elif module.kind == "patch" and PATCH in files:
        patch = read_patch(files[PATCH], module.name)
        check_against(patch, module.name, tensors, f"{base.name} {base.version}", base.tensors)
        touched = patch.removed.keys() | {
            name for name, item in patch.tensors.items() if item.was is not None
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
        names = dict.fromkeys(types)
        if module.kind == "head" and _may_be_renamed(types, base.tensors):
            record = (memory and memory.record(types, {})) or read_memory(files, module.name)
            names = dict.fromkeys(disk_names(record, types).values())
        touched = names.keys() & base.tensors.keys()
        known: tuple[str, ...] = ("architecture", "hidden", "tokenizer")
        if module.kind == "expert":
            known += ("layers",)
            _bind_expert(module.name, types, files, base, provides)
        for port in known:
            if port in provides.ports:
                ports[port] = provides.ports[port]
        ports[WEIGHTS_PORT] = weights_digest(base.tensors)
    expects = Expects(
        tensors={
            name: TouchedTensor(entry.dtype, list(entry.shape), entry.digest)
            for name, entry in sorted(base.tensors.items())
            if name in touched
        },
        ports=ports,
    )
    return Bound(expects, record)


def _layers(provides: Provides) -> dict[str, Port]:
    """Return what a base's ports say about its config."""
    layers = provides.ports.get("layers")
    return {} if layers is None else {"num_hidden_layers": layers}


def _may_be_renamed(names: Iterable[str], base: Iterable[str]) -> bool:
    """Return whether one of a head's tensors may be one of the base's with another name.

    Then its module and parameter are called as one of the base's are: ``lm_head.weight``.
    """
    ends = {tuple(name.split(".")[-2:]) for name in base}
    known = set(base)
    return any(name not in known and tuple(name.split(".")[-2:]) in ends for name in names)


def _bind_adapter(
    module: str,
    tensors: Mapping[str, TensorEntry],
    config: Mapping[str, Any],
    files: Mapping[str, Path],
    *,
    base: ReleaseRecord,
    provides: Provides,
    model_config: Mapping[str, Any],
    memory: BaseMemory | None,
) -> tuple[AdapterChanges, MemoryRecord | None]:
    """Bind an adapter to the base's tensors as they are on disk, or else as they are in memory.

    Raises:
        ReleaseError, ComposeError: It fits neither. The error is about memory if the adapter has
            names from there.
    """
    types = types_of(tensors)
    architecture = provides.ports.get("architecture")
    tied = tied_output(base.tensors, model_config)
    parameters = {
        name: tensor for name, tensor in provides.tensors.items() if tied is None or name != tied[0]
    }

    def bind(record: MemoryRecord | None, inside: bool = False) -> AdapterChanges:
        untied = record is not None and record.untied is not None
        return bind_adapter(
            module,
            types,
            config,
            provides.tensors if untied else parameters,
            architecture=str(architecture) if architecture is not None else None,
            base_name=f"{base.name} {base.version}",
            model_config=model_config,
            digests={name: entry.digest for name, entry in tensors.items()},
            memory=record,
            inside=inside,
        )

    refusal: ReleaseError | ComposeError | None = None
    if architecture not in REARRANGED:
        try:
            return bind(None), None
        except (ReleaseError, ComposeError) as error:
            refusal = error
    record = None if memory is None else memory.record(types, config)
    known = read_memory(files, module)
    if record is None and known is not None and known.untied is None:
        record = known
    if record is not None:
        try:
            return bind(record), record
        except (ReleaseError, ComposeError) as error:
            if refusal is None or error.code != "M207":
                refusal = error
    if refusal is None:
        return bind(None), None
    if refusal.code == "M207":
        try:
            return bind(None, inside=True), None
        except (ReleaseError, ComposeError) as error:
            refusal = error
    return _bind_untied(refusal, bind, record or MemoryRecord(), known, memory)


def _bind_untied(
    refusal: ReleaseError | ComposeError,
    bind: Callable[[MemoryRecord], AdapterChanges],
    record: MemoryRecord,
    known: MemoryRecord | None,
    memory: BaseMemory | None,
) -> tuple[AdapterChanges, MemoryRecord]:
    """Bind an adapter that was refused to the base's tensors as they are once they are untied.

    Raises:
        ReleaseError, ComposeError: ``refusal``; if it is for tied tensors, with the reason why
            they cannot be untied.
    """
    untied = "transformers is not installed" if memory is None else memory.untied()
    if isinstance(untied, str) and known is not None and known.untied is not None:
        record, untied = known, known.untied
    if isinstance(untied, str):
        if refusal.values.get("tied"):
            reason = f"{refusal.values['reason']}; a recipe cannot untie them, since {untied}"
            raise ComposeError("M606", **{**refusal.values, "reason": reason}) from None
        raise refusal
    record = structs.replace(record, untied=untied)
    try:
        bound = bind(record)
    except (ReleaseError, ComposeError):
        raise refusal from None
    ties = {*untied.tensors, *untied.tensors.values()}
    if bound.added or not any(change.target in ties for change in bound.changes):
        raise refusal
    return bound, record


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
