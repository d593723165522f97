"""Names of the files that modpkg reads and writes, each defined once."""

from __future__ import annotations

MANIFEST = "modpkg.toml"
PYPROJECT = "pyproject.toml"
ENVIRONMENT = ".modpkg"
"""Folder beside a manifest, for what is made from it on this machine."""
LOCK_NAME = "modpkg.lock"
"""The lock file, beside the manifest and in each generation of an environment."""

DIST = "dist"
"""Folder of a project that `modpkg build` writes to."""

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
"""A model's weights where transformers writes one file."""
WEIGHTS_INDEX = "model.safetensors.index.json"
"""Where transformers writes several: the file of each tensor."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODULES = "modules.json"
"""The modules of a sentence-transformers model, in order."""
SENTENCE_SETTINGS = "config_sentence_transformers.json"
"""Prompts and other settings of a sentence-transformers model."""
SENTENCE_TRANSFORMER = "sentence_bert_config.json"
"""How a sentence-transformers model loads its transformer."""

ROUTER = "router.json"
"""The record of a router module: the experts its rows belong to."""
MEMORY = "memory.json"
"""The record of an adapter that names a base's tensors as transformers has them in memory."""
PATCH = "patch.json"
"""The record of a patch module."""
PATCHED_FILES = "files/"
"""Folder of a patch module with the files that replace the base's."""
REPORT = "report.json"
"""Test results, built into a release."""

REGISTRY_MODULES = "modules.jsonl"
"""What a search needs of each module of a registry."""
SUCCESSIONS = "successors/"
"""The folder of a registry's files of what signers of modules say of the ones after them."""
REGISTRY_ADVISORIES = "advisories.jsonl"
"""What is known to be wrong with modules of a registry."""
REGISTRY_INFO = "registry.json"
"""The record at the root of a registry."""

MODEL_RECORD = "model.json"
"""An installed model's record, in its folder of a generation."""
COMPOSED_RECORD = "composed.json"
"""The record of composed weights in the store."""
COMPOSED_WEIGHTS = "weights.safetensors"
"""Composed weights in the store, if they are one pack; see `composed_weights`."""


def composed_weights(number: int, count: int) -> str:
    """Return the filename of a pack of composed weights, counted from 0, of so many."""
    if count == 1:
        return COMPOSED_WEIGHTS
    stem, _, ending = COMPOSED_WEIGHTS.partition(".")
    return f"{stem}-{number + 1}-of-{count}.{ending}"


def composed_pack(key: str, filename: str) -> str:
    """Return how an environment names a pack of composed weights, by the digest of their inputs."""
    return key + filename.removeprefix(COMPOSED_WEIGHTS.partition(".")[0])
