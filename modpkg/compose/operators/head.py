"""``head``: tensors beside the base's, and the architecture that reads them.

    composed[t] = head[t]    for the head's tensors;  = base[t] for all others

A head is a small network on top of a base's output (a classifier). It may replace tensors of the
base where its step says so, and its ``config.json`` is merged into the base's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modpkg.adapters import bind_head
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.core.tensors import types_of

# Keys of a head's config.json that are the base's to say.
_NOT_MERGED = {"_name_or_path", "dtype", "torch_dtype", "transformers_version"}
_CLASS = re.compile(r"^(?P<stem>\w+?)(?:LMHead)?(?:Model|For[A-Z]\w*)$")
_DOCUMENT = re.compile(
    r"(?i)^(?:(?:readme|licen[cs]e|copying|notice|changelog)(?:[._-].*)?|\.git.*|tests/.*|dist/.*"
    r"|modpkg\.toml|report\.json|.*\.(?:index\.json|jsonl|csv|parquet)|config\.json)$"
)


def bind(context: StepContext) -> Effects:
    """Return the head's tensors, its edits to ``config.json``, and its files.

    Raises:
        ComposeError: the head would replace what ``replace`` does not name, or was made for
            another kind of base.
    """
    module, base, step = context.module, context.base, context.step

    def refuse(reason: str) -> ComposeError:
        return ComposeError("M601", model=context.model, reason=reason)

    if step.scale != 1.0:
        raise refuse(f"step 'head' of {module.name} has a scale, but a head is not added up")
    bound = bind_head(
        context.model,
        types_of(module.tensors),
        base.tensors,
        step.replace,
        base_name=f"{base.name} {base.version}",
    )
    config = read_json(module.files[CONFIG]) if CONFIG in module.files else {}
    if (kind := config.get("model_type")) not in (None, context.config.get("model_type")):
        raise refuse(
            f"{module.name} was made for the architecture {kind!r}, but {base.name} is "
            f"{context.config.get('model_type')!r}"
        )
    edits = {key: value for key, value in config.items() if key not in _NOT_MERGED}
    if not edits.get("architectures"):
        edits["architectures"] = [_classifier(context.config, refuse)]
    return Effects(
        added=dict(module.tensors),
        removed=(*bound.replaced, *bound.removed),
        config=edits,
        files=own_files(module.files),
    )


def own_files(files: dict[str, Path]) -> dict[str, Path]:
    """Return the files that a running model reads: no documents, tests or shard indexes."""
    return {path: blob for path, blob in files.items() if not is_document(path)}


def is_document(path: str) -> bool:
    """Say whether a file of a module is for people, tests or tools, and no running model's."""
    return _DOCUMENT.match(path) is not None


def _classifier(config: Any, refuse: Any) -> str:
    """Return the base's class name with ``ForSequenceClassification``, as transformers has it.

    >>> _classifier({"architectures": ["GPT2LMHeadModel"]}, None)
    'GPT2ForSequenceClassification'
    """
    named = config.get("architectures") or [""]
    match = _CLASS.match(str(named[0]))
    if match is None:
        raise refuse(
            "the base's config.json does not say which architecture it is; give "
            '"architectures" in the config.json of the head'
        )
    return f"{match['stem']}ForSequenceClassification"


HEAD = Operator(name="head", bind=bind)
