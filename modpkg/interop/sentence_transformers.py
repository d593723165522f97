"""Model directories of sentence-transformers: export."""

from __future__ import annotations

from pathlib import Path

import msgspec

from modpkg.core.errors import ConversionError
from modpkg.core.filenames import CONFIG, MODULES, SENTENCE_SETTINGS
from modpkg.core.files import write_atomically
from modpkg.core.installed import read_model
from modpkg.core.interface import WIDTHS
from modpkg.core.jsonfile import read_json
from modpkg.interop.hf import write_hf
from modpkg.interop.module_project import files_of, new_project
from modpkg.runtime.sentence_modules import EMBEDS
from modpkg.runtime.sentence_settings import TRANSFORMER_FILES

_POOLING = "1_Pooling"


def export_sentence_transformers(folder: Path, packs: Path, out: Path) -> list[str]:
    """Write an installed model as sentence-transformers saves it; return the file names.

    A model without modules after its transformer gets those that ``modpkg run`` uses: the mean over
    the tokens, not normalised.

    Raises:
        ConversionError: Its task is not to embed text, or `out` is not empty.
        InstallError: `out` cannot be written.
    """
    model = read_model(folder)
    config = read_json(folder / CONFIG)
    task = (model.task or {}).get("kind")
    architecture = str((config.get("architectures") or [""])[0])
    if task != EMBEDS and (task is not None or not architecture.endswith("Model")):
        raise ConversionError(
            "M805",
            name=model.name,
            form="sentence-transformers",
            reason=f"its task is {task!r}, not {EMBEDS!r}"
            if task is not None
            else f"its architecture {architecture!r} is not one that embeds",
        )
    with new_project(out) as staged:
        write_hf(model, folder, packs, staged)
        if not (staged / MODULES).exists():
            width = next((config[key] for key in WIDTHS if isinstance(config.get(key), int)), None)
            if width is None:
                raise ConversionError(
                    "M805",
                    name=model.name,
                    form="sentence-transformers",
                    reason=f"its config.json has none of {', '.join(WIDTHS)}",
                )
            for path in (SENTENCE_SETTINGS, *TRANSFORMER_FILES):
                # Without modules.json they have no effect, and with it they would.
                (staged / path).unlink(missing_ok=True)
            _write(
                staged / MODULES, [_module(0, "Transformer", ""), _module(1, "Pooling", _POOLING)]
            )
            pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
            _write(staged / _POOLING / CONFIG, pooling)
    return files_of(out)


def _module(number: int, kind: str, path: str) -> dict[str, object]:
    name = f"sentence_transformers.models.{kind}"
    return {"idx": number, "name": str(number), "path": path, "type": name}


def _write(path: Path, value: object) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(value), indent=2))
