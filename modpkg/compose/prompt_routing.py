"""Router rows from prompts: the base's hidden states, so that similar texts go to an expert.

For each prompt the hidden states before each layer are taken (at the last token, or averaged over
all tokens); their mean over the positive prompts minus that over the negative ones is normalised to
length 1. Prompts are run one at a time, without padding, so that none affects another's bits; in
float64 except for what transformers itself computes in float32 (norms and rotary embeddings).

Goddard et al. 2024, https://arxiv.org/abs/2403.13257 (mergekit's ``gate_mode``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modpkg.adapters.expert import layers_of
from modpkg.compose.allowed_keys import allowed_config
from modpkg.compose.backing import parts_bounded
from modpkg.compose.composition import Composition, PromptReader, PromptRow
from modpkg.compose.confinement import confined
from modpkg.compose.mapping import map_tensors
from modpkg.compose.named_code import check_no_code
from modpkg.compose.tokenizer import open_tokenizer
from modpkg.compose.torch_threads import one_thread
from modpkg.core.digests import digest_file
from modpkg.core.errors import ComposeError, RunError
from modpkg.core.extras import import_extra
from modpkg.core.filenames import CONFIG, TOKENIZER_CONFIG
from modpkg.core.files import copy_file
from modpkg.core.installed import TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.printable import error_text
from modpkg.core.tree import changed_file

_LEAST = 1e-8
_EMBEDDINGS = "embed_tokens.weight"


class PromptStateExtractor:
    """Runs the base on prompts, caching the states of each.

    Raises:
        MissingExtra: Transformers is not installed.
        ComposeError: Transformers cannot build the base or its tokenizer.
    """

    def __init__(self, composition: Composition) -> None:
        if composition.prompt_reader is None:
            raise AssertionError("the composition has no rows from prompts")
        self._name, self._base = composition.name, composition.prompt_reader
        self._tensors = {n.removeprefix("model."): t for n, t in self._base.tensors.items()}
        self._tokenizer = _tokenizer(self._name, self._base)
        self._verified: set[tuple[str, int]] = set()
        self._model: Any = None
        self._states: dict[str, torch.Tensor] = {}
        self._rows: dict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = {}

    def states(self, row: PromptRow) -> torch.Tensor:
        """Return the rows of a pair of prompt lists, float64 [layers, hidden].

        Raises:
            ComposeError: The states of positive and negative prompts are equal.
            IntegrityError: A tensor of the base does not match its digest.
        """
        key = (row.positive, row.negative)
        if key not in self._rows:
            rows = self._mean(row.positive)
            if row.negative:
                rows -= self._mean(row.negative)
            length = rows.norm(dim=-1, keepdim=True)
            # Some layers may see no difference: the first sees only the last token's embedding.
            if not (length > _LEAST).any():
                raise ComposeError(
                    "M601",
                    model=self._name,
                    reason="its base has equal hidden states for the prompts that begin with "
                    f"{row.positive[0]!r} and their negative prompts",
                )
            self._rows[key] = rows / length.clamp(min=_LEAST)
        return self._rows[key]

    def _mean(self, prompts: Sequence[str]) -> torch.Tensor:
        with torch.inference_mode(), one_thread():
            states = torch.stack([self._state(prompt) for prompt in prompts])
        if self._base.mode != "cheap_embed":
            return states.mean(dim=0)
        summed = states.sum(dim=0)
        length: torch.Tensor = summed.norm(dim=-1, keepdim=True)
        return summed / length.clamp(min=_LEAST)

    def _state(self, prompt: str) -> torch.Tensor:
        """Return the states of one prompt, [layers, hidden]."""
        if prompt not in self._states:
            begin = self._tokenizer.bos_token or ""
            ids = self._tokenizer(begin + prompt, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ComposeError(
                    "M601", model=self._name, reason=f"its prompt {prompt!r} has no tokens"
                )
            # Only the rows needed: the whole embedding as float64 can be larger than a layer.
            embeddings = self._tensor(_EMBEDDINGS)[torch.tensor(ids)].double()[None]
            if self._base.mode == "cheap_embed":
                state = embeddings[0].sum(dim=0).expand(len(layers_of(self._tensors)), -1)
            else:
                before = self._before(embeddings)
                average = self._base.mode == "hidden_avg"
                state = before.mean(dim=1) if average else before[:, -1]
            self._states[prompt] = state.clone()
        return self._states[prompt]

    def _before(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the states before each layer, [layers, length, hidden]."""
        if self._model is None:
            self._model = self._build()
        states: list[torch.Tensor] = []
        hooks = []
        for number, layer in enumerate(self._model.layers):

            def enter(module: Any, args: Any, kwargs: Any, number: int = number) -> None:
                hidden = args[0] if args else kwargs["hidden_states"]
                states.append(hidden[0].clone())
                for name, _ in list(module.named_parameters()):
                    value = self._tensor(f"layers.{number}.{name}").double()
                    _put(module, name, value)

            def leave(module: Any, args: Any, output: Any) -> None:
                for name, value in list(module.named_parameters()):
                    _put(module, name, value.to("meta"))

            hooks.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(layer.register_forward_hook(leave))
        try:
            self._model(inputs_embeds=embeddings, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(states)

    def _build(self) -> Any:
        """Return the base's architecture on the meta device; a layer gets its weights when run."""
        transformers = _transformers()
        kind = str(self._base.config["model_type"])
        try:
            with torch.device("meta"), confined(), parts_bounded(self._name, len(self._tensors)):
                keys = allowed_config(
                    self._name, transformers.CONFIG_MAPPING[kind], self._base.config
                )
                config = transformers.AutoConfig.for_model(kind, **_model_keys(keys))
                model = transformers.AutoModel.from_config(config, trust_remote_code=False)
            model.rotary_emb = type(model.rotary_emb)(config=config)
        except RunError:
            raise
        except Exception as error:  # transformers' constructors raise errors of many types
            text = error_text(error)
            raise ComposeError(
                "M601", model=self._name, reason=f"its base's config.json is invalid ({text})"
            ) from None
        model.norm = torch.nn.Identity()
        return model.eval()

    def _tensor(self, name: str) -> torch.Tensor:
        ref: TensorRef = self._tensors[name]
        place = (ref.file, ref.offset)
        if place not in self._verified:
            if digest_file(Path(ref.file), ref.offset, ref.length) != ref.digest:
                what = f"An input of the router of {self._name}"
                raise changed_file(what, ref.file)
            self._verified.add(place)
        return map_tensors([(name, ref)])[name]


def _model_keys(config: dict[str, Any]) -> dict[str, Any]:
    ignored = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version")
    return {key: value for key, value in config.items() if key not in ignored}


def _put(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    parameter = torch.nn.Parameter(value, requires_grad=False)
    module.get_submodule(owner)._parameters[attribute] = parameter


def _transformers() -> Any:
    return import_extra("transformers", what="A router from prompts", extra="transformers")


def _tokenizer(name: str, base: PromptReader) -> Any:
    """Return the base's tokenizer."""
    transformers = _transformers()
    with tempfile.TemporaryDirectory() as path_text:
        folder = Path(path_text)
        for path, blob in base.files.items():
            copy_file(blob, folder / path)
        (folder / CONFIG).write_bytes(f'{{"model_type": "{base.config["model_type"]}"}}'.encode())
        if TOKENIZER_CONFIG in base.files:
            check_no_code(name, read_json(folder / TOKENIZER_CONFIG), TOKENIZER_CONFIG)
        return open_tokenizer(
            transformers,
            folder,
            lambda reason: ComposeError(
                "M601", model=name, reason=f"its router reads texts with its base, and {reason}"
            ),
        )
