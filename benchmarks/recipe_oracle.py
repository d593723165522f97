"""Run recipes with mergekit 0.1.5, for `benchmarks.recipes`; by the Python that has mergekit.

    python recipe_oracle.py MODELS OUT RECIPE …

Writes a folder for each recipe into OUT, and ``errors.json``: why those that failed did.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.moe.config import MoEMergeConfig, is_bad_config
from mergekit.options import MergeOptions
from mergekit.scripts.moe import build

KEYS = ("model", "base_model", "source_model", "source", "tokenizer_source")
"""What may name a model; the last two also have words of their own."""


def located(value: object, models: str, key: str = "") -> object:
    """Return a recipe with its models as absolute paths."""
    if isinstance(value, list):
        return [located(item, models) for item in value]
    if isinstance(value, dict):
        return {name: located(item, models, name) for name, item in value.items()}
    if key not in KEYS or not isinstance(value, str):
        return value
    if key not in KEYS[:3] and value in ("base", "union"):
        return value
    return "+".join(f"{models}/{part}" for part in value.split("+"))


def main() -> None:
    """Run each recipe, as ``mergekit-yaml`` and ``mergekit-moe`` do."""
    models, out, *paths = map(os.path.abspath, sys.argv[1:])
    logging.disable(logging.CRITICAL)
    errors = {}
    for path in map(Path, paths):
        folder = str(Path(out) / path.stem)
        options = MergeOptions(
            copy_tokenizer=True, quiet=True, random_seed=1, lora_merge_cache=f"{out}/loras"
        )
        try:
            data = located(yaml.safe_load(path.read_text()), models)
            if "experts" in data:
                config = MoEMergeConfig.model_validate(data)
                if is_bad_config(config):
                    raise ValueError("the config is bad")
                build(config, folder, options)
            else:
                run_merge(MergeConfiguration.model_validate(data), folder, options)
        except (Exception, SystemExit) as error:
            errors[path.stem] = f"{type(error).__name__}: {error}"
    (Path(out) / "errors.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main()
