"""GGUF files: weights dequantised, tokenizer and config converted, through transformers."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from modpkg.compose.confinement import confined
from modpkg.core import system
from modpkg.core.errors import ConversionError, InvalidValue, RunError
from modpkg.core.extras import import_extra
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG, MANIFEST, TOKENIZER_CONFIG
from modpkg.core.files import link_or_copy, write_atomically
from modpkg.core.jsonfile import read_json
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.printable import error_text
from modpkg.interop.gguf_header import GgufHeader, damaged
from modpkg.interop.gguf_parts import join_parts, read_parts
from modpkg.interop.gguf_reader import read_once
from modpkg.interop.gguf_settings import RULES, amended, check_settings
from modpkg.interop.gguf_tensors import check_tensors
from modpkg.interop.gguf_tokenizer import check_tokenizer, fix_pre_tokenizer
from modpkg.interop.hub_blob import check_hub_blob, check_link
from modpkg.interop.hub_licenses import UNKNOWN_LICENSE
from modpkg.interop.model_card import license_of, read_card
from modpkg.interop.module_project import (
    new_project,
    write_manifest,
)
from modpkg.runtime.architecture import transformers_module

_MACHINE_SPECIFIC = (
    "_model_name_or_path",
    "_name_or_path",
    "is_local",
    "local_files_only",
    "quantization_config",
    "transformers_version",
)


_TEMPLATES = "tokenizer.chat_template."
"""How the keys of further chat templates begin, which transformers does not read."""


def import_gguf(
    source: Path,
    out: Path,
    name: str,
    version: str,
    *,
    dtype: str = "bfloat16",
    license: str | None = None,
) -> list[str]:
    """Write a module of kind ``base`` from a GGUF file, and return warnings.

    Of a split model, ``source`` is any part. Quantised weights are dequantised in float32 and
    rounded once to ``dtype``, so the module differs from the model that was quantised.

    Raises:
        ConversionError: `source` is damaged, incomplete, or not a whole language model, or it has a
            tensor or setting that transformers would not take over exactly.
        MissingExtra: Gguf or transformers is not installed.
        InstallError: `out` cannot be written.
    """
    import_extra("gguf", what="Reading GGUF files", extra="gguf")
    transformers = transformers_module()

    parts = read_parts(source)
    for part in parts:
        if part.path != source:  # which a person has named
            check_link(source.parent, part.path)
        check_hub_blob(part.path)
    _refuse_other_kinds(parts[0])
    check_tokenizer(parts[0])
    spdx, warnings = _license(source, license, parts[0])
    with (
        new_project(out) as staged,
        _quiet(),
        confined(),
        read_once(),
        _alone(parts, out.parent) as header,
    ):
        config = _config(transformers, header)
        model, ignored = _load(transformers, header, config, dtype)
        model.save_pretrained(staged)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                header.file.parent,
                gguf_file=header.file.name,
                local_files_only=True,
                trust_remote_code=False,
            )
        except Exception as error:  # transformers trusts the metadata and can fail anyhow
            raise _unreadable(header, "its tokenizer", error) from None
        tokenizer.save_pretrained(staged)
        warnings += [f"left out, as transformers does: {item}" for item in ignored]
        warnings += [
            f"left out: the chat template {key.removeprefix(_TEMPLATES)[:40]!r}"
            for key in header.metadata
            if key.startswith(_TEMPLATES)
        ]
        warnings += fix_pre_tokenizer(staged, header)
        _remove_machine_specific(staged)
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="base",
            license=spdx,
            summary=f"{header.text('general.name') or source.stem}, dequantised from {source.name}",
            task="text-generation",
        )
    return warnings


def _refuse_other_kinds(header: GgufHeader) -> None:
    """Refuse files that are GGUF, and not a whole language model."""
    kind = header.text("general.type") or "model"
    architecture = header.text("general.architecture")
    lora = any(name.endswith((".lora_a", ".lora_b")) for name in header.tensors)
    if kind == "adapter" or lora or header.text("adapter.type") is not None:
        raise damaged(
            header.path,
            "it is an adapter (a LoRA in GGUF), not a model; import the PEFT adapter that it was "
            "made from with 'modpkg import peft'",
        )
    if kind != "model" or architecture == "clip":
        raise damaged(
            header.path,
            f"it is of type {kind[:40]!r} with the architecture {str(architecture)[:40]!r}, and "
            "only language models can be imported",
        )
    if not header.tensors:
        raise damaged(header.path, "it has no tensors, only a vocabulary or settings")
    if architecture is None:
        raise damaged(header.path, "it has no general.architecture")
    if architecture not in RULES:
        raise damaged(
            header.path,
            f"its architecture {architecture[:40]!r} is not one that transformers reads exactly "
            f"({', '.join(sorted(RULES))}); import the model that it was made "
            "from",
        )


def _license(source: Path, given: str | None, header: GgufHeader) -> tuple[str, list[str]]:
    """Return the licence given, else the file's if it is an SPDX expression, else the README's."""
    named = header.text("general.license")
    if given is None and named is not None:
        try:
            return license_of(read_card(source.parent), named)
        except InvalidValue:  # such as "llama3.1" or "other"
            return UNKNOWN_LICENSE, [
                f"the licence is unknown (the file has {named[:80]!r}); write an SPDX expression "
                f"into {MANIFEST}"
            ]
    return license_of(read_card(source.parent), given)


@contextlib.contextmanager
def _alone(parts: list[GgufHeader], beside: Path) -> Iterator[GgufHeader]:
    """Yield the model as the one file of a temporary folder.

    transformers reads other files that lie beside a GGUF file, such as an adapter's config.
    """
    folder = temporary_sibling(beside / "gguf")
    folder.mkdir()
    try:
        target = folder / "model.gguf"
        if len(parts) > 1:
            yield join_parts(parts, target)
            return
        if not system.symbolic_link(target, parts[0].path):
            link_or_copy(parts[0].path, target)
        yield replace(parts[0], file=target)
    finally:
        discard(folder)


def _config(transformers: Any, header: GgufHeader) -> Any:
    """Return the config of the file, with every setting accounted for.

    Raises:
        ConversionError: A setting cannot be carried over, or contradicts another.
    """
    try:
        raw, _ = transformers.PreTrainedConfig.get_config_dict(
            header.file.parent, gguf_file=header.file.name, local_files_only=True
        )
        architecture = str(header.text("general.architecture"))
        if raw.get("model_type") == "mistral":  # for a name; gguf knows the architecture llama only
            raw["model_type"] = "llama"
        raw = amended(raw, header, architecture)
        kind = transformers.CONFIG_MAPPING[raw["model_type"]]
        config = kind.from_dict(raw)
        check_settings(config, header, architecture)
    except ConversionError:
        raise
    except Exception as error:  # transformers trusts the metadata and can fail anyhow
        raise _unreadable(header, "its settings", error) from None
    return config


def _load(transformers: Any, header: GgufHeader, config: Any, dtype: str) -> tuple[Any, list[str]]:
    """Return the model with the file's weights in ``dtype``, and the tensors it ignores.

    Raises:
        ConversionError: A tensor is missing, left over, or of a type that cannot be read.
    """
    import torch

    from modpkg.compose.backing import parts_bounded

    auto = transformers.AutoModelForCausalLM
    try:
        with torch.device("meta"), parts_bounded(header.path.name, len(header.tensors)):
            empty = auto.from_config(config, trust_remote_code=False)
        ignored = check_tensors(empty, header)
        model, info = auto.from_pretrained(
            header.file.parent,
            gguf_file=header.file.name,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **_dequantised(transformers),
        )
    except (ConversionError, RunError):
        raise
    except Exception as error:  # transformers trusts the file and can fail anyhow
        raise _unreadable(header, "its tensors", error) from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        names = sorted(str(name) for name in info.get(what) or ())
        if names:
            raise damaged(
                header.path, f"transformers does not take it over: {what} {', '.join(names[:3])}"
            )
    return _rounded(model, getattr(torch, dtype)), ignored


def _rounded(model: Any, dtype: Any) -> Any:
    """Round weights from float32 once, except where the architecture keeps them."""
    kept = model._get_dtype_plan(dtype) if hasattr(model, "_get_dtype_plan") else {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not any(re.search(item, name) for item in kept):
            tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype
    return model


def _unreadable(header: GgufHeader, what: str, error: Exception) -> ConversionError:
    text = error_text(error)
    text = text.replace(str(header.file), str(header.path))
    return damaged(header.path, f"transformers cannot read {what} ({text})")


def _dequantised(transformers: Any) -> dict[str, Any]:
    """Return the options with which transformers dequantises; older versions always do."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _remove_machine_specific(staged: Path) -> None:
    """Remove from the configs what depends on this machine and not on the model."""
    for file in (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG):
        path = staged / file
        if not path.exists():
            continue
        document = read_json(path)
        for key in _MACHINE_SPECIFIC:
            document.pop(key, None)
        text = msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2)
        write_atomically(path, text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and log messages of transformers."""
    import tqdm

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    before = tqdm.tqdm.__init__

    def silent(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = True
        before(self, *args, **kwargs)

    tqdm.tqdm.__init__ = silent
    try:
        yield
    finally:
        tqdm.tqdm.__init__ = before
        logger.setLevel(level)
