"""Planning: which tensors are kept and computed, and what is refused, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Step
from tests.compose.helpers import adapter, base, module, planned
from tests.raising import raises

Q = "model.layers.0.q"
WEIGHTS = {f"{Q}.weight": torch.randn(4, 6), "model.norm.weight": torch.randn(4)}


def pair(seed: int = 0, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, 6, generator=generator), torch.randn(4, rank, generator=generator)


def head_step(*replace: str, name: str = "head") -> Step:
    return Step(op="head", module=ModuleName(name), replace=replace)


def test_planning_imports_no_torch() -> None:
    code = "import sys, modpkg.compose.plan; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_unchanged_tensors_are_kept_in_place(tmp_path: Path) -> None:
    model = base(tmp_path, WEIGHTS)
    composition = planned(model, adapter(tmp_path, "one", {Q: pair()}))
    assert composition.kept == {"model.norm.weight": model.tensors["model.norm.weight"]}
    assert list(composition.computed) == [f"{Q}.weight"]
    assert composition.bytes_to_write(tmp_path) > 4 * 6 * 4


def test_a_base_alone_writes_nothing(tmp_path: Path) -> None:
    model = base(tmp_path, WEIGHTS)
    composition = planned(model)
    assert composition.kept == model.tensors
    assert composition.bytes_to_write(tmp_path) == 0


def test_scale_zero_and_opposite_scales_leave_the_base(tmp_path: Path) -> None:
    model, one = base(tmp_path, WEIGHTS), adapter(tmp_path, "one", {Q: pair()})
    assert planned(model, one, scales=[0.0]).key == planned(model).key
    steps = [Step(op="lora", module=ModuleName("one"), scale=scale) for scale in (0.7, -0.7)]
    assert planned(model, one, steps=steps).kept == model.tensors


def test_the_key_depends_on_bytes_not_on_names(tmp_path: Path) -> None:
    model = base(tmp_path, WEIGHTS)
    one, two = adapter(tmp_path, "one", {Q: pair(1)}), adapter(tmp_path, "two", {Q: pair(2)})
    same = adapter(tmp_path, "another-name", {Q: pair(1)})
    key = planned(model, one, two).key
    assert planned(model, two, one).key == key
    assert planned(model, same, two).key == key
    assert planned(model, one, two, scales=[1.0, 0.5]).key != key
    assert planned(model, one, two, dtype="bfloat16").key != key
    assert planned(model, one).key != key


def test_a_dtype_converts_every_floating_tensor_and_the_config(tmp_path: Path) -> None:
    model = base(tmp_path, {**WEIGHTS, "ids": torch.arange(3)}, torch_dtype="float32")
    composition = planned(model, dtype="bfloat16")
    assert list(composition.kept) == ["ids"]
    assert {made.dtype for made in composition.computed.values()} == {"BF16"}
    assert composition.config["torch_dtype"] == "bfloat16"
    assert planned(base(tmp_path, WEIGHTS), dtype="float16").config["dtype"] == "float16"


def test_a_head_edits_the_config(tmp_path: Path) -> None:
    head = module(
        tmp_path, "head", "head", {"score.weight": torch.randn(2, 4)}, config={"num_labels": 2}
    )
    composition = planned(base(tmp_path, WEIGHTS), head, steps=[head_step()])
    assert composition.config["architectures"] == ["LlamaForSequenceClassification"]
    assert composition.config["num_labels"] == 2
    assert "score.weight" in composition.kept


def test_a_head_may_name_its_architecture(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForTokenClassification"]}
    head = module(tmp_path, "head", "head", {"score.weight": torch.randn(2, 4)}, config=config)
    composition = planned(base(tmp_path, WEIGHTS), head, steps=[head_step()])
    assert composition.config["architectures"] == ["LlamaForTokenClassification"]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertModel", "BertForSequenceClassification"),
        ("BertForMaskedLM", "BertForSequenceClassification"),
        ("GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    ],
)
def test_the_classifier_of_an_architecture(
    tmp_path: Path, architecture: str, expected: str
) -> None:
    head = module(tmp_path, "head", "head", {"score.weight": torch.randn(2, 4)})
    model = base(tmp_path, WEIGHTS, architectures=[architecture])
    assert planned(model, head, steps=[head_step()]).config["architectures"] == [expected]


def test_files_of_base_and_head(tmp_path: Path) -> None:
    model = module(
        tmp_path, "base", "base", WEIGHTS,
        config={"architectures": ["BertModel"]}, tokenizer={"a": 1},
    )  # fmt: skip
    head = module(
        tmp_path,
        "head",
        "head",
        {"score.weight": torch.randn(2, 4)},
        labels=["a"],
        tokenizer={"a": 1},
    )
    (tmp_path / "head" / "README.md").write_text("a head")
    head.files["README.md"] = tmp_path / "head" / "README.md"
    assert sorted(planned(model, head, steps=[head_step()]).files) == [
        "labels.json",
        "tokenizer.json",
    ]
    (tmp_path / "head" / "tokenizer.json").write_text("{}")
    with raises("M601", match=r"different files 'tokenizer\.json'"):
        planned(model, head, steps=[head_step()])


def test_invalid_recipes_are_refused_with_a_reason(tmp_path: Path) -> None:
    model, one = base(tmp_path, WEIGHTS), adapter(tmp_path, "one", {Q: pair()})
    head = module(tmp_path, "head", "head", {"score.weight": torch.randn(2, 4)})
    half = module(tmp_path, "half", "head", {"score.weight": torch.randn(2, 4).half()})
    norm = module(tmp_path, "norm", "head", {f"{Q}.weight": torch.randn(4, 6)})
    alien = module(tmp_path, "alien", "head", {"s": torch.randn(2)}, config={"model_type": "bert"})

    def step(op: str, name: str, **more: object) -> Step:
        return Step(op=op, module=ModuleName(name), **more)  # type: ignore[arg-type]

    for steps, message in [
        ([step("lora", "head")], "has no adapter_config.json"),
        ([step("lora", "missing")], "not among its"),
        ([step("lora", "one", replace=("x",))], "replaces nothing"),
        ([step("lora", "one", scale=float("nan"))], "scale nan"),
        ([step("head", "head", scale=2.0)], "has a scale"),
        ([step("head", "head"), step("head", "head")], "also added by another step"),
        ([step("head", "half")], 'dtype = "float32"'),
        ([step("head", "norm")], "replace ="),
        ([step("head", "alien")], "architecture 'bert'"),
        ([step("head", "norm", replace=(f"{Q}.",)), step("lora", "one")], "another step replaces"),
    ]:
        with raises("M601", match=message):
            planned(model, one, head, half, norm, alien, steps=steps)
    with raises(
        "M602",
        match=r"step 1 of model.*'lore'; known are bdlora, beft, boft, c3a, deft, delora, dense",
    ):
        planned(model, one, steps=[step("lore", "one")])
    with raises("M601", match="cannot be its base"):
        planned(one)
    bare = module(tmp_path, "bare", "base", WEIGHTS)
    with raises("M601", match=r"no config\.json"):
        planned(bare)


def test_a_model_with_weights_of_its_own_is_a_base(tmp_path: Path) -> None:
    model = module(tmp_path, "m", "model", WEIGHTS, config={})
    assert planned(model).kept == model.tensors
    assert list(planned(model, adapter(tmp_path, "one", {Q: pair()})).computed) == [f"{Q}.weight"]


def test_integer_tensors_cannot_be_changed(tmp_path: Path) -> None:
    weights = {f"{Q}.weight": torch.ones(4, 6, dtype=torch.int8)}
    with raises("M601", match="dtype I8"):
        planned(base(tmp_path, weights), adapter(tmp_path, "one", {Q: pair()}))
