"""Adapters of other savers than PEFT: converted where that is exact, else refused by name.

mlx-lm computes  y = x Wᵀ + scale · (x A) B  with A of shape (in, rank) and B of shape (rank, out),
so that PEFT's A and B are their transposes, and its alpha is scale · rank.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modpkg.core.errors import ConversionError
from modpkg.core.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from modpkg.core.files import copy_file, write_atomically
from modpkg.core.jsonfile import read_json
from modpkg.core.packs import read_pack_header
from modpkg.interop.lora_files import FindBase, convert_lora_file
from modpkg.interop.lora_names import is_lora_file, parts_of

if TYPE_CHECKING:
    from torch import Tensor

_MLX_WEIGHTS = "adapters.safetensors"
_MLX_NAME = re.compile(r"^(?P<path>.+)\.(?P<role>lora_a|lora_b|m)$")
_SHOWN = 5
_PICKLE = "adapter_model.bin"
_TORCHTUNE = "adapter_model.pt"
"""What torchtune writes beside the adapter in PEFT's form."""
_TURNED = re.compile(r"\.[qk]_proj\.lora_B\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embeddings?)$")


@contextlib.contextmanager
def as_peft(
    source: Path, *, part: str | None = None, find: FindBase | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder with an adapter in PEFT's form, and warnings.

    The folder is ``source`` itself, or a converted copy.

    Args:
        source: A folder, or a file of another saver.
        part: Which part of a file that is for several models.
        find: Returns the base, for files whose names alone do not tell the layers.

    Raises:
        ConversionError: The adapter is of another form that is not converted.
        PackError: The weights are damaged.
        RegistryError, NotFound: The base is needed and not found.
    """
    weights = _lora_file(source)
    if weights is not None:
        left = [each for each in parts_of(weights) if each != part] if part is not None else []
        with tempfile.TemporaryDirectory() as name:
            convert_lora_file(weights, Path(name), part, find)
            _copy_readme(weights.parent if source.is_dir() else source, Path(name))
            yield Path(name), [f"left out: {each} (import it by --part {each})" for each in left]
        return
    if part is not None:
        raise ConversionError("M801", path=source, reason="it is no file with parts (--part)")
    if _is_mlx(source):
        with tempfile.TemporaryDirectory() as name:
            _convert_mlx(source, read_json(source / ADAPTER_CONFIG), Path(name))
            yield Path(name), []
        return
    if not (source / ADAPTER_WEIGHTS).is_file() and (reason := _elsewhere(source)):
        raise ConversionError("M801", path=source, reason=reason)
    yield source, _reordered(source)


def _lora_file(source: Path) -> Path | None:
    """Return the one file of kohya, LyCORIS or diffusers; None if there is none.

    Raises:
        ConversionError: There are several, or PEFT's configuration is beside it.
    """
    if source.is_file():
        if source.suffix != ".safetensors":
            raise ConversionError(
                "M801",
                path=source,
                reason="it is a file, and of files only .safetensors are read: pickles (.pt, "
                ".ckpt, .bin) can run code; save it as safetensors with the tool that made it",
            )
        if not is_lora_file(read_pack_header(source.resolve())):
            raise ConversionError(
                "M801",
                path=source,
                reason="its tensors are not a LoRA of kohya, LyCORIS or diffusers; name the folder "
                f"with its {ADAPTER_CONFIG} if it is PEFT's",
            )
        return source.resolve()
    configured = (source / ADAPTER_CONFIG).is_file()
    if (source / ADAPTER_WEIGHTS).is_file():
        found = [source / ADAPTER_WEIGHTS]
    else:
        found = sorted(source.glob("*.safetensors"))
    found = [
        path
        for path in found
        if path.is_file() and is_lora_file(read_pack_header(path.resolve()), configured=configured)
    ]
    if len(found) > 1:
        shown = ", ".join(path.name for path in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConversionError(
            "M801",
            path=source,
            reason=f"it has several adapters; import each by its file: {shown}{more}",
        )
    if found and configured:
        raise ConversionError(
            "M801",
            path=source,
            reason=f"{found[0].name} is a LoRA of kohya, LyCORIS or diffusers, and has its scales "
            f"itself; import the file without the {ADAPTER_CONFIG}, which is PEFT's",
        )
    return found[0].resolve() if found else None


def _is_mlx(source: Path) -> bool:
    if (source / ADAPTER_WEIGHTS).is_file():
        return False
    if not ((source / _MLX_WEIGHTS).is_file() and (source / ADAPTER_CONFIG).is_file()):
        return False
    names = read_pack_header((source / _MLX_WEIGHTS).resolve())
    config = read_json(source / ADAPTER_CONFIG)
    return any(name.endswith((".lora_a", ".lora_b")) for name in names) or (
        "lora_parameters" in config or "fine_tune_type" in config
    )


def _copy_readme(source: Path, out: Path) -> None:
    if (source / "README.md").is_file():
        copy_file(source / "README.md", out / "README.md")


def _elsewhere(source: Path) -> str | None:
    """Return what a trainer's folder is that has no adapter itself, and where its adapter is."""
    found = sorted(
        path.parent.name for path in source.glob(f"*/{ADAPTER_WEIGHTS}") if path.is_file()
    )
    if found:
        shown = ", ".join(found)
        return f"it is a trainer's folder, whose adapters are in {shown}; import one of these"
    if any(source.glob("adapter_*.pt")):
        return (
            "its weights are torchtune's pickles (adapter_*.pt); save it with the checkpointer's "
            f"PEFT format, which writes {ADAPTER_WEIGHTS}"
        )
    if any(source.glob("adapter_*.safetensors")):
        return (
            "its weights have torchtune's own names (adapter_*.safetensors); save it with the "
            f"checkpointer's PEFT format, which writes {ADAPTER_WEIGHTS}"
        )
    if any(source.glob("global_step*")) and not (source / _PICKLE).is_file():
        return (
            "it is a checkpoint of DeepSpeed, whose weights are in pieces (global_step…); gather "
            "them (zero_to_fp32.py), load them with PEFT and save the adapter"
        )
    if any(source.glob("pytorch_model_fsdp*")) and not (source / _PICKLE).is_file():
        return (
            "it is a checkpoint of FSDP (pytorch_model_fsdp…), not an adapter as PEFT saves it; "
            "load it with the trainer that wrote it and save the adapter"
        )
    if (source / "value_head.safetensors").is_file() and not (source / _PICKLE).is_file():
        return "it has the value head of a reward model (value_head.safetensors) and no adapter"
    if (source / "adapters.npz").is_file():
        return f"its weights are mlx-lm's adapters.npz; a current mlx-lm writes {_MLX_WEIGHTS}"
    return None


def _reordered(source: Path) -> list[str]:
    """Return a warning for an adapter of Qwen2 whose rows torchtune reordered.

    It reorders the rows of q_proj and k_proj whenever it writes PEFT's form
    (``tune_to_peft_adapter_weights``), as Llama needs it, but does not when it reads or writes
    Qwen2 itself (``qwen2_hf_to_tune``).
    """
    weights, config = source / ADAPTER_WEIGHTS, source / CONFIG
    if not (weights.is_file() and config.is_file() and (source / _TORCHTUNE).is_file()):
        return []
    names = read_pack_header(weights.resolve())
    turned = [name for name in names if _TURNED.search(name)]
    if not turned or read_json(config).get("model_type") != "qwen2":
        return []
    return [
        f"torchtune wrote it with the rows of {turned[0]!r} ({len(turned)} such tensors) in an "
        "order that Qwen2 does not have: PEFT and modpkg take it as it is, so it does something "
        "else than in training; merge it with torchtune and import the model that results"
    ]


# mlx-lm ---------------------------------------------------------------------------------------


def _convert_mlx(source: Path, config: Mapping[str, Any], out: Path) -> None:
    """Write mlx-lm's adapter in PEFT's form.

    Raises:
        ConversionError: It is not a LoRA or a DoRA of matrices.
    """
    from safetensors.torch import load_file, save_file

    def refuse(reason: str) -> ConversionError:
        return ConversionError("M801", path=source, reason=f"it is in mlx-lm's form, and {reason}")

    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        raise refuse(
            "holds a model's own weights; write the whole model with mlx_lm.fuse and import it as "
            "a base"
        )
    settings = config.get("lora_parameters")
    scale = settings.get("scale") if isinstance(settings, dict) else None
    if (
        kind not in ("lora", "dora")
        or isinstance(scale, bool)
        or not isinstance(scale, int | float)
    ):
        raise refuse(f"its {ADAPTER_CONFIG} has no lora_parameters with a scale")
    read_pack_header((source / _MLX_WEIGHTS).resolve())
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(source / _MLX_WEIGHTS).items():
        match = _MLX_NAME.match(name)
        dimensions = 1 if match is not None and match["role"] == "m" else 2
        if match is None or tensor.ndim != dimensions:
            raise refuse(
                f"only LoRA on matrices is converted: {name!r} has shape {list(tensor.shape)}"
            )
        modules.setdefault(match["path"], {})[match["role"]] = tensor
    roles = {"lora_a", "lora_b"} | ({"m"} if kind == "dora" else set())
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path, parts in modules.items():
        if parts.keys() != roles or parts["lora_a"].shape[1] != parts["lora_b"].shape[0]:
            raise refuse(f"the tensors of {path!r} are not {', '.join(sorted(roles))} of one rank")
        embedding = _EMBEDDING.search(path) is not None
        if embedding and "m" in roles:
            raise refuse(f"its DoRA on the embedding {path!r} has no counterpart in PEFT")
        one, other = (
            ("lora_embedding_A", "lora_embedding_B")
            if embedding
            else ("lora_A.weight", "lora_B.weight")
        )
        prefix = f"base_model.model.{path}."
        tensors[prefix + one] = parts["lora_a"].T.contiguous()
        tensors[prefix + other] = parts["lora_b"].T.contiguous()
        if "m" in parts:
            tensors[f"{prefix}lora_magnitude_vector"] = parts["m"]
        ranks[path] = parts["lora_a"].shape[1]
    if not ranks:
        raise refuse("has no tensors")
    rank = max(ranks.values())
    others = {re.escape(path): own for path, own in ranks.items() if own != rank}
    converted = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": {f"^{path}": own for path, own in others.items()},
        "alpha_pattern": {f"^{path}": scale * own for path, own in others.items()},
        "target_modules": sorted(ranks),
        "use_dora": kind == "dora",
        "bias": "none",
        "inference_mode": True,
    }
    save_file(tensors, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    write_atomically(out / ADAPTER_CONFIG, msgspec.json.format(msgspec.json.encode(converted)))
    _copy_readme(source, out)
