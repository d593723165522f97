"""From an adapter as PEFT writes it to changes of a base: one reader for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from modpkg.adapters import expert_parameters
from modpkg.adapters.changes import Adapter, AdapterChanges, Site, TypePair
from modpkg.adapters.layers import layers_left, repeat, repeated
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.methods import lora
from modpkg.adapters.methods.adalora import ADALORA
from modpkg.adapters.methods.ia3 import IA3
from modpkg.adapters.methods.ln_tuning import (
    C3A,
    DELORA,
    HIRA,
    LN_TUNING,
    MISS,
    SHIRA,
    TRAINABLE_TOKENS,
)
from modpkg.adapters.methods.lokr import LOHA, LOKR
from modpkg.adapters.methods.lora import LORA
from modpkg.adapters.methods.oft import BOFT, HRA, OFT
from modpkg.adapters.methods.vera import VERA
from modpkg.adapters.names import names_of, parse
from modpkg.adapters.saved_modules import bind_saved, labels_of, refuse_tied, shares_output
from modpkg.adapters.virtual_tokens import PROMPTS, bind_prompt
from modpkg.core.tensors import TypedTensor

METHODS: dict[str, PeftMethod] = {
    "ADALORA": ADALORA,
    "BOFT": BOFT,
    "C3A": C3A,
    "DELORA": DELORA,
    "HIRA": HIRA,
    "HRA": HRA,
    "IA3": IA3,
    "LN_TUNING": LN_TUNING,
    "LOHA": LOHA,
    "LOKR": LOKR,
    "LORA": LORA,
    "MISS": MISS,
    "OFT": OFT,
    "SHIRA": SHIRA,
    "TRAINABLE_TOKENS": TRAINABLE_TOKENS,
    "VERA": VERA,
}
"""By ``peft_type``, the methods that are done exactly."""

_RUN_TIME = "it adds to what the model reads while it runs and changes no weight"
_DRAWN = "where its numbers belong is drawn from a seed and not in its file"
REFUSED: dict[str, str] = {
    "CARTRIDGE": _RUN_TIME,
    "CPT": _RUN_TIME,
    "ADAPTION_PROMPT": _RUN_TIME,
    "XLORA": "it mixes adapters by what the model reads",
    "POLY": "it mixes adapters by task while it runs",
    "FOURIERFT": _DRAWN,
    "WAVEFT": _DRAWN,
    "RANDLORA": "its bases are random numbers that depend on the version of torch",
    "PVERA": "its scales are drawn at random while it runs",
    "VBLORA": "which vectors of its bank a layer takes depends on ties between its logits",
}
"""Methods that are not done, with the reason; of any other, nothing is known here."""


def bind_adapter(
    module: str,
    names: Mapping[str, TypePair],
    config: Mapping[str, Any],
    base: Mapping[str, TypedTensor],
    *,
    architecture: str | None = None,
    base_name: str = "the base",
    model_config: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    layers: Sequence[tuple[int, int]] | None = None,
) -> AdapterChanges:
    """Return what an adapter changes in a base; every tensor of it is used once.

    ``names`` are the tensors of the adapter's file and ``config`` its ``adapter_config.json``, as
    PEFT writes them; ``architecture`` is the base's ``model_type`` and ``model_config`` its
    ``config.json``; ``digests`` are those of the adapter's tensors. Where ``base`` has its layers
    in other runs than a base's own, ``layers`` are these, and none where it does not; without it,
    they are repeated here as the adapter wants them. A module path matches the base tensor
    ``<path>.weight``; see `modpkg.adapters.names` for how names on disk may differ.

    Raises:
        ComposeError: the adapter needs something that would not be applied.
        ReleaseError: some of its tensors have no place in the base.
        ComposeError: it was made for a base of another shape.
    """
    adapter = Adapter(
        module=module,
        names=names,
        config=config,
        base=base,
        base_name=base_name,
        architecture=architecture,
        model_config=model_config or {},
        digests=digests or {},
    )
    base_names: dict[str, str] = {}
    if runs := repeated(adapter):
        if layers is None:
            names_now, base_names = repeat(adapter, runs)
            adapter = structs.replace(adapter, base=names_now)
        elif runs != [tuple(run) for run in layers]:
            raise adapter.refuse(_as_layers(adapter, runs))
    if config.get("peft_type") in PROMPTS:
        return bind_prompt(adapter)
    method = method_of(adapter)
    parsed = parse(adapter, method.parts)
    wrapped = expert_parameters.parameters_of(adapter, parsed.sites) if method is LORA else {}
    targets = {
        path: expert_parameters.anchor(adapter, wrapped[path])
        if path in wrapped
        else f"{path}.weight"
        for path in parsed.sites
    }
    wanted = {targets[path]: min(roles.values()) for path, roles in parsed.sites.items()}
    tokens = {f"{path}.weight": tensor for path, tensor in parsed.tokens.items()}
    wanted |= {name: t for name, t in tokens.items() if not shares_output(adapter, name)}
    if wanted or parsed.plain:
        names_in_base = names_of(adapter, wanted or parsed.plain)
    else:
        raise adapter.refuse("it has nothing for any layer")
    sites: list[Site] = []
    for path, roles in sorted(parsed.sites.items()):
        target = names_in_base.find(f"{path}.weight")
        if path not in wrapped and target is not None:
            bias = names_in_base.find(f"{path}.bias")
            sites.append(Site(path=path, target=target, bias=bias, roles=roles))
    changes = method.bind(adapter, sites, parsed.shared)
    for path, parameter in sorted(wrapped.items()):
        settings = lora.settings_of(adapter)
        roles = parsed.sites[path]
        changes += expert_parameters.bind(adapter, parameter, roles, names_in_base, settings)
    seen: dict[str, str] = {}
    for change in changes:
        tensor = min(change.inputs.values())
        if (other := seen.setdefault(change.target, tensor)) != tensor:
            raise adapter.unbound(tensor, f"{other!r} is for {change.target!r} too")
        refuse_tied(adapter, change)
    left = layers_left(adapter, (change.target for change in changes))
    if left is not None:
        raise adapter.refuse(
            f"it changes {left[0]} layers, all that the base had that it was trained on, and "
            f"{adapter.base_name} has {left[1]}"
        )
    changes, added = bind_saved(adapter, parsed, names_in_base, changes)
    return AdapterChanges(
        changes=tuple(changes),
        unused=tuple(parsed.unused),
        added=added,
        config=labels_of(adapter, added),
        base_names=base_names,
    )


def _as_layers(adapter: Adapter, runs: Sequence[tuple[int, int]]) -> str:
    name = adapter.base_name.split(" ")[0]
    written = ", ".join(
        f'{{ module = "{name}", range = [{first}, {stop}] }}' for first, stop in runs
    )
    return f"it was trained on repeated layers; say so in the recipe: layers = [{written}]"


def method_of(adapter: Adapter) -> PeftMethod:
    """Return the method of an adapter.

    Raises:
        ComposeError: it is not done, or not known; says why.
    """
    kind = adapter.config.get("peft_type")
    method = METHODS.get(kind) if isinstance(kind, str) else None
    if method is None:
        reason = REFUSED.get(str(kind), f"done are {', '.join(METHODS)}")
        raise adapter.refuse(f"its peft_type is {kind!r}: {reason}")
    return method


__all__ = ["METHODS", "REFUSED", "bind_adapter", "method_of"]
