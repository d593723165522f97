"""Virtual tokens, which a model reads before its text in every run (prompt and prefix tuning).

Embeddings are prepended to those of the text; a prefix is put into the key-value cache, as if its
tokens had been read. Attention masks grow accordingly, and given positions are shifted. The result
equals PEFT 0.21's, with one exception: PEFT ignores positions given together with embeddings, so
that a left-padded row of a batch differs from the row alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch

from modpkg.core.errors import RunError
from modpkg.core.installed import Prompt

VIRTUAL = "virtual_tokens"
"""Attribute of a model: its number of virtual tokens."""


def attach(
    name: str, model: torch.nn.Module, prompt: Prompt, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Add hooks with which a model reads virtual tokens before each text, also in ``generate``.

    Raises:
        RunError: The prompt is a prefix, and the model has no key-value cache.
    """
    setattr(model, VIRTUAL, prompt.count)
    reader: _Reader
    if prompt.heads is None:
        reader = _Embeddings(name, model, prompt, tensors)
        if prompt.task == "SEQ_2_SEQ_LM":
            encoder = model.get_encoder()  # type: ignore[operator]
            _hook(encoder, reader.encode)
            _hook(model, reader.cross)
            return
        _hook(model, reader.read)
        return
    reader = _Prefix(name, model, prompt, tensors)
    target = model
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        target = model.base_model  # type: ignore[assignment]
        if "past_key_values" not in inspect.signature(target.forward).parameters:
            raise RunError(
                "M700", name=name, reason="need a cache, which its architecture does not have"
            )
    _hook(target, reader.read)


def _hook(module: torch.nn.Module, change: Any) -> None:
    """Register a hook by which ``change`` edits the keyword arguments of every call."""
    names = list(inspect.signature(module.forward).parameters)

    def before(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        change(named)
        return (), named

    module.register_forward_pre_hook(before, with_kwargs=True)


class _Reader:
    """Base of both kinds of prompt: extends attention masks."""

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        prompt: Prompt,
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        self._name, self._prompt = name, prompt
        self._embedding = model.get_input_embeddings()  # type: ignore[operator]
        self._model = [model]  # in a list, so that torch does not register it as a submodule
        device = next(model.parameters()).device
        self._tensors = {key: tensor.to(device) for key, tensor in tensors.items()}

    def _length(self, cache: Any) -> int:
        """Return the number of tokens in a cache.

        Raises:
            RunError: The cache has a fixed length, which does not include the virtual tokens.
        """
        if getattr(cache, "is_compileable", False):
            raise RunError(
                "M700",
                name=self._name,
                reason="need a cache that grows; do not set cache_implementation",
            )
        return 0 if cache is None else int(cache.get_seq_length())

    def _grow(self, named: dict[str, Any], key: str, fill: int = 1) -> None:
        """Prepend ``fill`` for each virtual token to a [batch, length] argument.

        Raises:
            RunError: The argument has another shape.
        """
        value = named.get(key)
        if value is None:
            return
        if not isinstance(value, torch.Tensor) or value.ndim != 2:
            raise RunError(
                "M700",
                name=self._name,
                reason=f"need a {key} of [batch, length]",
            )
        named[key] = torch.cat((value.new_full((len(value), self._prompt.count), fill), value), 1)


class _Embeddings(_Reader):
    """Prompt tuning, P-tuning and multitask prompt tuning."""

    def _tokens(self, batch: int, like: torch.Tensor) -> torch.Tensor:
        tokens = self._tensors["embeddings"][: self._prompt.count]
        if "columns" in self._tensors:
            index = self._prompt.index
            tokens = tokens * (self._tensors["columns"][index] @ self._tensors["rows"][index])
        return tokens.to(like).expand(batch, -1, -1)

    def _embed(self, named: dict[str, Any]) -> None:
        text = named.get("inputs_embeds")
        if text is None:
            text = self._embedding(named["input_ids"])
        named["inputs_embeds"] = torch.cat((self._tokens(len(text), text), text), 1)
        named["input_ids"] = None

    def read(self, named: dict[str, Any]) -> None:
        """Prepend the tokens to a text's embeddings and extend its mask."""
        self._grow(named, "attention_mask")
        positions = named.get("position_ids")
        if positions is not None:
            named["position_ids"] = positions = positions + self._prompt.count
        if self._prompt.task == "CAUSAL_LM":
            named.pop("token_type_ids", None)
        if self._length(named.get("past_key_values")):
            return
        if self._prompt.task == "CAUSAL_LM":
            self._grow(named, "labels", -100)
        self._grow(named, "token_type_ids", 0)
        if positions is not None:
            own = torch.arange(self._prompt.count).to(positions).expand(len(positions), -1)
            named["position_ids"] = torch.cat((own, positions), 1)
        self._embed(named)

    def encode(self, named: dict[str, Any]) -> None:
        """Prepend the tokens to an encoder's input."""
        text = named.get("inputs_embeds")
        length = (named["input_ids"] if text is None else text).shape[1]
        mask = named.get("attention_mask")
        if mask is not None and mask.shape[1] == length:
            self._grow(named, "attention_mask")
        self._embed(named)

    def cross(self, named: dict[str, Any]) -> None:
        """Extend the mask with which a decoder attends to the encoder."""
        self._grow(named, "attention_mask")


class _Prefix(_Reader):
    """Prefix tuning."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._own_caches: WeakSet[Any] = WeakSet()
        """Caches created here."""

    def _keys_and_values(self, batch: int) -> torch.Tensor:
        """Return keys and values per layer, [2 · layers, batch, heads, tokens, width]."""
        rows = self._tensors["embeddings"]
        heads = self._prompt.heads or 1
        layers = self._layers
        own = next(iter(self._model[0].parameters()))
        parts = rows.view(1, self._prompt.count, 2 * layers, heads, -1)
        return parts.permute(2, 0, 3, 1, 4).to(own).expand(-1, batch, -1, -1, -1)

    @property
    def _layers(self) -> int:
        config: Any = self._model[0].config
        return int(getattr(config, "num_decoder_layers", None) or config.num_hidden_layers)

    def read(self, named: dict[str, Any]) -> None:
        """Start with a cache that contains the tokens."""
        from transformers import DynamicCache, EncoderDecoderCache

        decoder = self._prompt.task == "SEQ_2_SEQ_LM"
        self._grow(named, "decoder_attention_mask" if decoder else "attention_mask")
        if named.get("position_ids") is not None:
            named["position_ids"] = named["position_ids"] + self._prompt.count
        if self._prompt.task == "CAUSAL_LM":
            named.pop("token_type_ids", None)
        cache = named.get("past_key_values")
        if named.get("use_cache") is False and cache in self._own_caches:
            cache = None  # use_cache is false: the whole text is read again
        if self._length(cache):
            return
        if cache is None:
            cache = DynamicCache()
            cache = EncoderDecoderCache(cache, DynamicCache()) if decoder else cache
            self._own_caches.add(cache)
        named["past_key_values"] = cache
        keys = ["input_ids", "inputs_embeds"]
        if decoder:
            keys = [f"decoder_{key}" for key in keys] + keys
        batch = next(len(named[key]) for key in keys if named.get(key) is not None)
        both = self._keys_and_values(batch)
        own = cache.self_attention_cache if decoder else cache
        # For encoder-decoders PEFT repeats the list, and each layer takes four consecutive entries.
        step = 4 if decoder else 2
        for layer in range(len(both) // 2):
            first = step * layer % len(both)
            own.update(both[first], both[first + 1], layer)
