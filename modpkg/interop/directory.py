"""An installed model as a directory, written when it is asked for and kept in its generation."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.interop.hf import export_hf


def directory_of(folder: Path, packs: Path) -> Path:
    """Return a directory with a model's weights, config and tokenizer; see `export_hf`.

    It stays as long as the generation does; what others write into it is lost with it.

    Raises:
        InstallError, EnvironmentDamaged.
    """
    out = folder.parents[1] / "directories" / folder.name
    if not out.is_dir():
        try:
            export_hf(folder, packs, out)
        except (ConversionError, OSError):
            if not out.is_dir():  # else another process was quicker
                raise
    return out
