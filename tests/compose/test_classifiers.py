"""Adapters of classifiers on bases of another head: the outputs are those of PEFT's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.architectures import installed, shake
from modpkg.compose.executor import compose
from modpkg.compose.mapping import map_tensors
from modpkg.interop.hf import import_hf
from modpkg.interop.peft import import_peft
from modpkg.runtime.load import build_model
from tests.compose.helpers import PREFIX, adapter, base, of_folder, planned
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
PICTURE = {**TEXT, "image_size": 32, "patch_size": 8}
SMALL_DISTIL = {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}


@pytest.mark.parametrize(
    ("base_class", "sizes", "trained", "target", "settings"),
    [
        (
            "DistilBertModel",
            SMALL_DISTIL,
            "DistilBertForSequenceClassification",
            "q_lin",
            "SEQ_CLS",
        ),
        ("LlamaForCausalLM", TEXT, "LlamaForSequenceClassification", "q_proj", "SEQ_CLS"),
        ("BertForMaskedLM", TEXT, "BertForTokenClassification", "query", "TOKEN_CLS"),
        ("BertModel", TEXT, "BertForQuestionAnswering", "query", "QUESTION_ANS"),
        ("ViTModel", PICTURE, "ViTForImageClassification", "q_proj", None),
        ("ViTForImageClassification", PICTURE, "ViTForImageClassification", "q_proj", None),
        (
            "BertForSequenceClassification",
            TEXT,
            "BertForSequenceClassification",
            "query",
            "SEQ_CLS",
        ),
    ],
    ids=["distilbert", "llama", "tokens", "questions", "pictures", "labels", "text labels"],
)
def test_classifiers(
    base_class: str,
    sizes: dict[str, Any],
    trained: str,
    target: str,
    settings: str | None,
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    cls = getattr(transformers, base_class)
    labels = 2 if settings == "QUESTION_ANS" else 3
    cls(cls.config_class(**sizes, num_labels=5, pad_token_id=0)).save_pretrained(tmp_path / "base")
    model = getattr(transformers, trained).from_pretrained(
        tmp_path / "base", num_labels=labels, ignore_mismatched_sizes=True
    )
    saved = ["classifier"] if settings is None else None
    config = peft.LoraConfig(
        r=2, target_modules=[target], task_type=settings, modules_to_save=saved
    )
    wrapped = peft.get_peft_model(model, config).eval()
    shake(wrapped)
    wrapped.save_pretrained(tmp_path / "saved")
    inputs = (
        {"pixel_values": torch.randn(1, 3, 32, 32)}
        if "image_size" in sizes
        else {"input_ids": torch.tensor([[3, 4, 5, 6, 7]])}
    )
    with torch.no_grad():
        wanted = wrapped(**inputs)[0]

    import_hf(tmp_path / "base", tmp_path / "b", "base", "1.0", license="MIT")
    module = installed(tmp_path / "b", tmp_path / "registry", "base")
    import_peft(tmp_path / "saved", tmp_path / "a", "adapter", "1.0", base="base", license="MIT")
    trained_module = installed(tmp_path / "a", tmp_path / "registry", "adapter")
    composed = compose(planned(module, trained_module), tmp_path / "store", threads=1)
    (tmp_path / "config.json").write_text(json.dumps(composed.config))
    result = build_model("model", tmp_path, map_tensors(composed.tensors.items()))
    assert type(result).__name__ == trained
    assert len(composed.config["id2label"]) == labels
    with torch.no_grad():
        torch.testing.assert_close(result(**inputs)[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_module_that_the_configuration_does_not_name_is_refused(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    path = "model.layers.0.mlp.up_proj"
    target = base(tmp_path, {f"{path}.weight": weight, "lm_head.weight": weight.clone()})
    adapter(tmp_path, "adapter", {path: (torch.randn(2, 4), torch.randn(4, 2))})
    (file,) = (tmp_path / "adapter").glob("*.safetensors")
    name = f"{PREFIX}lm_head.modules_to_save.default.weight"
    save_file({**load_file(file), name: torch.randn(4, 4)}, file)
    module = of_folder(tmp_path / "adapter", "adapter", "adapter")
    with raises("M606", match="does not name it in modules_to_save"):
        planned(target, module)


@pytest.mark.parametrize(
    ("base_class", "trained", "target", "sizes", "message"),
    [
        (
            "BertForMaskedLM",
            "BertForSequenceClassification",
            "query",
            TEXT,
            r"has bert\.pooler\.dense\.bias.*drawn at random",
        ),
        (
            "ViTModel",
            "ViTForImageClassification",
            "q_proj",
            PICTURE,
            "makes ViTForSequenceClassification of base 1.0.*no such class",
        ),
    ],
    ids=["no pooler", "no class"],
)
def test_a_class_that_would_not_be_whole_is_told_at_build(
    base_class: str,
    trained: str,
    target: str,
    sizes: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    cls = getattr(transformers, base_class)
    cls(cls.config_class(**sizes)).save_pretrained(tmp_path / "base")
    model = getattr(transformers, trained).from_pretrained(tmp_path / "base", num_labels=3)
    config = peft.LoraConfig(r=2, target_modules=[target], modules_to_save=["classifier"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "SEQ_CLS"}))
    import_hf(tmp_path / "base", tmp_path / "base-project", "base", "1.0", license="MIT")
    installed(tmp_path / "base-project", tmp_path / "reg", "base")
    import_peft(tmp_path / "saved", tmp_path / "project", "ad", "1.0", base="base", license="MIT")
    with raises("M606", match=message):
        installed(tmp_path / "project", tmp_path / "reg", "adapter")
