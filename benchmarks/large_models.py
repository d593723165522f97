"""Random models of real sizes, made in seconds and without a network; only for benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modpkg.core import system


class Shape(NamedTuple):
    """The shape of a Llama with tied embeddings."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


SHAPES = {
    "135m": Shape(576, 1536, 30, 9, 3, 49152),
    "s": Shape(1024, 4096, 8, 16, 4, 32000),
    "1b": Shape(2048, 8192, 16, 32, 8, 128256),
    "3b": Shape(3072, 8192, 28, 24, 8, 128256),
}
"""``1b`` and ``3b`` are Llama 3.2's: 2.47 GB and 6.43 GB of bfloat16; ``s`` is 0.3 GB, and
``135m`` has the shapes of SmolLM2."""

_FILE_BYTES = 5 << 30
_BLOCK = 1 << 24


def config(shape: Shape) -> dict[str, Any]:
    """Return the model's ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }


def linear_layers(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each linear layer, by its path."""
    head = shape.hidden // shape.heads
    sizes = {
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.k_proj": (head * shape.kv_heads, shape.hidden),
        "self_attn.v_proj": (head * shape.kv_heads, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "mlp.gate_proj": (shape.inner, shape.hidden),
        "mlp.up_proj": (shape.inner, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.inner),
    }
    return {
        f"model.layers.{layer}.{name}": size
        for layer in range(shape.layers)
        for name, size in sizes.items()
    }


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, by name."""
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocabulary, shape.hidden),
        "model.norm.weight": (shape.hidden,),
    }
    tensors |= {f"{path}.weight": size for path, size in linear_layers(shape).items()}
    for layer in range(shape.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = (shape.hidden,)
    return tensors


def make_base(folder: Path, shape: Shape, seed: int = 0) -> None:
    """Write a base of normal bfloat16 numbers with a standard deviation of 0.02."""
    block = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32) * np.float32(0.02)
    bits = (block.view(np.uint32) >> np.uint32(16)).astype(np.uint16)

    def fill(out: Any, number: int) -> None:
        # Distinct values for every tensor, at the speed of memory: one block, its fractions mixed.
        draws = np.random.Generator(np.random.SFC64([seed, number]))
        for start in range(0, out.size, _BLOCK):
            part = out[start : start + _BLOCK]
            salt = np.frombuffer(draws.bytes(1 << 16), np.uint16) & np.uint16(0x7F)
            part[:] = bits[: part.size]
            whole = part[: part.size // salt.size * salt.size].reshape(-1, salt.size)
            whole ^= salt
            part[part.size // salt.size * salt.size :] ^= np.uint16(number % 127 + 1)

    _write(folder, shape, fill)


def make_fine_tune(folder: Path, shape: Shape, base: Path, seed: int) -> None:
    """Write a copy of a base with noise of a fiftieth of a standard deviation on every weight."""
    noise = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32) * np.float32(4e-4)
    stored = dict(_stored(base))

    def fill(out: Any, number: int) -> None:
        own = stored[names[number]]
        for start in range(0, out.size, _BLOCK):
            part = own[start : start + _BLOCK]
            wide = (part.astype(np.uint32) << np.uint32(16)).view(np.float32)
            wide += np.roll(noise, 7919 * number)[: part.size]
            out[start : start + part.size] = wide.view(np.uint32) >> np.uint32(16)

    names = list(tensor_shapes(shape))
    _write(folder, shape, fill)


def make_lora(folder: Path, shape: Shape, *, rank: int = 16, seed: int = 0) -> None:
    """Write a float32 LoRA on all linear layers, as PEFT saves it."""
    from safetensors.numpy import save_file

    draws = np.random.default_rng(seed)
    tensors = {}
    for path, (rows, columns) in linear_layers(shape).items():
        for factor, size in (("A", (rank, columns)), ("B", (rows, rank))):
            values = draws.standard_normal(size, np.float32) * np.float32(0.02)
            tensors[f"base_model.model.{path}.lora_{factor}.weight"] = values
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({path.rpartition(".")[2] for path in linear_layers(shape)}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def _write(folder: Path, shape: Shape, fill: Callable[[Any, int], None]) -> None:
    """Write the files of a model; ``fill(out, number)`` sets the bits of the numbered tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(shape), indent=1))
    tensors = list(tensor_shapes(shape).items())
    files: list[list[int]] = [[]]
    held = 0
    for number, (_, size) in enumerate(tensors):
        length = 2 * int(np.prod(size))
        if held + length > _FILE_BYTES and files[-1]:
            files.append([])
            held = 0
        files[-1].append(number)
        held += length
    where: dict[str, str] = {}
    with ThreadPoolExecutor(system.available_cores()) as pool:
        for index, numbers in enumerate(files):
            suffix = "" if len(files) == 1 else f"-{index + 1:05d}-of-{len(files):05d}"
            path = folder / f"model{suffix}.safetensors"
            header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
            place = 0
            places = []
            for number in numbers:
                name, size = tensors[number]
                length = 2 * int(np.prod(size))
                header[name] = {
                    "dtype": "BF16", "shape": size, "data_offsets": [place, place + length],
                }  # fmt: skip
                places.append((number, place, length))
                place += length
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            start = 8 + len(text)
            with open(path, "wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(start + place)
            data = np.memmap(path, np.uint8, "r+", offset=0)
            done = [
                pool.submit(fill, data[start + at : start + at + length].view(np.uint16), number)
                for number, at, length in places
            ]
            for each in done:
                each.result()
            data.flush()
            where |= {tensors[number][0]: path.name for number in numbers}
    if len(files) > 1:
        index_of = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index_of))


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield each tensor's name and bits."""
    from modpkg.core.packs import read_pack_header

    for path in sorted(folder.glob("*.safetensors")):
        data = np.memmap(path, np.uint8, "r")
        for name, place in read_pack_header(path).items():
            yield name, data[place.offset : place.offset + place.length].view(np.uint16)
