"""What is fuzzed: everything that reads bytes of others, with inputs to begin with.

A target reads its input as modpkg does and returns or raises a `ModpkgError`; whatever else it
raises is a fault. `benchmarks/fuzz.py` runs them for hours, `test_fuzz.py` for a moment.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modpkg.adapters.reader import bind_adapter
from modpkg.community.evaluate.cases import Column, read_cases
from modpkg.core.digests import digest_bytes
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import ModpkgError
from modpkg.core.interface import drift_of, unfit_reason
from modpkg.core.jsonfile import parse_json
from modpkg.core.oci_address import parse_oci_address
from modpkg.core.packs import pack_header, read_pack_header
from modpkg.core.records import (
    Expects,
    PatchRecord,
    Provides,
    ReleaseRecord,
    TensorType,
    decode_record,
)
from modpkg.deltas.choose import encode
from modpkg.deltas.decode import decode
from modpkg.deltas.frame import write_frame
from modpkg.interop.gguf_header import GgufHeader, read_gguf_header
from modpkg.interop.gguf_settings import RULES, amended
from modpkg.interop.gguf_tokenizer import check_tokenizer
from modpkg.interop.mergekit import import_mergekit
from modpkg.interop.oci_artifact import read_artifact, read_model_config
from modpkg.manifest.config import parse_settings
from modpkg.manifest.read import parse_manifest
from modpkg.registry.candidates import (
    encoded_entry,
    format_candidates,
    parse_candidates,
    parse_thread,
)
from modpkg.registry.index import parse_index
from modpkg.registry.oci_client import IMAGE_MANIFEST
from modpkg.release.verify import check_record
from modpkg.resolve.lock import format_lock, parse_lock, read_lock
from modpkg.toml.document import decoded
from registry_spec import VECTORS
from tests.hostile.mutations import (
    Mutate,
    mutate_bytes,
    mutate_framed,
    mutate_json,
    mutate_lines,
    mutate_text,
)
from tests.registry.oci_server import as_bytes, layer_of, manifest_of

Run = Callable[[bytes, Path], object]
"""Reads an input; a folder is for files that it needs."""


@dataclass(frozen=True)
class Target:
    """Something that reads bytes of others."""

    seeds: Callable[[], list[bytes]]
    run: Run
    mutations: tuple[Mutate, ...]

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        """Return an input made from another one."""
        return rng.choice(self.mutations)(data, rng)

    def fault(self, data: bytes, folder: Path) -> BaseException | None:
        """Return what an input raises that is no error of modpkg's; None if all is well."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.run(data, folder)
        except ModpkgError as error:
            if "\x1b" in str(error) or "\x00" in str(error) or "\u202e" in str(error):
                return AssertionError(f"unclean text in {error.code}")
        except Exception as error:
            return error
        return None


def _manifest(data: bytes, folder: Path) -> None:
    path = folder / "modpkg.toml"
    parse_manifest(decoded(data, path.name), path)


def _config(data: bytes, folder: Path) -> None:
    path = folder / "config.toml"
    parse_settings(decoded(data, path.name), path)


def _lock(data: bytes, folder: Path) -> None:
    path = folder / "modpkg.lock"
    path.write_bytes(data)
    lock = read_lock(path)
    if lock is not None:
        assert parse_lock(format_lock(lock), path) == lock


def _index(data: bytes, folder: Path) -> None:
    parse_index(data, "summarizer", "registry", lambda message: None)


def _candidates(data: bytes, folder: Path) -> None:
    found = parse_candidates(data, "summarizer", "registry")
    assert parse_candidates(format_candidates(found), "summarizer", "registry") == found


def _thread(data: bytes, folder: Path) -> None:
    for entry in parse_thread(data, "summarizer", 1, "registry").entries:
        encoded_entry(entry)


def _record(data: bytes, folder: Path) -> None:
    check_record(decode_record(data, ReleaseRecord, "a release"))


def _patch(data: bytes, folder: Path) -> None:
    decode_record(data, PatchRecord, "a patch")


def _interface(data: bytes, folder: Path) -> None:
    first, _, second = data.partition(b"\n")
    provides = decode_record(first, Provides, "an interface")
    expects = decode_record(second, Expects, "an interface")
    unfit_reason(expects, provides)
    drift_of(expects, provides, {})


def _safetensors(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    read_pack_header(path)


_METHODS = ("planes", "difference", "sparse", "other")
_DTYPES = tuple(DTYPE_BYTES)


def _delta(data: bytes, folder: Path) -> None:
    """Decode; four bytes choose method, dtype, and the length of the tensor."""
    head, payload = data[:4].ljust(4, b"\0"), data[4:]
    method = _METHODS[head[0] % 4]
    length = int.from_bytes(head[2:4], "little")
    if head[0] & 128:  # a whole frame of what follows
        payload = write_frame([payload], len(payload))
    base = None if head[0] & 64 else memoryview(bytes(length))
    decode(
        method, payload, base, memoryview(bytearray(length)), _DTYPES[head[1] % len(_DTYPES)], "t"
    )


def _gguf(data: bytes, folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(data)
    header: GgufHeader = read_gguf_header(path)
    check_tokenizer(header)
    if (architecture := header.text("general.architecture")) in RULES:
        amended({"num_attention_heads": 2, "hidden_size": 8}, header, str(architecture))


_BASE = {
    f"model.layers.{layer}.self_attn.{name}_proj.weight": TensorType("F32", [4, 6])
    for layer in range(2)
    for name in "qv"
} | {"model.norm.weight": TensorType("F32", [4])}


def _adapter(data: bytes, folder: Path) -> None:
    """Bind; the names and shapes of its tensors are in the input too."""
    document = parse_json(data, "adapter_config.json")
    config, named = document.get("config"), document.get("tensors")
    if isinstance(config, dict) and isinstance(named, dict):
        tensors = {
            name: ("F32", tuple(shape[1:]))
            for name, shape in named.items()
            if isinstance(shape, list)
            and all(isinstance(extent, int) and 0 <= extent <= 2**62 for extent in shape[1:])
        }
        bind_adapter("an-adapter", tensors, config, _BASE, base_name="a-base 1.0")


_ARTIFACT = as_bytes(
    manifest_of([layer_of("config.json", b"x"), layer_of("run.py", b"y", "code.v1.raw")])
)


def _artifact(data: bytes, folder: Path) -> None:
    address = parse_oci_address("oci://models.example/team/model:1")
    read_model_config(data)
    for layer in read_artifact(data, IMAGE_MANIFEST, address).layers:
        assert (folder / layer.path).resolve().is_relative_to(folder.resolve())


def _mergekit(data: bytes, folder: Path) -> None:
    source, out = folder / "recipe.yml", folder / "out"
    source.write_bytes(data)
    shutil.rmtree(out, ignore_errors=True)
    import_mergekit(source, out, "merged", "1.0")


def _cases(data: bytes, folder: Path) -> None:
    ending, _, rows = data.partition(b"\n")
    columns = {"text": Column("text"), "target": Column("number", optional=True)}
    read_cases(rows, f"cases.{'csv' if ending == b'csv' else 'jsonl'}", columns)


# Inputs to begin with -----------------------------------------------------------------------


_MANIFESTS = (
    """[module]
name = "summarizer"
version = "2.1.0"
kind = "model"
license = "Apache-2.0 OR MIT"
summary = "Short factual summaries"
[dependencies]
smollm = ">=1.0,<2"
lora = { version = "~=1.2", registry = "acme", extras = ["fast"] }
[extras]
fast = ["small>=1"]
[registries]
acme = "https://models.example/acme"
[compose]
base = "smollm"
steps = [{ op = "lora", module = "lora", scale = 1.0 }]
[task]
kind = "summarization"
prompt = "Summarize: {{ text }}"
max_new_tokens = 64
stop = ["\\n"]
[[tests]]
name = "rouge"
cases = "tests/cases.jsonl"
metric = "rouge-l"
at_least = 0.2
""",
    """[app]
name = "my-app"
requires-modpkg = ">=0.1"
[dependencies]
tiny = "*"
lora = ">=1"
[constraints]
tiny = "<3"
[overrides]
lora = "==1.5"
[resolution]
strategy = "lowest"
exclude-newer = "2026-01-01T00:00:00Z"
prereleases = ["tiny"]
[licenses]
allow = ["MIT", "Apache-2.0"]
[models.talker]
base = "tiny"
steps = [{ op = "lora", module = "lora", scale = 0.5, parameters = { density = [0.1, 0.9] } }]
[models.talker.task]
kind = "text-generation"
""",
)
_LOCK = VECTORS / "modpkg.lock"
_CONFIG = """[registries]
default = "https://models.example/a"
acme = "s3://bucket/acme"
[registry."https://models.example/a"]
mirrors = ["https://mirror.example/a"]
token = "abc"
[registry."https://other.example"]
username = "u"
password-env = "PASSWORD"
[store]
max-size = "10 GB"
"""
_RECIPES = (
    """models:
  - model: a/b
    parameters: {weight: 0.5, density: [0.1, 0.9]}
  - model: c/d
    parameters: {weight: 0.5}
merge_method: ties
base_model: e/f
parameters: {normalize: true}
dtype: bfloat16
""",
    """slices:
  - sources: [{model: a/b, layer_range: [0, 4]}]
  - sources: [{model: c/d, layer_range: [2, 6], parameters: {scale: 0.5}}]
merge_method: passthrough
""",
    """base_model: a/b
gate_mode: hidden
experts:
  - {source_model: c/d, positive_prompts: [code]}
  - {source_model: e/f, positive_prompts: [math]}
dtype: float16
""",
)


def _records(*names: str) -> list[bytes]:
    """Return the small blobs of the vectors whose text has all these words."""
    blobs = sorted((VECTORS / "registry").rglob("blobs/**/*"))
    small = [path.read_bytes() for path in blobs if path.is_file() and path.stat().st_size < 20_000]
    return [data for data in small if all(f'"{name}"'.encode() in data for name in names)]


def _interfaces() -> list[bytes]:
    tensor = {"dtype": "F32", "shape": [2, 3]}
    ports = {"architecture": "llama", "hidden": 8, "tokenizer": "sha256:" + "0" * 64}
    provides = {"spec": 1, "tensors": {"a.weight": tensor}, "ports": ports}
    touched = {**tensor, "digest": "sha256:" + "1" * 64}
    expects = {"spec": 1, "tensors": {"a.weight": touched}, "ports": ports}
    return [json.dumps(provides).encode() + b"\n" + json.dumps(expects).encode()]


def _patches() -> list[bytes]:
    digest = "sha256:" + "0" * 64
    changed = {"digest": digest, "was": digest, "inputs": {"a": "x.a", "b": "x.b"}}
    tensors = {"a.weight": changed, "b.weight": {"digest": digest, "first": 3}}
    patch = {"spec": 1, "base": "tiny", "version": "1.0", "tensors": tensors}
    return [json.dumps({**patch, "removed": {"c": digest}, "removed_files": ["x"]}).encode()]


def _safetensors_seeds() -> list[bytes]:
    seeds = []
    for tensors in (
        {"a": ("F32", (2, 3)), "b": ("BF16", (4,)), "c": ("I8", ())},
        {f"layers.{n}.weight": ("F16", (2, 2)) for n in range(8)},
    ):
        header, places = pack_header(tensors)
        seeds.append(header + bytes(sum(place.length for place in places.values())))
    return seeds


def _delta_seeds() -> list[bytes]:
    seeds = []
    for length, dtype in ((64, "F32"), (6000, "BF16"), (0, "F16"), (65_000, "I8")):
        rng = random.Random(length)
        old = memoryview(bytes(length))
        new = bytearray(length)
        for _ in range(length // 50):
            new[rng.randrange(length)] = rng.randrange(4)
        found = encode(memoryview(new), old, dtype)
        if found is not None:
            number = _METHODS.index(found[0]) | (64 if found[0] == "planes" else 0)
            head = bytes([number, _DTYPES.index(dtype)]) + length.to_bytes(2, "little")
            seeds += [head + found[1], bytes([number | 128]) + head[1:] + bytes(40)]
    return [*seeds, b"\x80\x00\x10\x00" + bytes(16)]


def gguf_bytes(
    metadata: dict[str, tuple[int, Any]], tensors: dict[str, tuple[int, ...]], data: bytes = b""
) -> bytes:
    """Return a GGUF file of float32 tensors; values are given with their type."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    def written(kind: int, value: Any) -> bytes:
        if kind == 8:
            return text(value)
        if kind == 9:
            element, items = value
            return struct.pack("<IQ", element, len(items)) + b"".join(
                written(element, item) for item in items
            )
        return struct.pack("<" + {4: "I", 5: "i", 6: "f", 7: "B", 10: "Q"}[kind], value)

    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, (kind, value) in metadata.items():
        out += text(key) + struct.pack("<I", kind) + written(kind, value)
    offset = 0
    for name, shape in tensors.items():
        size = 4
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        out += struct.pack("<IQ", 0, offset)
        for extent in shape:
            size *= extent
        offset += -(-size // 32) * 32
    return out + bytes(-len(out) % 32) + (data or bytes(offset))


GGUF_METADATA: dict[str, tuple[int, Any]] = {
    "general.architecture": (8, "llama"),
    "llama.block_count": (4, 1),
    "llama.context_length": (4, 64),
    "llama.embedding_length": (4, 8),
    "llama.feed_forward_length": (4, 16),
    "llama.attention.head_count": (4, 2),
    "llama.attention.layer_norm_rms_epsilon": (6, 1e-5),
    "llama.rope.freq_base": (6, 1e4),
    "tokenizer.ggml.model": (8, "gpt2"),
    "tokenizer.ggml.tokens": (9, (8, ["a", "b", "ab"])),
    "tokenizer.ggml.merges": (9, (8, ["a b"])),
    "tokenizer.ggml.token_type": (9, (5, [1, 1, 1])),
    "tokenizer.ggml.bos_token_id": (4, 0),
}
GGUF_TENSORS = {"token_embd.weight": (8, 3), "blk.0.attn_q.weight": (8, 8)}


def _adapters() -> list[bytes]:
    common = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    low_rank = {"lora_A.weight": (2, 6), "lora_B.weight": (4, 2)}
    hadamard = {"hada_w1_a": (4, 2), "hada_w1_b": (2, 6), "hada_w2_a": (4, 2), "hada_w2_b": (2, 6)}
    configs: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = [
        ({"peft_type": "LORA", **common}, low_rank),
        ({"peft_type": "LORA", **common, "rank_pattern": {"layers.0": 2}, "use_rslora": True,
          "alpha_pattern": {"^model.*q_proj": 8}, "layers_to_transform": [0, 1],
          "layers_pattern": "layers", "exclude_modules": ".*x$"}, low_rank),
        ({"peft_type": "LORA", **common, "layer_replication": [[0, 1], [0, 2]]}, low_rank),
        ({"peft_type": "LORA", **common, "use_dora": True},
         {**low_rank, "lora_magnitude_vector": (4,)}),
        ({"peft_type": "LOHA", "r": 2, "alpha": 4, "target_modules": ".*(q|v)_proj"}, hadamard),
        ({"peft_type": "BOFT", "boft_block_size": 2, "boft_n_butterfly_factor": 1,
          "target_modules": ["q_proj", "v_proj"], "bias": "none"},
         {"boft_R": (1, 3, 2, 2), "boft_s": (4, 1)}),
        ({"peft_type": "IA3", "target_modules": ["q_proj", "v_proj"], "feedforward_modules": []},
         {"ia3_l": (4, 1)}),
        ({"peft_type": "VERA", "r": 2, "target_modules": ["q_proj"],
          "projection_prng_key": 0, "save_projection": True},
         {"vera_lambda_b": (4,), "vera_lambda_d": (2,)}),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 4,
          "task_type": "CAUSAL_LM", "num_layers": 1}, {}),
    ]  # fmt: skip
    seeds = []
    for config, parts in configs:
        tensors = {
            f"base_model.model.model.layers.{layer}.self_attn.{name}_proj.{part}": ("F32", *shape)
            for layer in range(2)
            for name in "qv"
            for part, shape in parts.items()
        } or {"prompt_embeddings": ("F32", 4, 4)}
        seeds.append(json.dumps({"config": config, "tensors": tensors}).encode())
    return seeds


def _encoded(texts: tuple[str, ...]) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


_INDEXED = {
    "name": "summarizer", "version": "1.1", "kind": "model", "requires": ["words>=1"],
    "release": f"sha256:{7:064}",
}  # fmt: skip
_CANDIDATES = "\n".join(
    json.dumps(
        {"number": number, "line": _INDEXED, "by": "ada", "at": "2026-11-28T00:00:00Z", **more}
    )
    for number, more in enumerate(
        (
            {"message": "Better.\nMuch."},
            {"status": "rejected", "decided_by": "eve", "reason": "no"},
        ),
        1,
    )
)
_THREAD = "\n".join(
    json.dumps({"kind": kind, "by": "bob", "at": "2026-11-28T00:00:00Z", **more})
    for kind, more in (
        ("comment", {"text": "Why?"}),
        ("report", {"report": {"tool": "vet", "verdict": "reject", "document": {"spec": 1}}}),
    )
)
_TOML = (mutate_text, mutate_text, mutate_text, mutate_bytes)
_JSON = (mutate_json, mutate_json, mutate_json, mutate_text, mutate_bytes)

TARGETS = {
    "manifest": Target(_encoded(_MANIFESTS), _manifest, _TOML),
    "config": Target(_encoded((_CONFIG,)), _config, _TOML),
    "lock": Target(lambda: [_LOCK.read_bytes()], _lock, _TOML),
    "index": Target(
        lambda: [p.read_bytes() for p in sorted((VECTORS / "registry" / "index").glob("*.jsonl"))],
        _index,
        (mutate_lines, mutate_lines, mutate_bytes),
    ),
    "candidates": Target(_encoded((_CANDIDATES,)), _candidates, (mutate_lines, mutate_bytes)),
    "thread": Target(_encoded((_THREAD,)), _thread, (mutate_lines, mutate_bytes)),
    "record": Target(lambda: _records("packs", "version"), _record, _JSON),
    "patch": Target(_patches, _patch, _JSON),
    "interface": Target(_interfaces, _interface, (mutate_lines, mutate_bytes)),
    "safetensors": Target(
        _safetensors_seeds, _safetensors, (mutate_framed, mutate_framed, mutate_bytes)
    ),
    "delta": Target(_delta_seeds, _delta, (mutate_bytes,)),
    "gguf": Target(
        lambda: [gguf_bytes(GGUF_METADATA, GGUF_TENSORS)], _gguf, (mutate_bytes, mutate_text)
    ),
    "adapter": Target(_adapters, _adapter, _JSON),
    "oci": Target(lambda: [_ARTIFACT], _artifact, _JSON),
    "mergekit": Target(_encoded(_RECIPES), _mergekit, _TOML),
    "cases": Target(
        lambda: [
            b'jsonl\n{"text":"a","target":1}\n{"text":"b","target":"2"}',
            b'csv\ntext,target\n"a,b",1\nc,2\n',
        ],
        _cases,
        (mutate_text, mutate_lines, mutate_bytes),
    ),
}


def corpus(name: str) -> list[bytes]:
    """Return the inputs that a target begins with, each of another digest."""
    return list({digest_bytes(seed): seed for seed in TARGETS[name].seeds()}.values())


def fuzz(name: str, count: int, seed: int) -> list[tuple[bytes, BaseException]]:
    """Run mutated inputs; return those that raise something that they should not."""
    target, rng = TARGETS[name], random.Random(f"{seed}/{name}")
    inputs, found = corpus(name), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            data = target.mutated(rng.choice(inputs), rng)
            if (error := target.fault(data, Path(folder))) is not None:
                found.append((data, error))
            elif rng.random() < 0.1 and len(data) < 20_000:
                inputs.append(data)  # further mutations of what was read
    return found
