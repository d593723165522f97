"""Configs that name custom code beside an architecture that transformers has: the name goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.compose.named_code import REMOTE
from modpkg.core.filenames import CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG
from modpkg.core.files import write_atomically
from modpkg.core.jsonfile import json_text, read_json
from modpkg.runtime.architecture import transformers_module

_CLASS_OF = {
    "AutoTokenizer": "tokenizer_class",
    "AutoProcessor": "processor_class",
    "AutoImageProcessor": "image_processor_type",
    "AutoVideoProcessor": "video_processor_type",
    "AutoFeatureExtractor": "feature_extractor_type",
}
"""The key that names the class of transformers, by the class of ``auto_map`` that it replaces."""
_PROCESSORS = (
    *(TOKENIZER_CONFIG, "processor_config.json", "preprocessor_config.json"),
    "video_preprocessor_config.json",
)


def leave_out_code(folder: Path) -> list[str]:
    """Remove from a folder's configs what names custom code, where transformers has the class.

    Without trust in custom code transformers ignores such names, and takes its own class. Return a
    warning for each file that was changed; what is still named is refused when a model is made of
    it.

    Raises:
        MissingExtra: A config names code, and transformers is not installed.
        RecordError: A config is malformed.
    """
    warnings = []
    config = read_json(folder / CONFIG)
    for file in (CONFIG, GENERATION_CONFIG, *_PROCESSORS):
        path = folder / file
        named = read_json(path) if path.exists() else {}
        kept = _without(named)
        if kept == named:
            continue
        has = _has_classes(named) if file in _PROCESSORS else _has_architecture(config)
        if has:
            write_atomically(path, json_text(kept))
            warnings.append(
                f"left out: what {file} says of custom code ({', '.join(sorted(has))} of "
                "transformers itself is used)"
            )
    return warnings


def _without(config: Any) -> Any:
    """Return a config without what names custom code, at any depth."""
    if isinstance(config, dict):
        return {
            key: _without(value) for key, value in config.items() if not (key in REMOTE and value)
        }
    return [_without(value) for value in config] if isinstance(config, list) else config


def _has_architecture(config: Mapping[str, Any]) -> set[str]:
    """Return the architecture's class, if transformers has it for this type of model."""
    transformers = transformers_module()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    names, kind = config.get("architectures"), config.get("model_type")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(kind, str):
        return set()
    cls = getattr(transformers, str(names[0]), None)
    own = kind in CONFIG_MAPPING and getattr(cls, "config_class", None) is CONFIG_MAPPING[kind]
    return {str(names[0])} if own else set()


def _has_classes(config: Mapping[str, Any]) -> set[str]:
    """Return the classes that replace those of ``auto_map``, if transformers has all of them."""
    transformers = transformers_module()
    auto = config.get("auto_map")
    classes = {config.get(_CLASS_OF.get(key, "")) for key in auto} if isinstance(auto, dict) else {}
    has = all(isinstance(cls, str) and hasattr(transformers, cls) for cls in classes)
    return {str(cls) for cls in classes} if has else set()
