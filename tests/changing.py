"""Bases whose tensors change from release to release, built as `modpkg build` builds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.manifest.read import read_manifest
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.known import known_tensors
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import Relatives
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import Built, build
from tests.conftest import safetensors_bytes
from tests.modules import write_module

COUNT = 6000
Numbers = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]"]


def numbers(*names: str, seed: int = 0, count: int = COUNT) -> Numbers:
    """Return bfloat16 tensors as trained ones are: exponents alike, mantissas of any kind."""
    found = {}
    for at, name in enumerate(names):
        values = np.random.default_rng([seed, at]).normal(0, 0.02, count)
        found[name] = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return found


def a_little(old: Numbers, name: str, seed: int = 0, share: float = 0.3) -> Numbers:
    """Return a copy in which a share of one tensor's elements moved by one bit."""
    moved = np.random.default_rng(seed).random(len(old[name])) < share
    return old | {name: (old[name] + moved).astype("<u2")}


def here_and_there(old: Numbers, name: str, seed: int = 0) -> Numbers:
    """Return a copy in which 20 elements of one tensor are others."""
    rng = np.random.default_rng(seed)
    new = old[name].copy()
    new[rng.choice(len(new), 20, replace=False)] = rng.integers(0, 2**16, 20)
    return old | {name: new}


def write(folder: Path, tensors: Numbers, name: str = "m", version: str = "1.0") -> Path:
    """Write the project of a base."""
    weights = safetensors_bytes(
        {key: ("BF16", [2, len(value) // 2], value.tobytes()) for key, value in tensors.items()}
    )
    files = {"model.safetensors": weights, "config.json": b'{"model_type": "tiny"}'}
    return write_module(folder, name, version, "base", files=files)


def build_for(folder: Path, registry: Path, *, deltas: bool = True) -> Built:
    """Build a project for a registry."""
    manifest = read_manifest(folder / "modpkg.toml")
    module = manifest.module
    assert module is not None
    known = known_tensors(FolderPlace(registry), Relatives(module.name, module.version))
    return build(manifest, module, folder / "dist", known=known, deltas=deltas)


def publish_to(
    registry: Path,
    tensors: Numbers,
    name: str = "m",
    version: str = "1.0",
    *,
    deltas: bool = True,
) -> IndexLine:
    """Build a base for a registry and publish it there."""
    folder = write(registry.parent / "projects" / f"{name}-{version}", tensors, name, version)
    built = build_for(folder, registry, deltas=deltas)
    return RegistryWriter(registry, registry.name).publish(
        Registry(str(folder / "dist")), built.line
    )


def record_of(registry: Path, line: IndexLine) -> ReleaseRecord:
    """Return a published release's record."""
    return Registry(str(registry)).record(line)
