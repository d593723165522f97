"""Modules from ordinary directories, as a store would contain them; only for benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

from modpkg.compose.executor import ComposedModel
from modpkg.core.digests import digest_bytes, digest_file
from modpkg.core.installed import InstalledModel, InstalledModule, TensorRef
from modpkg.core.packs import read_pack_header
from modpkg.core.records import Kind, Provenance, ReleaseRecord
from modpkg.core.sealed import seal


def installed_module(folder: Path, name: str, kind: Kind) -> InstalledModule:
    """Return the module that a transformers or PEFT directory would be, without a registry."""
    tensors: dict[str, TensorRef] = {}
    for pack in sorted(folder.absolute().glob("*.safetensors")):
        for tensor, place in read_pack_header(pack).items():
            tensors[tensor] = TensorRef(
                file=str(pack),
                offset=place.offset,
                length=place.length,
                dtype=place.dtype,
                shape=list(place.shape),
                digest=digest_file(pack, place.offset, place.length),
            )
    record = ReleaseRecord(
        name=name,
        version="1.0",
        kind=kind,
        license="MIT",
        manifest={},
        provenance=Provenance(built_with="a benchmark"),
    )
    return InstalledModule(
        name=name,
        version="1.0",
        kind=kind,
        release=digest_bytes(name.encode()),
        record=record,
        tensors=tensors,
        files={
            path.name: path
            for path in sorted(folder.absolute().iterdir())
            if path.is_file() and path.suffix != ".safetensors"
        },
    )


def lay_out(composed: ComposedModel, folder: Path) -> None:
    """Write what an environment has of a composed model; its packs are named by absolute path."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(composed.config))
    for path, source in composed.files.items():
        (folder / path).symlink_to(source)
    model = InstalledModel(
        name="model",
        version="1.0",
        key=composed.key,
        result=composed.result,
        task=None,
        tensors=composed.tensors,
        modules={},
        recipe={},
    )
    (folder / "model.json").write_bytes(seal(model))
