"""Random adapter configurations on tiny models: saved and loaded by PEFT, composed by modpkg.

A case is a model, one of PEFT's configuration classes, and values for any of its fields. PEFT
refuses it, modpkg refuses it, or both give the same outputs; anything else is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import peft
import torch
import transformers
from msgspec import Struct
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from modpkg.adapters import METHODS
from modpkg.compose.executor import compose
from modpkg.core.errors import ModpkgError
from tests.compose.helpers import values
from tests.compose.oracle import applied, shake

TOLERANCE = 5e-5
"""Of the outputs' magnitude: what float32 loses on the way through a few layers."""

IDS = torch.tensor([[5, 9, 2, 7], [8, 3, 11, 4]])
S = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
LLAMA = {**S, "intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 3}
QWEN = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
GPT2 = {"vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16}
T5 = {"vocab_size": 61, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}


class Experts(nn.Module):
    """All experts of a layer, two of which every input passes."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 2 * inner, 6) / 4)
        self.down_proj = nn.Parameter(torch.randn(3, 6, inner) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        for expert in (0, 2):
            gate, up = (x @ self.gate_up_proj[expert].T).chunk(2, -1)
            out = out + (gate.tanh() * up) @ self.down_proj[expert].T
        return out


class Layer(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(6, 8)
        self.o_proj = nn.Linear(8, 6, bias=False)
        self.square = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.experts = Experts(inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.o_proj(self.q_proj(self.norm(x)).tanh())
        return x + self.experts(self.square(x))


class Stack(nn.Module):
    """A stack of layers like a language model's."""

    def __init__(self, inner: int = 5) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(12, 6)
        self.layers = nn.ModuleList(Layer(inner) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Mixed(nn.Module):
    """Layers of other kinds; those that are stored as (in, out) have GPT-2's names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(12, 6)
        self.c_proj = Conv1D(6, 6)
        self.c_fc = Conv1D(10, 6)
        self.narrow = nn.Linear(10, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.back = nn.Conv1d(8, 6, 1)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.c_proj(self.embed_tokens(input_ids))
        x = self.narrow(self.c_fc(x).tanh())
        return self.back(self.conv(x.transpose(1, 2)).tanh())


class Pictures(nn.Module):
    """Convolutions in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = (input_ids.float() / 11)[:, None, :, None].expand(-1, 3, -1, 4)
        return self.head(self.point(self.conv(x).tanh()).mean((2, 3)))


class World(Struct, frozen=True):
    """A kind of model, and the names in it that configurations may use."""

    build: Callable[[], Any]
    modules: Sequence[str]
    parameters: Sequence[str] = ()
    saved: Sequence[str] = ("norm",)
    tokens: str = "embed_tokens"


def _model(name: str, options: dict[str, Any], kind: str = "ForCausalLM") -> Callable[[], Any]:
    def build() -> Any:
        config = getattr(transformers, f"{name}Config")(**options)
        return getattr(transformers, name + kind)(config)

    return build


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_EXPERTS = ("gate_up_proj", "down_proj", "experts.gate_up_proj", "mlp.experts.down_proj")
WORLDS: dict[str, World] = {
    "stack": World(
        Stack,
        ("q_proj", "o_proj", "square", "head", "embed_tokens", "1.q_proj"),
        ("q_proj.weight", "square.weight", "experts.gate_up_proj", "down_proj", "weight"),
        ("norm", "head", "o_proj"),
    ),
    "mixed": World(
        Mixed,
        ("c_proj", "c_fc", "narrow", "conv", "back", "embed_tokens"),
        ("c_proj.weight", "c_fc.weight", "narrow.weight"),
        ("narrow", "conv"),
    ),
    "pictures": World(Pictures, ("conv", "point", "head"), ("head.weight",), ("head",)),
    "llama": World(
        _model("Llama", LLAMA),
        (*_ATTENTION, *_MLP, "lm_head", "embed_tokens"),
        ("up_proj.weight", "o_proj.weight"),
        ("norm", "lm_head", "embed_tokens", "input_layernorm"),
    ),
    "tied": World(
        _model("Llama", {**LLAMA, "tie_word_embeddings": True}),
        (*_ATTENTION, "lm_head", "embed_tokens"),
        ("up_proj.weight", "embed_tokens.weight"),
        ("norm", "lm_head", "embed_tokens"),
    ),
    "gpt2": World(
        _model("GPT2", GPT2, "LMHeadModel"),
        ("c_attn", "c_proj", "attn.c_proj", "c_fc", "wte"),
        ("attn.c_proj.weight", "c_fc.weight"),
        ("ln_1", "ln_f"),
        "wte",
    ),
    "bert": World(
        _model(
            "Bert",
            {**S, "intermediate_size": 24, "max_position_embeddings": 16},
            "ForSequenceClassification",
        ),
        ("query", "key", "dense", "attention.output.dense", "word_embeddings"),
        ("query.weight", "value.weight"),
        ("classifier", "pooler", "LayerNorm"),
        "word_embeddings",
    ),
    "t5": World(
        _model("T5", T5, "ForConditionalGeneration"),
        ("q", "v", "o", "wi", "wo", "shared"),
        ("wi.weight", "SelfAttention.o.weight"),
        ("final_layer_norm", "shared"),
        "shared",
    ),
    "qwen3_moe": World(
        _model("Qwen3Moe", {**LLAMA, **QWEN}), (*_ATTENTION, "gate"), (*_EXPERTS, "gate.weight")
    ),
    "qwen3_moe square": World(
        _model("Qwen3Moe", {**LLAMA, **QWEN, "moe_intermediate_size": 16}), _ATTENTION, _EXPERTS
    ),
    "mixtral": World(
        _model("Mixtral", {**LLAMA, **EXPERTS}), (*_ATTENTION, "w2"), (*_EXPERTS, "gate.weight")
    ),
    "gpt_oss": World(
        _model("GptOss", {**LLAMA, **EXPERTS, "intermediate_size": 16}),
        _ATTENTION,
        (*_EXPERTS, "router.weight"),
    ),
}
PLAIN = ("stack", "mixed", "pictures")

_NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        ("r", "init_r", "boft_block_size", "oft_block_size"), st.sampled_from([1, 2, 3, 4])
    ),
    **dict.fromkeys(("lora_alpha", "alpha", "randlora_alpha"), st.sampled_from([1, 4, 7, 0.5, 12])),
    **dict.fromkeys(("mini_r", "block_size", "gralora_k", "topk"), st.sampled_from([1, 2])),
    **dict.fromkeys(("vector_length", "group_size"), st.sampled_from([2, 4])),
    "eps": st.sampled_from([1e-2, 6e-5]),
    "num_cayley_neumann_terms": st.integers(1, 6),
    "delora_lambda": st.sampled_from([1, 15]),
    "decompose_factor": st.sampled_from([-1, 2]),
    "d_initial": st.sampled_from([0.1, 1.0]),
    "n_frequency": st.sampled_from([3, 9]),
    "hybrid_r": st.sampled_from([0, 1]),
    "u": st.sampled_from([3, 8]),
    "num_vectors": st.just(9),
}
"""By field, numbers that fit tiny models."""
_WORDS: dict[str, st.SearchStrategy[Any]] = {
    "init_lora_weights": st.sampled_from([True, False, "gaussian", "orthogonal", "pissa", "olora"]),
    "init_weights": st.sampled_from([True, False, "bat", "mini"]),
    "bias": st.sampled_from(["none", "all", "lora_only", "oft_only", "boft_only", "hra_only"]),
    "layers_pattern": st.sampled_from(["layers", "h", ["layers", "block"]]),
    "layers_to_transform": st.sampled_from([1, [0, 2], [1], [0, 1, 2]]),
    "variant": st.sampled_from(["road_1", "road_2", "road_4"]),
    "mask_type": st.just("random"),
}
_ALWAYS = {
    "AdaLoraConfig": {"total_step": 10, "target_r": 1},
    "OFTConfig": {"r": 0},
    "ShiraConfig": {"random_seed": 1},
}
_OFTEN = ("r", "init_r", "oft_block_size", "boft_block_size", "block_size", "n_frequency", "topk")
_OFTEN += ("vector_length", "num_vectors", "group_size", "gralora_k", "u")
"""Fields whose default is too large for tiny models."""
_RARELY = ("layers_pattern", "layers_to_transform", "fan_in_fan_out", "init_weights")


class Case(Struct, frozen=True):
    """A configuration for a model."""

    world: str
    kind: str
    """Name of PEFT's class."""
    options: dict[str, Any]
    seed: int


def config_classes() -> dict[str, Any]:
    """Return PEFT's classes of adapters that change layers, by name."""
    classes = {}
    for peft_type, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[peft_type]
        fields = {field.name for field in dataclasses.fields(cls)}
        if hasattr(tuner, "inject_adapter") and "target_modules" in fields:
            classes[cls.__name__] = cls
    return classes


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a random case: LoRA in half of them, and modpkg's methods in most others."""
    classes = config_classes()
    known = [name for name, cls in classes.items() if _peft_type(cls) in METHODS]
    kind = draw(
        st.one_of(
            st.just("LoraConfig"),
            st.just("LoraConfig"),
            st.just("LoraConfig"),
            st.sampled_from(known),
            st.sampled_from(known),
            st.sampled_from(sorted(classes)),
        )
    )
    name = draw(st.sampled_from(sorted(WORLDS)))
    world = WORLDS[name]
    options: dict[str, Any] = dict(_ALWAYS.get(kind, {}))
    for field in dataclasses.fields(classes[kind]):
        rare = field.name in _RARELY
        chance = 1 if field.name in _OFTEN or field.name == "target_modules" else 6 if rare else 3
        if field.name in options or draw(st.integers(0, chance - 1)):
            continue
        if (strategy := _values(field.name, world)) is not None:
            options[field.name] = draw(strategy)
    _reconcile(kind, options, world)
    if "init_lora_weights" not in options and kind in ("LoraConfig", "AdaLoraConfig"):
        options["init_lora_weights"] = False
    return Case(name, kind, options, draw(st.integers(0, 3)))


def _reconcile(kind: str, options: dict[str, Any], world: World) -> None:
    """Change options that PEFT refuses together, so that most cases are of use."""
    targets = options["target_modules"]
    if kind == "TrainableTokensConfig":
        options |= {"target_modules": [world.tokens], "token_indices": [2, 5]}
    elif not targets and not options.get("target_parameters"):
        options["target_modules"] = [world.modules[0]]
    elif isinstance(targets, list) and set(targets) & set(options.get("exclude_modules") or []):
        options["target_modules"] = list(world.modules)
    if isinstance(targets, str):
        options.pop("layers_to_transform", None)
    if "layers_to_transform" not in options:
        options.pop("layers_pattern", None)
    if kind == "IA3Config":
        chosen = options["target_modules"]
        options["feedforward_modules"] = chosen[:1] if isinstance(chosen, list) else []
    if options.get("target_parameters") or options.get("use_dora"):
        options.pop("lora_bias", None)
    if options.get("init_lora_weights") == "orthogonal":
        options["r"] = 2


def _peft_type(cls: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return str(cls().peft_type.value)
        except (TypeError, ValueError):
            return next(t.value for t, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if c is cls)


_peft_type = functools.cache(_peft_type)  # type: ignore[assignment]


def _values(field: str, world: World) -> st.SearchStrategy[Any] | None:
    """Return values for a field; None if it is to keep its default."""
    some = st.lists(st.sampled_from(world.modules), min_size=1, max_size=3, unique=True)
    if field == "target_modules":
        patterns = st.sampled_from([rf".*\.({'|'.join(world.modules[:2])})", "all-linear"])
        return st.one_of(some, some, some, st.just([]), patterns)
    if field == "feedforward_modules":
        return st.one_of(st.just([]), some)
    if field == "target_parameters":
        return st.lists(st.sampled_from(world.parameters or ("none",)), max_size=2, unique=True)
    if field == "modules_to_save":
        return st.lists(st.sampled_from(world.saved), min_size=1, max_size=2, unique=True)
    if field == "exclude_modules":
        return st.one_of(some, st.just(r".*\.1\..*"))
    if field == "trainable_token_indices":
        return st.sampled_from([[1, 5], {world.tokens: [0, 7]}])
    if field == "token_indices":
        return st.just([2, 5])
    if field in ("rank_pattern", "alpha_pattern", "block_size_pattern", "lambda_pattern"):
        names = [*world.modules, *world.parameters, "1.*", r"layers\.0\..*", "^.*proj"]
        return st.dictionaries(st.sampled_from(names), st.sampled_from([1, 2, 5]), max_size=2)
    if field in _NUMBERS:
        return _NUMBERS[field]
    if field in _WORDS:
        return _WORDS[field]
    if field.startswith(("use_", "apply_", "save_")) or field in (
        *("fan_in_fan_out", "lora_bias", "decompose_both", "coft", "block_share", "para"),
        *("ensure_weight_tying", "sparse", "proportional_parameters"),
    ):
        booleans = st.booleans()
        return None if field in ("use_qalora", "use_bdlora", "use_asa") else booleans
    return None


# Judging ------------------------------------------------------------------------------------


def judge(case: Case) -> str:
    """Return how a case went: "equal", or who refused it and why.

    Raises:
        AssertionError: modpkg's result differs from PEFT's, or it fails without a reason.
    """
    folder = Path(tempfile.mkdtemp(prefix="adapter-fuzz-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judge(case, folder)
    finally:
        shutil.rmtree(folder)


def _judge(case: Case, folder: Path) -> str:
    torch.manual_seed(case.seed)
    cls = config_classes()[case.kind]
    _write_base(case.world, folder / "base")
    try:
        wrapped = peft.get_peft_model(_base(case.world), cls(**case.options)).eval()
        shake(wrapped)
        wrapped.save_pretrained(folder / "adapter")
        loaded = peft.PeftModel.from_pretrained(_base(case.world), folder / "adapter").eval()
        wanted = _outputs(loaded)
    except Exception as error:  # PEFT raises all kinds
        return f"PEFT refuses: {type(error).__name__}: {str(error)[:90]}"
    if not wanted.isfinite().all():
        return "PEFT refuses: NaN"
    try:
        composed = compose(applied(folder), folder / "store", threads=1)
    except ModpkgError as error:
        return f"{error.code}: {error}"
    model = _base(case.world)
    tensors = {name: value.clone() for name, value in values(composed.tensors).items()}
    if case.world in PLAIN:
        model.load_state_dict(tensors)
    else:
        out = folder / "composed"
        out.mkdir()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        (out / "config.json").write_text(json.dumps(composed.config))
        model = type(model).from_pretrained(out)
    error = float((_outputs(model.eval()) - wanted).abs().max() / wanted.abs().max())
    assert error <= TOLERANCE, f"modpkg differs from PEFT by {error:.2g}: {case}"
    return "equal"


@functools.cache
def _states(world: str) -> tuple[Path, Any]:
    folder = Path(tempfile.mkdtemp(prefix="adapter-fuzz-base-"))
    torch.manual_seed(5)
    model = WORLDS[world].build().eval()
    with torch.no_grad():  # norms and biases begin as ones and zeros, which hide mistakes
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    if world in PLAIN:
        save_file(dict(model.state_dict()), folder / "model.safetensors")
        kind = "gpt2" if world == "mixed" else "toy"
        (folder / "config.json").write_text(
            json.dumps({"model_type": kind, "architectures": ["T"]})
        )
    else:
        model.save_pretrained(folder)
    return folder, model


def _write_base(world: str, folder: Path) -> None:
    shutil.copytree(_states(world)[0], folder)


def _base(world: str) -> Any:
    """Return the model of a world, whose parameters may be changed."""
    folder, model = _states(world)
    if world not in PLAIN:
        return type(model).from_pretrained(folder).eval()
    copy = WORLDS[world].build().eval()
    copy.load_state_dict(load_file(folder / "model.safetensors"))
    return copy


def _outputs(model: Any) -> torch.Tensor:
    config = getattr(model, "config", None)
    encoder_decoder = getattr(config, "is_encoder_decoder", False)
    more = {"decoder_input_ids": IDS} if encoder_decoder else {}
    with torch.no_grad():
        found = model(input_ids=IDS, **more)
    result = found if isinstance(found, torch.Tensor) else found[0]
    assert isinstance(result, torch.Tensor)
    return result
