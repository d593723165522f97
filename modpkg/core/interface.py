"""Interfaces: whether a module fits a base. Pure functions on small documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.records import Expects, Port, Provides, TensorType, canonical_json
from modpkg.core.tensors import HashedTensor, TypedTensor, canonical_identity

WEIGHTS_PORT = "weights"
"""Port of modules that read a base's output: the digest of all its weights, compared for drift."""

WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")
"""Keys of ``config.json`` for the width of hidden states, by architecture."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys of ``config.json`` for the number of layers, by architecture."""


class Drift(Struct, frozen=True):
    """How a base differs from the one that a module was built against."""

    touched: int
    """Tensors that the module acts on."""
    changed: tuple[str, ...]
    """Those whose bytes differ."""
    ports: tuple[str, ...]
    """Ports whose value differs."""

    @property
    def exact(self) -> bool:
        return not self.changed and not self.ports

    def text(self, moved: str = "") -> str:
        """Return what differs; ``moved`` says how far the tensors moved."""
        parts = []
        if self.changed:
            parts.append(f"{len(self.changed)} of the {self.touched} tensors it touches differ")
        if moved:
            parts.append(moved)
        if self.ports:
            parts.append(f"other {', '.join(self.ports)}")
        return "; ".join(parts)


def ports_of(config: dict[str, Any], tokenizer: str | None) -> dict[str, Port]:
    """Return the ports of a base: its ``config.json`` and the digest of its tokenizer."""
    ports: dict[str, Port] = {}
    if isinstance(architecture := config.get("model_type"), str):
        ports["architecture"] = architecture
    for port, keys in (("hidden", WIDTHS), ("layers", LAYERS), ("vocab", ("vocab_size",))):
        for key in keys:
            if isinstance(value := config.get(key), int):
                ports[port] = value
                break
    if tokenizer is not None:
        ports["tokenizer"] = tokenizer
    return ports


def provides_of(tensors: Mapping[str, TypedTensor], ports: dict[str, Port]) -> Provides:
    """Return the interface document of a base with these tensors and ports."""
    return Provides(
        tensors={
            name: TensorType(entry.dtype, list(entry.shape)) for name, entry in tensors.items()
        },
        ports=ports,
    )


def unfit_reason(expects: Expects, provides: Provides) -> str | None:
    """Return why the module cannot act on the base, naming the tensor or port; None if it can.

    A tensor fits when its name and shape are there. A port fits when its value is equal; a port
    whose value is a digest (a tokenizer) only has to exist: another value is drift.
    """
    for name, wanted in sorted(expects.tensors.items()):
        offered = provides.tensors.get(name)
        if offered is None:
            return f"it has no tensor {name!r}"
        if list(offered.shape) != list(wanted.shape):
            return f"its tensor {name!r} has shape {offered.shape}, not {wanted.shape}"
    for port, value in sorted(expects.ports.items()):
        if port == WEIGHTS_PORT:
            continue
        if port not in provides.ports:
            return f"it has no port {port!r}"
        if provides.ports[port] != value and not _is_digest(value):
            return f"its port {port!r} is {provides.ports[port]}, not {value}"
    return None


def weights_digest(tensors: Mapping[str, HashedTensor]) -> Digest:
    """Return one digest of a set of tensors: of canonical JSON {name: [dtype, shape, digest]}."""
    return digest_bytes(
        canonical_json({name: canonical_identity(tensor) for name, tensor in tensors.items()})
    )


def drift_of(expects: Expects, provides: Provides, tensors: Mapping[str, HashedTensor]) -> Drift:
    """Return which touched tensors and ports differ from those at the time of the build."""
    ports = dict(provides.ports)
    if WEIGHTS_PORT in expects.ports:
        ports[WEIGHTS_PORT] = weights_digest(tensors)
    changed = [
        name
        for name, wanted in sorted(expects.tensors.items())
        if name not in tensors or tensors[name].digest != wanted.digest
    ]
    differing = [port for port, value in sorted(expects.ports.items()) if ports.get(port) != value]
    return Drift(touched=len(expects.tensors), changed=tuple(changed), ports=tuple(differing))


def _is_digest(value: Port) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")
