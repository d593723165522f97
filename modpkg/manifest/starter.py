"""The manifest that ``modpkg init`` writes."""

from __future__ import annotations

import tomli

from modpkg.core.names import module_name
from modpkg.core.records import KINDS
from modpkg.manifest.edit import toml_value
from modpkg.manifest.editor_schema import SCHEMA_LINE

_MODULE = """\
[module]
name = {name}
version = "0.1.0"
kind = {kind}
license = "Apache-2.0"  # an SPDX expression: change it to yours
summary = ""
"""

_APP = """\
[app]
name = {name}

[dependencies]
# summarizer = ">=2.1"
# sentiment = {{ version = "~=1.4", extras = ["fast"] }}
"""

_ON_A_BASE = """\
# The release of its base that it was trained on, where several fit:
# against = "smollm2-135m==1.0.0"

[dependencies]
# The base that this module was trained on, and the versions that it fits:
# smollm2-135m = ">=1.0,<2"
"""

_REST = {
    "base": """
[task]
kind = "text-generation"
max_new_tokens = 256

# Put config.json, tokenizer.json and *.safetensors beside this file, then run 'modpkg build'.
""",
    "adapter": _ON_A_BASE,
    "head": _ON_A_BASE,
    "expert": _ON_A_BASE,
    "patch": _ON_A_BASE,
    "model": """
[dependencies]
# smollm2-135m = ">=1.0,<2"
# summarize-lora = "~=1.2"

# How the model is composed of its dependencies (remove it if the module has weights):
# [compose]
# base = "smollm2-135m"
# steps = [{{ op = "lora", module = "summarize-lora" }}]

[task]
kind = "text-generation"
# prompt = "Summarize in one sentence: {{{{ text }}}}"
""",
    "suite": """
# What the model guarantees; each line of the file has an input and the expected output.
# [[tests]]
# name = "keeps names"
# cases = "tests/names.jsonl"
# metric = "rouge_l"
# at_least = 0.30
""",
    "collection": """
[dependencies]
# The modules that belong together:
# summarizer = ">=2.1"
""",
}


_EXAMPLES = frozenset(
    line.replace("{{", "{").replace("}}", "}")
    for text in (_APP, *_REST.values())
    for line in text.partition("[dependencies]\n")[2].partition("\n\n")[0].splitlines()
    if line.startswith("# ")
)
"""The comments that a new manifest has under ``[dependencies]``, to show how one is written."""


def new_manifest(kind: str, name: str) -> str:
    """Return the text of a new manifest: of an app, or of a module of a kind.

    Raises:
        InvalidValue: `name` is not a module name.
        ValueError: `kind` is neither ``"app"`` nor a kind of module.
    """
    shown = toml_value(module_name(name))
    if kind == "app":
        return SCHEMA_LINE + _APP.format(name=shown)
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is neither 'app' nor one of {', '.join(KINDS)}")
    return SCHEMA_LINE + (_MODULE + _REST[kind]).format(name=shown, kind=toml_value(kind))


def without_examples(text: str) -> str:
    """Return a manifest without the examples that `new_manifest` wrote under ``[dependencies]``.

    Only lines that are exactly those go; a comment that a person wrote or changed stays.
    """
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            inside = line.strip() == "[dependencies]"
        if not (inside and line.rstrip("\r\n") in _EXAMPLES):
            kept.append(line)
    tidy = "".join(kept)
    # In a string of several lines, the same text is no comment.
    return tidy if tidy == text or tomli.loads(tidy) == tomli.loads(text) else text
