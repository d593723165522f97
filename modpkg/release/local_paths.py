"""Paths of the machine that a model was made on: they never travel in a release.

Trainers write where the base lay and what they read and wrote: into adapter_config.json and other
configs, and into the README that PEFT and TRL write. A name on a hub (``org/name``) is not such a
path.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.bounds import CASES_BYTES, CLEANED_FILE_BYTES, CLEANED_FILE_DEPTH
from modpkg.core.filenames import ADAPTER_CONFIG, TOKENIZER
from modpkg.core.files import write_atomically
from modpkg.core.regular_file import read_file

_MODEL_KEY = "name_or_path"
"""How keys end whose values name a model: a repository's name, or a path."""
_PATH_KEY = re.compile(r"_(?:path|file|dir|checkpoint|folder)s?$")
"""How keys end whose values can be paths; relative ones say nothing about the machine."""
_PATHS = ("base_model", "dataset", "datasets", "deepspeed", "model", "path")
"""Whole keys of this kind, as trainers and mergekit write them."""
_YAML = (".yaml", ".yml")
_NOT_CONFIGS = (TOKENIZER, "vocab.json")
_ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]|file:", re.IGNORECASE)
_LOCAL = re.compile(r"[/~.\\]|[A-Za-z]:[\\/]|file:", re.IGNORECASE)
_KEY = re.compile(
    rb'(?:name_or_path|(?:_path|_file|_dir|_checkpoint|_folder)s?|"(?:%s))"\s*:'
    % "|".join(_PATHS).encode()
)
"""What a document has that can hold such a path; most large ones have not."""
_IN_YAML = re.compile(
    r"""(?P<before>(?:^[ \t]*|[{,][ \t]*)(?:-[ \t]+)*(?:[\w.-]+|"[^"\n]*"|'[^'\n]*')[ \t]*:[ \t]+"""
    r"""|^[ \t]*(?:-[ \t]+)+|[\[,][ \t]*)"""
    r"""(?P<quote>["']?)(?:(?:/[^\s,:\]}'"#]+){2,}/?|~/|[A-Za-z]:[\\/]|file:)"""
    r"""(?:(?<=["'])|[^\n,\]}'"#]*?)(?P=quote)(?=[ \t\r]*(?:$|[,\]}]|[ \t]#))""",
    re.MULTILINE | re.IGNORECASE,
)
"""A value in YAML that is an absolute path, after its key or in a list."""
_FRONT = re.compile(r"---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_BASE = re.compile(r"^base_model:[ \t]*(\S.*)$|^(?:[ \t]*-[ \t]*)(?:base_model:\w+:)?(\S.*)$", re.M)


def is_local(name: str) -> bool:
    """Return whether what names a model is a path, and not the name of a repository.

    >>> [is_local(name) for name in ("/home/a/m", "./m", "C:\\\\m", "a/b/c", "org/name", "name")]
    [True, True, True, True, False, False]
    """
    return bool(_LOCAL.match(name)) or name.count("/") > 1 or "\\" in name


def without_local_paths(relative: str, path: Path) -> bytes:
    """Return the bytes of a release's file: those on disk, less paths of this machine.

    Files without such a path are returned as they are.
    """
    data = read_file(path, CASES_BYTES)
    name = relative.rsplit("/", 1)[-1]
    if len(data) > CLEANED_FILE_BYTES or not _may_have_paths(name):
        return data
    if name.lower() == "readme.md":
        return _readme(data, _base_of(path.parent / ADAPTER_CONFIG))
    return _yaml(data) if name.endswith(_YAML) else _config(data)


def _may_have_paths(name: str) -> bool:
    config = name.endswith((".json", *_YAML)) and name not in _NOT_CONFIGS
    return config or name.lower() == "readme.md"


def remove_local_paths(folder: Path) -> None:
    """Remove them from all files of a folder that can have them."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and _may_have_paths(path.name):
            data = without_local_paths(path.relative_to(folder).as_posix(), path)
            if data != read_file(path, CASES_BYTES):
                found[path] = data
    for path, data in found.items():
        write_atomically(path, data)


def _config(data: bytes) -> bytes:
    """Return a config whose local paths are null; keys keep their order."""
    if _KEY.search(data) is None:
        return data
    document = _decoded(data)
    if not _forget(document, CLEANED_FILE_DEPTH):
        return data
    if _strict(data) is None:
        return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "replace")
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _forget(document: Any, depth: int) -> bool:
    """Set the local paths in an object or a list to null, and return whether there were any."""
    if not depth or not isinstance(document, dict | list):
        return False
    found = False
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if isinstance(key, str) and isinstance(value, list):
            kept = [None if _is_path(key, each) else each for each in value]
            found |= kept != value
            value[:] = kept
        if _is_path(key, value):
            document[key] = None
            found = True
        else:
            found |= _forget(value, depth - 1)
    return found


def _is_path(key: object, value: object) -> bool:
    """Return whether the value of a key is a path of a machine."""
    if not isinstance(key, str) or not isinstance(value, str):
        return False
    if key.endswith(_MODEL_KEY):
        return is_local(value)
    holds_paths = _PATH_KEY.search(key) is not None or key in _PATHS
    return holds_paths and _ABSOLUTE.match(value) is not None


def _decoded(data: bytes) -> Any:
    """Return a JSON document, which Python's own writer may have written (``NaN``)."""
    if (document := _strict(data)) is not None:
        return document
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return {}  # whoever needs the file reports it


def _strict(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _yaml(data: bytes) -> bytes:
    """Return a YAML document whose values are null where they are absolute paths."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    return _IN_YAML.sub(lambda match: f"{match['before']}null", text).encode()


def _base_of(config: Path) -> str | None:
    try:
        document = _decoded(read_file(config))
    except OSError:
        return None
    value = document.get("base_model_name_or_path") if isinstance(document, dict) else None
    return value if isinstance(value, str) and is_local(value) else None


def _readme(data: bytes, base: str | None) -> bytes:
    """Return a README without the local base: neither in its front matter nor in its text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    front = _FRONT.match(text)
    values = {base} if base is not None else set()
    if front is not None:
        for match in _BASE.finditer(front[1]):
            value = (match[1] or match[2]).strip().strip("\"'")
            if _ABSOLUTE.match(value):
                values.add(value)
    for value in sorted(values, key=len, reverse=True):
        if front is not None:
            kept = [line for line in front[1].splitlines(True) if value not in line]
            text = text[: front.start(1)] + "".join(kept) + text[front.end(1) :]
            front = _FRONT.match(text)
        link = re.escape(value)
        text = re.sub(rf"\[{link}\]\([^)\s]*\)", "the base", text)
        text = re.sub(rf"{link}(?![\w-]|\.\w)", "the base", text)
    return text.encode() if values else data
