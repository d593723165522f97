"""A model's ``generation_config.json``: what may be in it, and how much of it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modpkg.compose.allowed_keys import allowed_generation
from modpkg.compose.confinement import confined
from modpkg.core.bounds import GENERATION_BEAMS, GENERATION_GUESSES, GENERATION_TOKENS
from modpkg.core.errors import RunError
from modpkg.core.filenames import GENERATION_CONFIG
from modpkg.core.jsonfile import read_json

_GENERATION = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), GENERATION_BEAMS),
    **dict.fromkeys(("prompt_lookup_num_tokens", "num_assistant_tokens"), GENERATION_GUESSES),
    **dict.fromkeys(("max_new_tokens", "min_new_tokens"), GENERATION_TOKENS),
}
"""What a generation config makes transformers take memory or time for, and the most of it."""


@contextlib.contextmanager
def _with_file(folder: Path, raw: Mapping[str, Any], allowed: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder with the generation config that is allowed: ``folder``, if it is that one."""
    if allowed == raw:
        yield folder
        return
    with tempfile.TemporaryDirectory() as text:
        (Path(text) / GENERATION_CONFIG).write_bytes(json.dumps(allowed).encode())
        yield Path(text)


def add_generation_config(name: str, model: Any, folder: Path) -> None:
    """Read a model's ``generation_config.json``, if it has one.

    Raises:
        RunError: It is malformed.
    """
    if (folder / GENERATION_CONFIG).exists() and hasattr(model, "generation_config"):
        from transformers import GenerationConfig

        # before transformers 5.20 all models had the same
        kind = getattr(model, "generation_config_class", GenerationConfig)
        raw = read_json(folder / GENERATION_CONFIG)
        allowed = allowed_generation(name, kind, raw)
        try:
            with confined(), _with_file(folder, raw, allowed) as place:
                read = kind.from_pretrained(place, local_files_only=True)
        except Exception as error:  # transformers' validation raises errors of many types
            text = " ".join(str(error).split())[:300]
            reason = f"{GENERATION_CONFIG} is invalid ({text})"
            raise RunError("M704", name=name, reason=reason) from None
        for key, most in _GENERATION.items():
            value = getattr(read, key, None)
            if isinstance(value, int | float) and value > most:
                reason = f"{GENERATION_CONFIG} is invalid ({key} is {value}, more than {most})"
                raise RunError("M704", name=name, reason=reason)
        read.disable_compile = True  # a static cache would run a compiler
        model.generation_config = read


_OF_IDS = {"attention_mask", "do_sample", "early_stopping", "eos_token_id", "input_ids", "inputs"}
_OF_IDS |= {"length_penalty", "max_length", "max_new_tokens", "min_length", "min_new_tokens"}
_OF_IDS |= {"num_beams", "num_return_sequences", "pad_token_id", "repetition_penalty"}
_OF_IDS |= {"temperature", "top_k", "top_p", "trust_remote_code", "use_cache"}
"""Arguments of transformers' ``generate`` by which nobody gets a tensor but the ids."""


def returns_ids(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether of all tensors that a call of ``generate`` makes, only the ids are kept."""
    from transformers import GenerationMixin

    if getattr(type(model), "generate", None) is not GenerationMixin.generate:
        return False  # one that makes speech, say, may return something else
    given = {name for name, value in kwargs.items() if value is not None}
    config = model.generation_config
    return (
        len(args) <= 1
        and given <= _OF_IDS
        and not getattr(config, "return_dict_in_generate", None)
        and getattr(config, "cache_implementation", None) is None
    )
