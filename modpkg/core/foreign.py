"""What other tools left at a path, and the command that makes a module of it."""

from __future__ import annotations

from pathlib import Path

from modpkg.core import system
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG


def how_to_import(path: Path) -> str | None:
    """Return the command that imports what is at a path; None if nothing is recognised."""
    word = system.shell_word(str(path))
    if path.is_dir():
        if (path / ADAPTER_CONFIG).is_file():
            return f"modpkg import peft {word} --base NAME"
        return f"modpkg import hf {word}" if (path / CONFIG).is_file() else None
    if not path.is_file():
        return None
    suffix = path.suffix.lower()
    form = {".gguf": "gguf", ".yml": "mergekit", ".yaml": "mergekit"}.get(suffix)
    if suffix == ".safetensors":
        form = "safetensors"
    return None if form is None else f"modpkg import {form} {word}"
