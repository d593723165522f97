"""The factors of a LoRA that was merged into a copy, given instead of searched."""

from __future__ import annotations

import torch

from modpkg.adapters import METHODS
from modpkg.community.modules.view import ModuleView
from modpkg.compose.plan import plan
from modpkg.compose.torch_arrays import mapped
from modpkg.core.errors import PatchError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.manifest.schema import Compose, Step

Factors = tuple[torch.Tensor, torch.Tensor]
"""float64 a (rank, columns) and b (rows, rank): b @ a is what was added."""
_LORA = "lora"


def given_factors(base: InstalledModule, adapter: ModuleView) -> dict[str, Factors]:
    """Return the factors of a LoRA by the base's tensors, its scale in b.

    Raises:
        PatchError: It is no LoRA in PEFT's format.
        ComposeError: It does not fit the base.
    """
    if ADAPTER_CONFIG not in adapter.files:
        reason = f"it has no {ADAPTER_CONFIG}"
        raise PatchError("M238", what=adapter.label, reason=reason)
    path = adapter.locate_file(ADAPTER_CONFIG)
    method = METHODS.get(str(read_json(path).get("peft_type")))
    if method is None or method.operator != _LORA:
        raise PatchError("M238", what=adapter.label, reason="it is of another method")
    name = module_name("factors")
    module = InstalledModule(
        name=name,
        version=base.version,
        kind="adapter",
        release=base.release,
        record=base.record,
        tensors=adapter.refs(),
        files={ADAPTER_CONFIG: path},
    )
    own = module_name(base.name)
    recipe = Compose(base=own, steps=(Step(op=_LORA, module=name),))
    composition = plan(f"a copy of {base.name}", base.version, recipe, {own: base, name: module})
    found: dict[str, Factors] = {}
    for tensor, computed in composition.computed.items():
        (term,) = computed.terms
        plain = term.op == _LORA and not term.parameters and set(term.inputs) == {"a", "b"}
        if plain and len(computed.source.shape) == 2:
            a, b = (mapped(term.inputs[role]).double() for role in ("a", "b"))
            found[tensor] = a, b * term.weight
    if not found:
        reason = "none of its changes is a product of two matrices alone (DoRA, for one, is more)"
        raise PatchError("M238", what=adapter.label, reason=reason)
    return found
