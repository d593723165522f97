"""The transformer of a sentence-transformers model whose config names a language model.

sentence-transformers loads it with ``AutoModel``: without the output layer, whatever class was
trained. So does modpkg for a folder with a ``modules.json``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    cls: Any, config: Any, tensors: Mapping[str, torch.Tensor]
) -> tuple[Any, Mapping[str, torch.Tensor]]:
    """Return an encoder's class and tensors: without the output layer, and without a pooler that
    the file lacks and nothing reads. Other classes and tensors are returned as they are.

    Args:
        cls: The class, from `encoder_class`.
        config: Its config, which names a language model if the class is that model's encoder.
        tensors: Those on disk.
    """
    import torch
    import transformers

    named = (getattr(config, "architectures", None) or [cls.__name__])[0]
    whole = getattr(transformers, str(named), cls)
    if cls.__name__ == named or _LANGUAGE_MODEL.search(str(named)) is None:
        return cls, tensors
    with torch.device("meta"):
        names = whole(config).state_dict().keys()
    prefix = f"{whole.base_model_prefix}."
    head = {name for name in names if not name.startswith(prefix)}
    own = {name: tensor for name, tensor in tensors.items() if name not in head}
    parameters = inspect.signature(cls.__init__).parameters
    if "add_pooling_layer" in parameters and not any(_POOLER in name for name in own):

        def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            cls.__init__(self, config, add_pooling_layer=False)

        return type(cls.__name__, (cls,), {"__init__": build}), own
    return cls, own
