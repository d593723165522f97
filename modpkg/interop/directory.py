"""An installed model as a directory, written on first use and kept in its generation."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.interop.hf import export_hf


def directory_of(folder: Path, packs: Path) -> Path:
    """Return a directory with a model's weights, config and tokenizer; see `export_hf`.

    It is removed together with the generation.

    Raises:
        ConversionError: The model reads virtual tokens.
        InstallError: The directory cannot be written.
        EnvironmentDamaged: The model's record is damaged.
    """
    out = folder.parents[1] / "directories" / folder.name
    if not out.is_dir():
        try:
            export_hf(folder, packs, out)
        except (ConversionError, OSError):
            if not out.is_dir():  # otherwise another process was faster
                raise
    return out
