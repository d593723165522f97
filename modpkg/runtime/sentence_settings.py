"""The settings of a sentence-transformers model: prompts, lengths, and the width it is cut to.

They lie in ``config_sentence_transformers.json`` and ``sentence_bert_config.json``, and count only
beside a ``modules.json``. A setting that would change the vectors and is not applied is refused by
its name. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.errors import RunError
from modpkg.core.filenames import MODULES, SENTENCE_SETTINGS, SENTENCE_TRANSFORMER
from modpkg.core.jsonfile import read_json

_KIND = "SentenceTransformer"
_OLDER = (
    *("sentence_roberta_config.json", "sentence_distilbert_config.json"),
    *("sentence_camembert_config.json", "sentence_albert_config.json"),
    *("sentence_xlm-roberta_config.json", "sentence_xlnet_config.json"),
)
"""Names that older versions gave ``sentence_bert_config.json``; the first that exists is read."""
TRANSFORMER_FILES = (SENTENCE_TRANSFORMER, *_OLDER)
_EMPTY_PROMPTS = {"query": "", "document": ""}
"""Prompts that every model has, if only as empty ones."""
_LOADING = {"attn_implementation", "cache_dir", "device_map", "low_cpu_mem_usage"}
_LOADING |= {"local_files_only", "revision", "token", "trust_remote_code", "use_safetensors"}
"""Arguments for loading a model or tokenizer that do not change what it computes."""
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


class SentenceSettings(Struct, frozen=True, kw_only=True):
    """What is done to a text before the model, and to its vector at the end."""

    name: str = ""
    """The model's, for errors."""
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    """Number of elements that are kept of a vector; None keeps all."""
    max_seq_length: int | None = None
    """Maximum number of tokens, prompt included; None is what model and tokenizer take."""
    lower_case: bool = False

    def prompt(self, wanted: str | None) -> str:
        """Return the prompt of a name, by default the model's own; "" if it has none.

        Raises:
            RunError: The model has no prompt of this name.
        """
        chosen = self.default_prompt_name if wanted is None else wanted
        if chosen is None:
            return ""
        if chosen not in self.prompts:
            known = ", ".join(repr(name) for name in sorted(self.prompts)) or "none"
            raise RunError("M724", name=self.name, prompt=chosen, known=known)
        return self.prompts[chosen]


def read_settings(name: str, folder: Path) -> SentenceSettings:
    """Return the settings in a model's folder; those of no effect without ``modules.json``.

    Raises:
        RunError: A setting is malformed, or of a kind that is not applied.
        RecordError: A file is not a JSON object.
    """
    if not (folder / MODULES).exists():
        return SentenceSettings(name=name)

    def refuse(file: str, reason: str) -> RunError:
        return RunError("M704", name=name, reason=f"{file} {reason}")

    path = folder / SENTENCE_SETTINGS
    config = read_json(path) if path.exists() else {}
    kind = config.get("model_type", _KIND)
    if kind != _KIND:
        reason = f"says that it is a {kind!r}; only a {_KIND} gives one vector for a text"
        raise refuse(SENTENCE_SETTINGS, reason)
    stored = config.get("prompts") or {}
    if not isinstance(stored, dict) or not all(
        prompt is None or isinstance(prompt, str) for prompt in stored.values()
    ):
        raise refuse(SENTENCE_SETTINGS, f"has prompts that are not texts by name: {stored!r:.100}")
    prompts = _EMPTY_PROMPTS | {key: prompt or "" for key, prompt in stored.items()}
    default = config.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        known = ", ".join(repr(each) for each in sorted(prompts))
        reason = f"names the default prompt {default!r:.100}, but its prompts are {known}"
        raise refuse(SENTENCE_SETTINGS, reason)
    cut = _length(config.get("truncate_dim"))
    if cut == 0:
        reason = f"has truncate_dim {config['truncate_dim']!r:.100}, which is not a width"
        raise refuse(SENTENCE_SETTINGS, reason)
    file = next((each for each in TRANSFORMER_FILES if (folder / each).exists()), None)
    own = read_json(folder / file) if file is not None else {}
    try:
        longest = _transformer_length(own)
        lower = own.get("do_lower_case") or False
        if not isinstance(lower, bool):
            raise ValueError(f"has do_lower_case {lower!r:.100}, which is not true or false")
    except ValueError as error:
        raise refuse(str(file), str(error)) from None
    return SentenceSettings(
        name=name,
        prompts=prompts,
        default_prompt_name=default,
        truncate_dim=cut,
        max_seq_length=longest,
        lower_case=lower,
    )


def _length(value: Any) -> int | None:
    """Return a positive number, None for none, and 0 for anything else."""
    if value is None:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _transformer_length(config: Mapping[str, Any]) -> int | None:
    """Check the settings of the transformer, and return its maximum number of tokens.

    Raises:
        ValueError: One would change the vectors, and is not applied; the text names it.
    """
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ValueError(f"has transformer_task {task!r:.100}; only 'feature-extraction' is run")
    modalities = config.get("modality_config")
    if modalities is not None:
        if not isinstance(modalities, dict) or modalities.get("text") != _TEXT:
            raise ValueError("does not take a text's vectors from the model's last hidden state")
        if "message" in modalities:
            raise ValueError("puts texts into a chat template ('message'), which is not supported")
        output = config.get("module_output_name")
        if output != "token_embeddings":
            raise ValueError(f"has module_output_name {output!r:.100}, not 'token_embeddings'")
    longest = _length(config.get("max_seq_length"))
    if longest == 0:
        value = config.get("max_seq_length")
        raise ValueError(f"has max_seq_length {value!r:.100}, which is not a number of tokens")
    known = {"transformer_task", "modality_config", "module_output_name", "max_seq_length"}
    known |= {"do_lower_case", "unpad_inputs", "query_length", "document_length"}
    known |= {"query_expansion", "tokenizer_name_or_path"}  # for other kinds of models, or old
    for key, value in sorted(config.items()):
        if key in known or value in (None, {}, [], False):
            continue
        if key in ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs") or (
            key in ("config_args", "config_kwargs")
        ):
            if not isinstance(value, dict):
                raise ValueError(f"has {key} that are not a table")
            arguments = {name: each for name, each in value.items() if name not in _LOADING}
            if key in ("tokenizer_args", "processor_kwargs"):
                given = _length(arguments.pop("model_max_length", None))
                if given == 0:
                    raise ValueError(f"has a model_max_length in {key} that is no length")
                longest = given or longest
            if not arguments:
                continue
            raise ValueError(f"sets {min(arguments)!r} in {key}, which is not applied")
        raise ValueError(f"has {key!r}, which is not applied")
    return longest
