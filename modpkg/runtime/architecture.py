"""The class for a config.json: from transformers or an installed package, never from a registry."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from modpkg.compose.allowed_keys import allowed_config
from modpkg.compose.config_sizes import size_problem
from modpkg.compose.confinement import confined
from modpkg.compose.named_code import check_no_code
from modpkg.core.errors import MissingExtra, RunError
from modpkg.core.extras import import_extra
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG, MODULES, TOKENIZER_CONFIG
from modpkg.core.jsonfile import read_json
from modpkg.runtime.sentence_encoder import encoder_class

CONFIGS = (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Files that transformers reads and that could reference code."""

PLUGINS = "modpkg.architectures"
"""The group of entry points by which installed packages add architectures."""
NOT_ONE = "config.json does not name one architecture"


def refuse_remote_code(name: str, folder: Path) -> None:
    """Check that no config of the model names code, a kernel or an address; see `check_no_code`.

    Raises:
        RunError: One does.
    """
    for file in CONFIGS:
        path = folder / file
        if path.exists():
            check_no_code(name, read_json(path), file)


def transformers_module() -> Any:
    """Return the transformers package, with warnings and progress bars turned off.

    Raises:
        MissingExtra: Transformers is not installed.
    """
    transformers = import_extra("transformers", what="Running a model", extra="transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def model_class(name: str, folder: Path) -> tuple[Any, Any]:
    """Return a model's class and its config object.

    The class is the one that config.json names in ``architectures``, from transformers or from the
    entry point group ``modpkg.architectures`` of an installed package; in a sentence-transformers
    folder, the encoder of a language model.

    Raises:
        RunError: The class is unknown, config.json is invalid, or it references custom code.
        MissingExtra: Transformers, or a package that the architecture needs, is not installed.
    """
    refuse_remote_code(name, folder)
    cls, config = class_of_config(name, read_json(folder / CONFIG))
    return encoder_class(cls, config) if (folder / MODULES).exists() else cls, config


def class_of_config(name: str, raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the class that a ``config.json`` names, and its config object.

    Raises:
        RunError: The class is unknown, or the config is invalid.
        MissingExtra: Transformers is not installed.
    """
    transformers = transformers_module()
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise RunError("M704", name=name, reason=NOT_ONE)
    if (problem := size_problem(raw)) is not None:
        raise RunError("M704", name=name, reason=f"config.json is invalid ({problem})")
    check_no_code(name, raw)
    if not isinstance(raw.get("quantization_config"), dict | None):
        reason = "quantization_config of config.json is not an object"
        raise RunError("M704", name=name, reason=reason)
    unknown = RunError("M702", name=name, version=transformers.__version__, architecture=names[0])
    try:
        cls = getattr(transformers, names[0], None) or _plugin(names[0])
        kind = getattr(cls, "config_class", None)
    except ImportError as error:
        text = " ".join(str(error).split())[:300]
        raise MissingExtra("M723", name=name, reason=text) from None
    if not isinstance(cls, type) or kind is None:
        raise unknown
    try:
        with confined():
            config = kind.from_dict(allowed_config(name, kind, raw))
    except RunError:
        raise
    except ImportError as error:
        text = " ".join(str(error).split())[:300]
        raise MissingExtra("M723", name=name, reason=text) from None
    except Exception as error:  # transformers' validation raises errors of many types
        text = " ".join(str(error).split())[:300]
        raise RunError("M704", name=name, reason=f"config.json is invalid ({text})") from None
    return cls, config


def _plugin(architecture: str) -> Any:
    for entry in entry_points(group=PLUGINS, name=architecture):
        return entry.load()
    return None
