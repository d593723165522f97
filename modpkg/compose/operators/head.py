"""``head``: tensors beside the base's, and the architecture that uses them.

    composed[t] = head[t]    for the head's tensors;  = base[t] for all others

A head is a small network on top of a base's output, such as a classifier. It may replace tensors of
the base if its step sets that, and its ``config.json`` is merged into the base's.
"""

from __future__ import annotations

import re
from pathlib import Path

from modpkg.adapters import bind_head
from modpkg.adapters.head import class_stem
from modpkg.adapters.memory import disk_names, read_memory
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.filenames import CONFIG, MEMORY
from modpkg.core.jsonfile import read_json
from modpkg.core.tensors import types_of

_BASE_KEYS = {"_name_or_path", "dtype", "torch_dtype", "transformers_version"}
"""Keys of ``config.json`` that stay the base's."""
_DOCUMENT = re.compile(
    r"(?i)^(?:(?:readme|licen[cs]e|copying|notice|changelog)(?:[._-].*)?|\.git.*|tests/.*|dist/.*"
    r"|modpkg\.toml|report\.json|.*\.(?:index\.json|jsonl|csv|parquet)|config\.json)$"
)


def bind(context: StepContext) -> Effects:
    """Return the head's tensors, its edits to ``config.json``, and its files.

    Raises:
        ComposeError: The head has a tensor of the base that ``replace`` does not list, was made
            for another architecture, or its step has a scale.
    """
    module, base, step = context.module, context.base, context.step
    if step.scale != 1.0:
        raise context.refuse_step("has a scale, but a head cannot be scaled")
    record = read_memory(module.files, module.name)
    names = disk_names(record, module.tensors)
    tensors = {names[name]: ref for name, ref in module.tensors.items()}
    head = bind_head(
        context.model,
        types_of(tensors),
        base.tensors,
        step.replace,
        base_name=context.base_name,
    )
    config = read_json(module.files[CONFIG]) if CONFIG in module.files else {}
    architecture = context.config.get("model_type")
    if (made_for := config.get("model_type")) not in (None, architecture):
        raise context.refuse(
            f"{module.name} was made for the architecture {made_for!r}, but {base.name} is "
            f"{architecture!r}"
        )
    edits = {key: value for key, value in config.items() if key not in _BASE_KEYS}
    if not edits.get("architectures"):
        stem = class_stem(context.config)
        if stem is None:
            raise context.refuse(
                f'the base\'s {CONFIG} does not name an architecture; set "architectures" in the '
                f"{CONFIG} of the head"
            )
        edits["architectures"] = [f"{stem}ForSequenceClassification"]
    return Effects(
        added=tensors,
        removed=(*head.replaced, *head.removed),
        config=edits,
        files=model_files(module.files),
    )


def model_files(files: dict[str, Path]) -> dict[str, Path]:
    """Return the files that a running model reads, without documents, tests and shard indexes."""
    return {path: blob for path, blob in files.items() if path != MEMORY and not is_document(path)}


def is_document(path: str) -> bool:
    """Return whether a file of a module is for people, tests or tools, not for a running model."""
    return _DOCUMENT.match(path) is not None


HEAD = Operator(name="head", bind=bind)
