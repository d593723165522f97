"""Small releases for the conformance suite to publish, built without the registry that it tries."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.writer import RegistryWriter
from registry_spec.vectors import ADAPTER, base_files, built_release, f32_tensor, weights_file

BEGINNING = "conformance-"
"""What the names of all modules begin with that the suite publishes."""
ASSEMBLY = f"{BEGINNING}model"
"""The model of the assembly that is locked, installed and composed; it is always the same."""
_CONFIG = (
    b'{"architectures":["LlamaForCausalLM"],"hidden_size":4,"model_type":"llama",'
    b'"num_hidden_layers":1,"vocab_size":8}'
)
_MODEL = f"""
[dependencies]
{BEGINNING}base = "~=1.0"
{BEGINNING}lora = ">=1"

[compose]
base = "{BEGINNING}base"
steps = [{{ op = "lora", module = "{BEGINNING}lora", scale = 0.5 }}]
"""


class Sample(Struct, frozen=True):
    """A release that is built, and not published yet."""

    tree: Path
    line: IndexLine
    record: ReleaseRecord

    def built(self) -> Registry:
        """Return what reads its tree."""
        return Registry(str(self.tree))

    def blobs(self) -> list[tuple[Digest, Path]]:
        """Return the blobs that its tree has, the record last."""
        tree = BlobTree(self.tree)
        names = [digest for digest, _ in blobs_of(self.record)]
        names.append(parse_digest(self.line.release))
        return [(digest, tree.path(digest)) for digest in names if tree.has(digest)]


class Samples:
    """A folder of samples, and a registry of those that others refer to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._registry = folder / "registry"
        self._count = 0
        RegistryWriter(self._registry, "samples").prepare()

    def new_name(self) -> str:
        """Return a name that no module has yet."""
        return f"{BEGINNING}{secrets.token_hex(5)}"

    def release(
        self,
        name: str,
        version: str,
        kind: str = "collection",
        more: str = "",
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Sample:
        """Build a release; a base may refer to tensors of earlier ones that were `kept`."""
        self._count += 1
        project = self._folder / f"{self._count}"
        project.mkdir()
        for path, data in files.items():
            (project / path).write_bytes(data)
        (project / "modpkg.toml").write_text(
            f'[module]\nname = "{name}"\nversion = "{version}"\nkind = "{kind}"\n'
            f'license = "MIT"\nsummary = "Of the conformance suite"\n{more}'
        )
        built = built_release(project, self._registry)
        # Its record names another builder than the one that built it.
        index = project / "dist" / "index" / f"{name}.jsonl"
        index.write_bytes(format_index([built.line]))
        return Sample(project / "dist", built.line, built.record)

    def text(self, name: str, version: str, text: str = "") -> Sample:
        """Build a release that has a file with a text."""
        return self.release(name, version, files={"README.md": f"{name} {version} {text}".encode()})

    def base(self, name: str, version: str, changed: float) -> Sample:
        """Build a base of two tensors, of which one depends on ``changed``; it is kept."""
        tensors = {
            "embed.weight": f32_tensor(64, 8),
            "norm.weight": f32_tensor(64, first=changed),
        }
        files = {"config.json": _CONFIG, "model.safetensors": weights_file(tensors)}
        return self._kept(self.release(name, version, "base", files=files))

    def assembly(self) -> list[Sample]:
        """Build a base in two versions, an adapter and a model of both, always the same."""
        base, lora = f"{BEGINNING}base", f"{BEGINNING}lora"
        found = []
        for version, norm in (("1.0.0", 1.0), ("2.0.0", 2.0)):
            files = base_files(norm) | {"config.json": _CONFIG}
            found.append(self._kept(self.release(base, version, "base", files=files)))
        more = f'[dependencies]\n{base} = "~=1.0"\n'
        found.append(self._kept(self.release(lora, "1.0.0", "adapter", more, ADAPTER)))
        found.append(self._kept(self.release(ASSEMBLY, "1.0.0", "model", _MODEL)))
        return found

    def _kept(self, sample: Sample) -> Sample:
        RegistryWriter(self._registry, "samples").publish(sample.built(), sample.line)
        return sample
