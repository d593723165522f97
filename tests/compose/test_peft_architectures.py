"""Adapters on the architectures of transformers: saved, composed, run; PEFT's forward judges."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modpkg.compose.executor import compose
from modpkg.core.errors import ModpkgError
from tests.compose.helpers import values
from tests.compose.oracle import applied, close, save_adapter, shake
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")

S = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {**S, "intermediate_size": 48}
GROUPED = {**SMALL, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8, "pad_token_id": 0}
GPT = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
T5 = {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
}
EXPERTS = {**GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2}
QWEN_EXPERTS = {
    **HEADS,
    "num_experts": 3,
    "moe_intermediate_size": 16,
    "num_experts_per_tok": 2,
}
CAUSAL, SEQUENCES = "ForCausalLM", "ForSequenceClassification"
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", CAUSAL, GROUPED),
    "mistral": ("Mistral", CAUSAL, GROUPED),
    "qwen2": ("Qwen2", CAUSAL, GROUPED),
    "qwen3": ("Qwen3", CAUSAL, HEADS),
    "gemma": ("Gemma", CAUSAL, HEADS),
    "gemma2": ("Gemma2", CAUSAL, HEADS),
    "gemma3": ("Gemma3Text", "Gemma3ForCausalLM", HEADS),
    "phi": ("Phi", CAUSAL, SMALL),
    "phi3": ("Phi3", CAUSAL, {**GROUPED, "pad_token_id": 0}),
    "gpt2": ("GPT2", "LMHeadModel", GPT),
    "gpt_neox": ("GPTNeoX", CAUSAL, SMALL),
    "gptj": ("GPTJ", CAUSAL, {**GPT, "rotary_dim": 4}),
    "opt": (
        "OPT",
        CAUSAL,
        {**S, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32},
    ),
    "bloom": ("Bloom", CAUSAL, {"vocab_size": 61, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": (
        "Mpt",
        CAUSAL,
        {"vocab_size": 61, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 32},
    ),
    "falcon": ("Falcon", CAUSAL, S),
    "bert": ("Bert", "Model", SMALL),
    "bert masked": ("Bert", "ForMaskedLM", SMALL),
    "bert labels": ("Bert", SEQUENCES, SMALL),
    "roberta": ("Roberta", SEQUENCES, {**SMALL, "pad_token_id": 1}),
    "deberta": ("DebertaV2", SEQUENCES, SMALL),
    "electra": ("Electra", SEQUENCES, {**SMALL, "embedding_size": 16}),
    "distilbert": (
        "DistilBert",
        SEQUENCES,
        {"vocab_size": 61, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "t5": ("T5", "ForConditionalGeneration", T5),
    "mt5": ("MT5", "ForConditionalGeneration", T5),
    "bart": ("Bart", "ForConditionalGeneration", BART),
    "stablelm": ("StableLm", CAUSAL, GROUPED),
    "codegen": ("CodeGen", CAUSAL, {**GPT, "n_ctx": 32, "rotary_dim": 4}),
    "bigcode": ("GPTBigCode", CAUSAL, GPT),
    "granite": ("Granite", CAUSAL, GROUPED),
    "olmo2": ("Olmo2", CAUSAL, GROUPED),
    "cohere": ("Cohere", CAUSAL, GROUPED),
    "mixtral": ("Mixtral", CAUSAL, EXPERTS),
    "qwen2_moe": (
        "Qwen2Moe",
        CAUSAL,
        {**QWEN_EXPERTS, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_moe": ("Qwen3Moe", CAUSAL, QWEN_EXPERTS),
    "gpt_oss": ("GptOss", CAUSAL, {**EXPERTS, "head_dim": 8}),
    # as large inside as outside: only the architecture determines the layout of its experts
    "qwen3_moe square": ("Qwen3Moe", CAUSAL, {**QWEN_EXPERTS, "moe_intermediate_size": 32}),
    "llama4 square": (
        "Llama4Text",
        "Llama4ForCausalLM",
        {**EXPERTS, "head_dim": 8, "intermediate_size": 32, "intermediate_size_mlp": 32},
    ),
    "privacy filter square": (
        "OpenAIPrivacyFilter",
        "ForTokenClassification",
        {**EXPERTS, "head_dim": 8, "intermediate_size": 32, "pad_token_id": 0},
    ),
    "gpt_oss square": ("GptOss", CAUSAL, {**EXPERTS, "head_dim": 8, "intermediate_size": 32}),
}
ALL = {"target_modules": "all-linear"}
BOTH_EXPERTS = {
    "target_modules": ["q_proj"],
    "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
}


def build(name: str) -> Any:
    stem, kind, options = MODELS[name]
    config = getattr(transformers, f"{stem}Config")(**options, torch_dtype="float32")
    cls = getattr(transformers, kind if kind.startswith(("Gemma3", "Llama4")) else stem + kind)
    return cls(config)


def outputs(model: Any) -> torch.Tensor:
    """Return the first output: of a batch with an end."""
    tokens = torch.tensor([[5, 9, 2, 7], [8, 3, 11, 4]])
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        result = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), **more)
    found = result[0]
    assert isinstance(found, torch.Tensor)
    return found


def check(
    name: str, config: Any, folder: Path, change: Callable[[Path], None] | None = None
) -> None:
    """Compare outputs with PEFT's; ``change`` edits the base's folder before anything reads it."""
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build(name).eval()
        with torch.no_grad():  # norms and biases begin as ones and zeros, which hide mistakes
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(folder / "base")
        if change is not None:
            change(folder / "base")
        before = outputs(model)
        wrapped = peft.get_peft_model(model, config).eval()
        shake(wrapped)
        save_adapter(wrapped, folder)
        wanted = outputs(wrapped)
    composed = compose(applied(folder), folder / "store", threads=1)
    out = folder / "composed"
    out.mkdir()
    tensors = {key: value.clone() for key, value in values(composed.tensors).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(composed.config))
    again, info = type(model).from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    close(outputs(again.eval()), wanted)
    assert (before - wanted).abs().max() > 1e-4, "the adapter does nothing"


def lora(**options: Any) -> Any:
    return peft.LoraConfig(
        **{"r": 3, "lora_alpha": 6, "init_lora_weights": False, **ALL, **options}
    )


@pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith("square")])
def test_lora_on_every_linear_layer(name: str, tmp_path: Path) -> None:
    check(name, lora(), tmp_path)


QUERY = {
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "dense"],
    "t5": ["q", "wo"],
    "llama": ["q_proj", "down_proj"],
}


@pytest.mark.parametrize("name", QUERY)
def test_dora(name: str, tmp_path: Path) -> None:
    check(name, lora(use_dora=True, target_modules=QUERY[name]), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "gpt_oss",
        "gpt_oss square",
        "qwen3_moe square",
        "llama4 square",
        "privacy filter square",
    ],
)
def test_experts(name: str, tmp_path: Path) -> None:
    check(name, lora(**BOTH_EXPERTS), tmp_path)


ROUTERS: dict[str, tuple[list[str], dict[str, int]]] = {
    "qwen3_moe": (["mlp.gate.weight"], {"gate.weight": 9}),
    "mixtral": (["gate.weight", "experts.down_proj"], {"mlp.gate.weight": 9, "mlp.gate": 4}),
    "gpt_oss": (["router.weight"], {"router": 9}),
    "gpt2": (["attn.c_proj.weight"], {"c_proj": 9, "c_proj.weight": 4}),
    "llama": (["up_proj.weight", "o_proj.weight"], {"up_proj.weight": 9}),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_parameters_that_are_weights_of_modules(name: str, tmp_path: Path) -> None:
    parameters, alphas = ROUTERS[name]
    modules = [] if name == "gpt2" else ["q_proj"]
    options = {"target_modules": modules, "target_parameters": parameters}
    check(name, lora(**options, alpha_pattern=alphas, rank_pattern={parameters[0]: 2}), tmp_path)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_one_parameter_of_the_experts(name: str, tmp_path: Path) -> None:
    one = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    check(name, lora(**one, rank_pattern={"down_proj": 2}), tmp_path)


_ENDS = ["embed_tokens", "lm_head"]
_OUTPUT = ["lm_head", "q_proj"]
OTHERS: dict[str, tuple[str, Any]] = {
    "embedding": ("llama", lora(target_modules=["embed_tokens", "q_proj"])),
    "embedding, scaled": (
        "gemma3 untied",
        lora(target_modules=["embed_tokens", "q_proj"]),
    ),
    "output layer": ("gpt_neox", lora(target_modules=["query_key_value", "embed_out", "lm_head"])),
    "output layer saved": (
        "gpt_neox",
        lora(target_modules=["query_key_value"], modules_to_save=["lm_head"]),
    ),
    "embedding saved": (
        "llama",
        lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    ),
    "norms saved": ("bert", lora(target_modules=["query"], modules_to_save=["LayerNorm"])),
    "classifier saved": (
        "roberta",
        lora(target_modules=["query"], modules_to_save=["classifier"], bias="all"),
    ),
    "tied output layer": (
        "cohere",
        lora(target_modules=["lm_head", "q_proj"], ensure_weight_tying=True),
    ),
    "tied embedding, scaled": (
        "gemma",
        lora(target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True),
    ),
    "tied embedding saved": (
        "gemma",
        lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    ),
    "tokens": ("llama", lora(target_modules=["q_proj"], trainable_token_indices=[3, 7, 9])),
    "tokens, tied": ("gemma", lora(target_modules=["q_proj"], trainable_token_indices=[3, 7, 9])),
    "tokens alone": (
        "gpt2",
        peft.TrainableTokensConfig(
            target_modules=["wte"], token_indices=[5, 2], init_weights=False
        ),
    ),
    "lora bias": ("gpt2", lora(target_modules=["c_attn"], lora_bias=True)),
    "bias": ("opt", lora(target_modules=["q_proj"], bias="lora_only")),
    "ia3": (
        "t5",
        peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"]),
    ),
    "ia3 Conv1D": (
        "gpt2",
        peft.IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
    ),
    "ia3 fused": (
        "bloom",
        peft.IA3Config(
            target_modules=["query_key_value", "dense_4h_to_h"],
            feedforward_modules=["dense_4h_to_h"],
        ),
    ),
    "loha": ("mistral", peft.LoHaConfig(r=2, init_weights=False, target_modules=["q_proj"])),
    "lokr": ("qwen2", peft.LoKrConfig(r=2, init_weights=False, target_modules=["up_proj"])),
    "oft": ("llama", peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj"])),
    "vera": ("gpt2", peft.VeraConfig(r=2, init_weights=False, target_modules=["c_attn", "c_proj"])),
    "hra": ("opt", peft.HRAConfig(r=2, init_weights=False, target_modules=["fc1"])),
    "ln tuning": ("bert", peft.LNTuningConfig(target_modules=["LayerNorm"])),
    "boft": (
        "llama untied",
        peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj", "lm_head"]),
    ),
    "parameter of a module around others": (
        "mamba",
        lora(target_modules=["in_proj", "x_proj"], target_parameters=["mixer.A_log"]),
    ),
    **{
        f"{name}, embedding and output layer saved": ("llama untied", config)
        for name, config in {
            "dora": lora(target_modules=_ENDS, use_dora=True, modules_to_save=["norm"]),
            "pissa": lora(target_modules=_ENDS, init_lora_weights="pissa"),
            "olora": lora(target_modules=_ENDS, init_lora_weights="olora"),
            "pissa, dora": lora(target_modules=_ENDS, init_lora_weights="pissa", use_dora=True),
            "hira": peft.HiraConfig(r=2, init_weights=False, target_modules=_ENDS),
            "oft": peft.OFTConfig(r=0, oft_block_size=8, init_weights=False, target_modules=_ENDS),
            "tinylora": peft.TinyLoraConfig(
                r=2, u=3, init_weights=False, target_modules=_ENDS, weight_tying=1.0
            ),
        }.items()
    },
    **{
        f"{config.peft_type}, output layer saved": ("llama untied", config)
        for config in (
            peft.HRAConfig(r=2, init_weights=False, target_modules=_OUTPUT),
            peft.IA3Config(target_modules=_OUTPUT, feedforward_modules=[]),
            peft.LoHaConfig(r=2, init_weights=False, target_modules=_OUTPUT),
            peft.RoadConfig(group_size=2, init_weights=False, target_modules=_OUTPUT),
            peft.VeraConfig(r=2, init_weights=False, target_modules=_OUTPUT),
            peft.C3AConfig(block_size=1, init_weights="gaussian", target_modules=_OUTPUT),
            peft.MissConfig(r=2, init_weights=True, target_modules=_OUTPUT),
            peft.RandLoraConfig(r=4, init_weights=False, target_modules=_OUTPUT),
            peft.GraloraConfig(r=2, gralora_k=1, init_weights=False, target_modules=_OUTPUT),
            peft.DeloraConfig(r=2, init_weights=False, target_modules=_OUTPUT),
            peft.FourierFTConfig(n_frequency=9, scaling=40.0, target_modules=_OUTPUT),
            peft.WaveFTConfig(n_frequency=9, target_modules=_OUTPUT),
        )
    },
    "ln tuning llama": ("llama", peft.LNTuningConfig(target_modules=["input_layernorm"])),
}
MODELS["llama untied"] = (
    "Llama",
    CAUSAL,
    {**GROUPED, "vocab_size": 64, "tie_word_embeddings": False},
)
MODELS["mamba"] = ("Mamba", CAUSAL, {**S, "state_size": 4, "tie_word_embeddings": False})
MODELS["gemma3 untied"] = (
    "Gemma3Text",
    "Gemma3ForCausalLM",
    {**HEADS, "tie_word_embeddings": False},
)


@pytest.mark.parametrize("case", OTHERS)
def test_other_adapters(case: str, tmp_path: Path) -> None:
    check(*OTHERS[case], tmp_path)


def test_hira_of_a_scaled_embedding_is_refused(tmp_path: Path) -> None:
    """PEFT adds its part to the scaled embedding when it runs, and scales it when it merges."""
    config = peft.HiraConfig(r=2, init_weights=False, target_modules=["embed_tokens"])
    with raises("M606", match="scales"):
        check("gemma3 untied", config, tmp_path)


def test_a_base_that_stores_a_tied_tensor_twice(tmp_path: Path) -> None:
    def store_twice(base: Path) -> None:
        tensors = load_file(base / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    check(*OTHERS["tokens, tied"], tmp_path, store_twice)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gemma", {"target_modules": ["embed_tokens"]}),
        ("gpt2", {"target_modules": ["wte", "c_attn"]}),
        ("gpt2", {"target_modules": ["wte"], "ensure_weight_tying": True}),
        (
            "gpt2",
            {
                "target_modules": [],
                "target_parameters": ["wte.weight"],
                "ensure_weight_tying": True,
            },
        ),
        ("bert masked", {"target_modules": ["word_embeddings"]}),
        ("opt", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    ],
    ids=str,
)
def test_half_of_a_tied_pair_is_refused(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    with raises("M606", match="output layer shares that tensor"):
        check(name, lora(**options), tmp_path)


def test_a_layer_as_high_as_the_vocabulary_is_no_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weight has as many rows as there are tokens; the model is tied."""
    kind, auto, options = MODELS["llama"]
    high = {**options, "intermediate_size": 61, "tie_word_embeddings": True}
    monkeypatch.setitem(MODELS, "high", (kind, auto, high))
    check("high", lora(target_modules=["up_proj", "gate_proj"]), tmp_path)
    check("high", lora(target_modules=["q_proj"], modules_to_save=["up_proj"]), tmp_path / "saved")


def test_a_classifier_on_a_language_model(tmp_path: Path) -> None:
    """The adapter was trained on the class with labels; the base is the one that writes text."""
    torch.manual_seed(5)
    _, _, options = MODELS["qwen3"]
    options = {**options, "tie_word_embeddings": True}
    language = build("qwen3").eval()
    language.config.tie_word_embeddings = True
    language.tie_weights()
    language.save_pretrained(tmp_path / "base")
    config = transformers.Qwen3Config(**options, num_labels=3)
    labels = transformers.Qwen3ForSequenceClassification(config).eval()
    labels.model.load_state_dict(language.model.state_dict())
    settings = lora(target_modules=["q_proj"], task_type="SEQ_CLS")
    wrapped = peft.get_peft_model(labels, settings).eval()
    shake(wrapped)
    save_adapter(wrapped, tmp_path)
    composed = compose(applied(tmp_path), tmp_path / "store", threads=1)
    assert composed.config["architectures"] == ["Qwen3ForSequenceClassification"]
    out = tmp_path / "composed"
    out.mkdir()
    tensors = {key: value.clone() for key, value in values(composed.tensors).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(composed.config))
    again = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    close(outputs(again), outputs(wrapped))


def saved(folder: Path, base: str = "llama", **options: Any) -> None:
    torch.manual_seed(5)
    model = build(base)
    model.save_pretrained(folder / "base")
    wrapped = peft.get_peft_model(model, lora(target_modules=["q_proj"], **options))
    shake(wrapped)
    save_adapter(wrapped, folder)


def renew(folder: Path, rename: Any) -> None:
    """Write the base's tensors under other names, or with other values."""
    file = next(folder.glob("*.safetensors"))
    tensors = dict(pair for name, t in load_file(file).items() if (pair := rename(name, t)))
    save_file(tensors, file)


WRONG = {
    "fewer layers": lambda name, t: None if ".layers.1." in name else (name, t),
    "renamed": lambda name, t: (name.replace("self_attn", "attention"), t),
    "narrower": lambda name, t: (name, t[..., :16].contiguous()),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_base_is_refused(what: str, tmp_path: Path) -> None:
    saved(tmp_path)
    renew(tmp_path / "base", WRONG[what])
    with pytest.raises(ModpkgError, match=r"M207|layers\.1|No tensor|has shape"):
        applied(tmp_path)


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    """Those with another number of rows are for a resized vocabulary."""
    saved(tmp_path, modules_to_save=["embed_tokens"])
    wider = torch.zeros(61, 3)
    renew(
        tmp_path / "base",
        lambda name, t: (name, torch.cat([t, wider], 1) if "embed" in name else t),
    )
    with pytest.raises(ModpkgError, match=r"embed_tokens.*\[61, 32\].*\[61, 35\]"):
        applied(tmp_path)
