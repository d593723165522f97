"""The vectors: a small registry with one release of most kinds, its lock file, and a log.

Written by the code that builds and publishes releases, with fixed times, so the bytes are always
the same.
"""

from __future__ import annotations

import datetime
import json
import struct
import tempfile
from pathlib import Path

import msgspec
from packaging.version import Version

from modpkg.core.files import remove_tree, write_atomically
from modpkg.core.names import parse_requirement
from modpkg.core.packs import pack_chunks
from modpkg.core.records import canonical_json
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.base import find_base
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.known import known_tensors
from modpkg.registry.origins import find_origins
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import Relatives
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import Built, acts_on_base, build
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.lock import format_lock, lock_of
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from registry_spec import VECTORS
from registry_spec.cases import CASES, DECODED, FITS, NORMAL
from registry_spec.log_vectors import log_vectors
from registry_spec.preferences import RESOLUTIONS
from registry_spec.recipes import BAD_COMPOSE, COMPOSE

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
BUILT_WITH = "registry_spec vectors"
"""Replaces the builder's version, so that a new version of modpkg does not change the vectors."""
REQUIREMENT = "tiny-model[all]>=1"
"""The requirement that the vectors' lock file resolves."""

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def f32_tensor(*shape: int, first: float = 0.0) -> tuple[str, tuple[int, ...], bytes]:
    count = 1
    for extent in shape:
        count *= extent
    values = [first + number / 8 for number in range(count)]
    return "F32", shape, struct.pack(f"<{count}f", *values)


def weights_file(tensors: Tensors) -> bytes:
    types = {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}
    return b"".join(pack_chunks(types, {name: [data] for name, (_, _, data) in tensors.items()}))


def base_files(norm: float) -> dict[str, bytes]:
    config = {"model_type": "tiny", "hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 8}
    tensors: Tensors = {
        "embed.weight": f32_tensor(8, 4),
        "layers.0.weight": f32_tensor(4, 4, first=1.0),
        "norm.weight": ("BF16", (4,), struct.pack("<f", norm)[2:] * 4),
    }
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b'{"model": {"type": "WordLevel", "vocab": {}}}',
        "model.safetensors": weights_file(tensors),
    }


def _bf16(seed: int, count: int = 1200) -> list[int]:
    """Return bfloat16 numbers like trained weights: similar exponents, random mantissas."""
    numbers = []
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % 2**31  # the C standard's example of rand()
        numbers.append(0x3C00 | seed >> 9 & 0x81FF)
    return numbers


def _tuned(step: int) -> dict[str, bytes]:
    """Return a base with one changed tensor for each encoding."""
    few, little = _bf16(1), _bf16(2)
    for done in range(1, step + 1):
        for place in range(7 * done, len(few), 100):
            few[place] = _bf16(10 * done, 1)[0] + place
        if done == 1:
            little = [number ^ (place % 3 == 0) for place, number in enumerate(little)]
    bits = {"few": few, "little": little, "other": _bf16(3 + min(step, 1)), "same": _bf16(5)}
    tensors: Tensors = {
        f"{name}.weight": ("BF16", (30, 40), struct.pack("<1200H", *numbers))
        for name, numbers in bits.items()
    }
    return {"config.json": b'{"model_type": "tiny"}', "model.safetensors": weights_file(tensors)}


ADAPTER = {
    "adapter_config.json": json.dumps(
        {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["0"],
            "fan_in_fan_out": False,
            "bias": "none",
        }
    ).encode(),
    "adapter_model.safetensors": weights_file(
        {
            "base_model.model.layers.0.lora_A.weight": f32_tensor(2, 4, first=-0.5),
            "base_model.model.layers.0.lora_B.weight": f32_tensor(4, 2, first=-0.5),
        }
    ),
}

_MODEL = """
[dependencies]
tiny-lora = "~=1.0"
tiny-base = ">=1.0,<2"

[extras]
all = ["tiny-set>=1"]

[compose]
base = "tiny-base"
steps = [{ op = "lora", module = "tiny-lora", scale = 0.5 }]

[task]
kind = "text-generation"
prompt = "Say: {{ text }}"
max_new_tokens = 8

[[tests]]
name = "says it"
cases = "tests/cases.jsonl"
metric = "exact_match"
at_least = 0.5
"""

_FORKED = """
[provenance]
built-from = [{ name = "tiny-tune", version = "1.2.0", relation = "forked" }]
"""

MODULES: tuple[tuple[str, str, str, str, dict[str, bytes]], ...] = (
    ("tiny-base", "1.0.0", "base", "", base_files(1.0)),
    ("tiny-base", "1.1.0", "base", "", base_files(2.0)),
    ("tiny-base", "2.0.0rc1", "base", "", base_files(-1.0)),
    ("tiny-tune", "1.0.0", "base", "", _tuned(0)),
    ("tiny-tune", "1.1.0", "base", "", _tuned(1)),
    ("tiny-tune", "1.2.0", "base", "", _tuned(2)),
    ("tiny-fork", "1.0.0", "base", _FORKED, _tuned(2)),
    ("tiny-lora", "1.0.0", "adapter", '[dependencies]\ntiny-base = ">=1.0,<2"\n', ADAPTER),
    ("tiny-set", "1.0.0", "collection", '[dependencies]\ntiny-lora = "*"\n', {}),
    (
        "tiny-model",
        "1.0.0",
        "model",
        _MODEL,
        {"tests/cases.jsonl": b'{"text": "a", "expected": "a"}\n', "README.md": b"# tiny-model\n"},
    ),
)
"""Name, version, kind, the rest of the manifest, and files, in the order they are published."""
YANKED = ("tiny-base", "1.1.0", "its norm is twice what it should be")


def write_registry(folder: Path) -> None:
    """Write the vectors' registry into ``folder``, replacing what was there."""
    remove_tree(folder)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        writer = RegistryWriter(folder, name="vectors")
        writer.prepare()
        for name, version, kind, more, files in MODULES:
            project = work / f"{name}-{version}"
            for path, data in files.items():
                (project / path).parent.mkdir(parents=True, exist_ok=True)
                (project / path).write_bytes(data)
            project.mkdir(exist_ok=True)
            (project / "modpkg.toml").write_text(
                f'[module]\nname = "{name}"\nversion = "{version}"\nkind = "{kind}"\n'
                f'license = "MIT"\nsummary = "A vector"\n{more}'
            )
            built = built_release(project, folder)
            source = Registry(str(project / "dist"))
            writer.publish(source, built.line, now=NOW)
            if (name, version) == YANKED[:2]:
                writer.yank(*YANKED)
    remove_tree(folder / "locks")
    remove_tree(folder / "lookup")


def built_release(project: Path, registry: Path) -> Built:
    """Build a project for a registry, with a fixed word as the builder's version."""
    manifest = read_manifest(project / "modpkg.toml")
    if manifest.module is None:
        raise AssertionError("a vector is a module")
    base = None
    reader = Registry(str(registry))
    if acts_on_base(manifest):
        base = find_base(
            manifest, {item.name: reader for item in manifest.dependencies}, Version("1.0.0")
        )
    out = project / "dist"
    module = manifest.module
    known = known_tensors(FolderPlace(registry), Relatives(module.name, module.version))
    origins = find_origins(manifest, lambda name: reader)
    built = build(manifest, module, out, base=base, origins=origins, known=known)
    provenance = msgspec.structs.replace(built.record.provenance, built_with=BUILT_WITH)
    record = msgspec.structs.replace(built.record, provenance=provenance)
    line = msgspec.structs.replace(built.line, release=BlobTree(out).add(canonical_json(record)))
    return Built(line=line, record=record, tally=built.tally)


def lock_text(registry: Path) -> str:
    """Return the lock file that `REQUIREMENT` resolves to."""
    requirement = parse_requirement(REQUIREMENT)
    roots = root_needs(requirement.name, requirement.extras, requirement.specifier, "")
    resolution = resolve(roots, Catalog(Registry(str(registry))))
    return format_lock(lock_of([REQUIREMENT], resolution))


def write_vectors(folder: Path = VECTORS) -> None:
    """Write all vectors into ``folder``."""
    write_registry(folder / "registry")
    write_atomically(folder / "modpkg.lock", lock_text(folder / "registry").encode())
    for path, data in (
        ("invalid/invalid.json", CASES | {"compose": BAD_COMPOSE}),
        ("compose.json", COMPOSE),
        ("normal.json", NORMAL),
        ("fits.json", FITS),
        ("decoded.json", DECODED),
        ("resolution.json", RESOLUTIONS),
        ("log.json", log_vectors()),
    ):
        text = json.dumps(data, indent=1, ensure_ascii=True) + "\n"
        write_atomically(folder / path, text.encode())
