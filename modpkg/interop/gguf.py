"""GGUF files: weights dequantised, tokenizer and config converted, through transformers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.errors import ConversionError
from modpkg.core.extras import import_extra
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.interop.module_project import license_of, new_project, write_manifest
from modpkg.runtime.architecture import transformers_module

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}

_MACHINE_SPECIFIC = (
    "_model_name_or_path",
    "_name_or_path",
    "is_local",
    "local_files_only",
    "quantization_config",
    "transformers_version",
)

PRE_TOKENIZERS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "gpt-2": None,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
}
"""By ``tokenizer.ggml.pre``, the pre-tokenizer that transformers' conversion loses; None where it
is correct. Others are kept as converted, with a warning."""


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

    Quantised weights are dequantised and rounded to ``dtype``, so the module differs from the
    model that was quantised.

    Raises:
        ConversionError: `source` is not a GGUF file, or transformers cannot convert it.
        MissingExtra: Gguf or transformers is not installed.
        InstallError: `out` cannot be written.
    """
    import_extra("gguf", what="Reading GGUF files", extra="gguf")
    transformers = transformers_module()
    import torch

    fields = _fields(source)
    spdx, warnings = license_of(source.parent, license or fields.get("general.license"))
    with new_project(out) as staged, _quiet():
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source.parent,
                gguf_file=source.name,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                **_dequantised(transformers),
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source.parent, gguf_file=source.name, local_files_only=True
            )
        except (ValueError, KeyError, OSError, NotImplementedError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise ConversionError("M801", path=source, reason=text) from None
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        warnings += _fix_pre_tokenizer(staged, fields)
        _remove_machine_specific(staged)
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="base",
            license=spdx,
            summary=f"{fields.get('general.name', source.stem)}, dequantised from {source.name}",
            task="text-generation",
        )
    return warnings


def _dequantised(transformers: Any) -> dict[str, Any]:
    """Return the options with which transformers dequantises; older versions always do."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _fields(source: Path) -> dict[str, str]:
    """Return the text fields of a GGUF file's header."""
    from gguf import GGUFReader, GGUFValueType

    with open(source, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ConversionError("M801", path=source, reason="it does not begin with GGUF")
    try:
        reader = GGUFReader(source)
        return {
            key: str(field.contents())
            for key, field in reader.fields.items()
            if field.types and field.types[0] == GGUFValueType.STRING
        }
    except Exception as error:  # the reader trusts the file and can fail anyhow
        text = " ".join(str(error).split())[:200]
        raise ConversionError(
            "M801", path=source, reason=f"its header cannot be read ({text})"
        ) from None


def _fix_pre_tokenizer(staged: Path, fields: dict[str, str]) -> list[str]:
    pre = fields.get("tokenizer.ggml.pre", "default")
    if pre not in PRE_TOKENIZERS and pre not in _supported_pre_tokenizers():
        return [
            f"the pre-tokenizer {pre!r} was converted as GPT-2's; compare its token ids with the "
            "original's before you publish"
        ]
    wanted = PRE_TOKENIZERS[pre]
    if wanted is not None:
        path = staged / TOKENIZER
        document = read_json(path)
        document["pre_tokenizer"] = wanted
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
    return []


def _supported_pre_tokenizers() -> Collection[str]:
    """Return the pre-tokenizers that the installed transformers converts correctly."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return ()
    return set(GGUF_PRE_TOKENIZER_SPLITS)


def _remove_machine_specific(staged: Path) -> None:
    """Remove from the configs what depends on this machine and not on the model."""
    for file in (CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG):
        path = staged / file
        if not path.exists():
            continue
        document = read_json(path)
        for key in _MACHINE_SPECIFIC:
            document.pop(key, None)
        path.write_bytes(
            msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2)
        )


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
