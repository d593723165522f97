"""Facts about configuration and tokenizer files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.levels import Fact, Level
from modpkg.core.errors import RecordError
from modpkg.core.filenames import ADAPTER_CONFIG, MODULES, REPORT, TOKENIZER
from modpkg.core.jsonfile import parse_json

_CONFIGS = re.compile(
    r"(?:.*/)?(?:config|adapter_config|sentence_bert_config|preprocessor_config)\.json"
)
"""Files that define what a model computes."""
_ACTING = re.compile(
    r"(?:.*/)?(?:generation_config\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|chat_template\..*|config_sentence_transformers\.json)"
)
"""Files that change how a model is used, not its inputs and outputs."""
_VOCABULARIES = re.compile(r"(?:.*/)?(?:vocab\.(?:txt|json)|merges\.txt|.*\.model)")
"""Tokenizers in other formats; ``tokenizer.json`` is used instead where it exists."""
_DOCUMENT = re.compile(r"(?i)(?:.*/)?(?:.*\.(?:md|rst)|(?:licen[cs]e|notice|copying)(?:\..*)?)")
_IGNORED = {
    "_name_or_path",
    "auto_mapping",
    "base_model_name_or_path",
    "dtype",
    "inference_mode",
    "output_attentions",
    "output_hidden_states",
    "peft_version",
    "return_dict",
    "revision",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Keys that no computation depends on."""
_TRAINING = re.compile(r".*dropout.*|initializer_.*|init_.*")
"""Keys that only matter in training."""
_OUTPUTS = {"architectures", "id2label", "label2id", "num_labels", "problem_type"}
_RETRAINED = {
    "alpha",
    "alpha_pattern",
    "exclude_modules",
    "layers_to_transform",
    "lora_alpha",
    "r",
    "rank",
    "rank_pattern",
    "target_modules",
    "target_parameters",
}
"""Keys of an adapter that belong to its weights: their scale, their rank, and what they touch."""
_GROWING = {
    "max_position_embeddings",
    "max_seq_length",
    "n_layer",
    "n_layers",
    "n_positions",
    "num_hidden_layers",
    "num_layers",
    "vocab_size",
}
"""Numbers that a compatible extension may raise."""


def config_facts(before: ModuleView, after: ModuleView) -> list[Fact]:
    """Return what changed in the files that define how a model computes."""
    facts: list[Fact] = []
    for path in sorted(before.files.keys() | after.files.keys()):
        if before.files.get(path) == after.files.get(path):
            continue
        if path.rpartition("/")[2] == TOKENIZER:
            facts.append(_tokenizer(path, before, after))
        elif _CONFIGS.fullmatch(path):
            facts += _config(path, before, after)
        elif path.rpartition("/")[2] == MODULES:
            facts.append(Fact(path, "the modules of the sentence encoder changed", "major"))
        elif _VOCABULARIES.fullmatch(path) and TOKENIZER not in after.files:
            facts.append(Fact(path, "the tokenizer changed", "major"))
        elif _ACTING.fullmatch(path):
            facts.append(Fact(path, f"it was {_verb(path, before, after)}", "minor"))
    return facts


def file_facts(before: ModuleView, after: ModuleView, cases: frozenset[str]) -> list[Fact]:
    """Return which other files changed; ``cases`` are those of tests and have their own facts."""
    reported = (_CONFIGS, _ACTING, _VOCABULARIES)
    facts = []
    for path in sorted(before.files.keys() | after.files.keys()):
        name = path.rpartition("/")[2]
        if before.files.get(path) == after.files.get(path) or path in cases:
            continue
        if name in (TOKENIZER, MODULES, REPORT):
            continue
        if any(pattern.fullmatch(path) for pattern in reported):
            continue
        level: Level = "none" if _DOCUMENT.fullmatch(path) else "patch"
        facts.append(Fact("files", f"{path} was {_verb(path, before, after)}", level))
    return facts


def _verb(path: str, before: ModuleView, after: ModuleView) -> str:
    if path not in before.files:
        return "added"
    return "changed" if path in after.files else "removed"


def _config(path: str, before: ModuleView, after: ModuleView) -> list[Fact]:
    old, new = (_object(view, path) if path in view.files else {} for view in (before, after))
    if old is None or new is None:
        return [Fact(path, "it cannot be parsed, so any change is possible", "major")]
    facts = []
    for key in sorted(old.keys() | new.keys()):
        if key in _IGNORED or _TRAINING.fullmatch(key) or old.get(key) == new.get(key):
            continue
        level = _level(key, old.get(key), new.get(key))
        if key in _RETRAINED and path == ADAPTER_CONFIG and level == "major":
            level = "minor"
        text = f"{_brief(key)} was {_brief(old.get(key))} and is {_brief(new.get(key))}"
        facts.append(Fact(path, text, level))
    return facts


def _level(key: str, old: Any, new: Any) -> Level:
    """Return the level of a key's change: an extension is minor, anything else major."""
    if key in _OUTPUTS:
        return "major"
    if old is None:
        return "minor"
    if key in _GROWING and all(type(value) is int for value in (old, new)):
        return "minor" if new > old else "major"
    if isinstance(old, list) and isinstance(new, list):
        names = all(isinstance(value, str) for value in [*old, *new])
        if names:
            if set(old) == set(new):
                return "none"
            return "minor" if set(old) < set(new) else "major"
        return "minor" if new[: len(old)] == old else "major"
    if isinstance(old, dict) and isinstance(new, dict):
        return "minor" if all(new.get(name) == value for name, value in old.items()) else "major"
    return "major"


def _tokenizer(path: str, before: ModuleView, after: ModuleView) -> Fact:
    if path not in before.files or path not in after.files:
        missing = path not in after.files
        return Fact(path, f"it was {_verb(path, before, after)}", "major" if missing else "minor")
    old, new = _object(before, path), _object(after, path)
    if old is not None and new is not None and extends(old, new):
        return Fact(path, "tokens were added; all others are unchanged", "minor")
    return Fact(path, "texts may be tokenized differently", "major")


def extends(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a ``tokenizer.json`` only adds tokens to another one.

    Every token keeps its id, and normalization, splitting and post-processing are the same.
    Truncation and padding are ignored: callers set them.
    """
    ours = {"model", "added_tokens", "truncation", "padding"}
    if any(old.get(key) != new.get(key) for key in (old.keys() | new.keys()) - ours):
        return False
    one, two = old.get("model"), new.get("model")
    if not isinstance(one, dict) or not isinstance(two, dict):
        return one == two and _tokens(old).items() <= _tokens(new).items()
    if any(one.get(key) != two.get(key) for key in (one.keys() | two.keys()) - {"vocab"}):
        return False
    words, more = one.get("vocab"), two.get("vocab")
    if isinstance(words, dict) and isinstance(more, dict):
        grown = words.items() <= more.items()
    elif isinstance(words, list) and isinstance(more, list):
        grown = more[: len(words)] == words
    else:
        grown = words == more
    return grown and _tokens(old).items() <= _tokens(new).items()


def _tokens(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    added = tokenizer.get("added_tokens")
    return {
        str(token.get("id")): str(sorted(token.items(), key=lambda pair: pair[0]))
        for token in (added if isinstance(added, list) else [])
        if isinstance(token, dict)
    }


def _object(view: ModuleView, path: str) -> dict[str, Any] | None:
    try:
        return parse_json(view.read(path), path)
    except RecordError:
        return None


def _brief(value: Any) -> str:
    if value is None:
        return "not set"
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 40 else text[:40] + "…"
