"""The transformer of a sentence-transformers model whose config names a language model.

sentence-transformers loads it with ``AutoModel``: without the output layer, whatever class was
trained. So does modpkg for a folder with a ``modules.json``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.compose.confinement import confined
from modpkg.core.errors import RunError
from modpkg.core.printable import error_text

if TYPE_CHECKING:
    import torch

_LANGUAGE_MODEL = re.compile(r"(?:ForMaskedLM|ForCausalLM|LMHeadModel|ForPreTraining)$")
_POOLER = "pooler."


def encoder_class(cls: Any, config: Any) -> Any:
    """Return ``AutoModel``'s class for the config of a language model, and other classes as is."""
    import transformers

    if _LANGUAGE_MODEL.search(cls.__name__) is None:
        return cls
    try:
        found = transformers.AutoModel._model_mapping[type(config)]
    except KeyError:
        return cls
    return found[0] if isinstance(found, tuple) else found


def encoder_parts(
    name: str, cls: Any, config: Any, tensors: Mapping[str, torch.Tensor]
) -> tuple[Any, Mapping[str, torch.Tensor]]:
    """Return an encoder's class and tensors: without the output layer, and without a pooler that
    the file lacks and nothing reads. Other classes and tensors are returned as they are.

    Args:
        name: The model's name, for errors.
        cls: The class, from `encoder_class`.
        config: Its config, which names a language model if the class is that model's encoder.
        tensors: Those on disk.

    Raises:
        RunError: The config is invalid.
    """
    import torch
    import transformers

    from modpkg.compose.backing import parts_bounded

    named = (getattr(config, "architectures", None) or [cls.__name__])[0]
    whole = getattr(transformers, str(named), cls)
    if cls.__name__ == named or _LANGUAGE_MODEL.search(str(named)) is None:
        return cls, tensors
    try:
        with torch.device("meta"), confined(), parts_bounded(name, len(tensors)):
            names = whole(config).state_dict().keys()
    except RunError:
        raise
    except Exception as error:  # transformers' constructors raise errors of many types
        text = error_text(error)
        raise RunError("M704", name=name, reason=f"config.json is invalid ({text})") from None
    prefix = f"{whole.base_model_prefix}."
    head = {key for key in names if not key.startswith(prefix)}
    own = {key: tensor for key, tensor in tensors.items() if key not in head}
    parameters = inspect.signature(cls.__init__).parameters
    if "add_pooling_layer" in parameters and not any(_POOLER in key for key in own):

        def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            cls.__init__(self, config, add_pooling_layer=False)

        return type(cls.__name__, (cls,), {"__init__": build}), own
    return cls, own
