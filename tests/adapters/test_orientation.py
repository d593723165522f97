"""Whether a weight is stored as (out, in) or as (in, out)."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from modpkg.adapters import bind_adapter
from modpkg.adapters.expert_layouts import stored_in_out
from modpkg.adapters.orientation import CONV1D
from modpkg.core.records import TensorType
from tests.adapters.samples import PLAIN, bind, pair, transposed
from tests.raising import raises


def test_transposed_weights_are_recognized_by_shape_and_by_architecture() -> None:
    base = {"c.weight": TensorType("F32", [6, 4]), "s.weight": TensorType("F32", [4, 4])}
    square = pair("s", columns=4)
    assert [transposed(b) for b in bind(pair("c") | square, base)] == [True, True]
    assert [transposed(b) for b in bind(square, base)] == [False]
    assert [transposed(b) for b in bind(square, base, fan_in_fan_out=True)] == [True]
    (change,) = bind_adapter("a", square, PLAIN, base, architecture="gpt2").changes
    assert not transposed(change)  # its output layer is stored as others are
    base = {"h.0.c_proj.weight": TensorType("F32", [4, 4])}
    square = pair("h.0.c_proj", columns=4)
    (change,) = bind_adapter("a", square, PLAIN, base, architecture="gpt2").changes
    assert transposed(change)


def test_a_square_weight_between_both_kinds_is_ambiguous() -> None:
    base = {
        "c.weight": TensorType("F32", [6, 4]),
        "l.weight": TensorType("F32", [4, 6]),
        "s.weight": TensorType("F32", [4, 4]),
    }
    with raises("M606", match=r"s\.weight"):
        bind(pair("c") | pair("l") | pair("s", columns=4), base)
    with raises("M606", match=r"s\.weight"):  # PEFT writes true, unless a linear layer came last
        bind(pair("c") | pair("s", columns=4), base, fan_in_fan_out=False)


def test_a_model_within_another_may_store_its_layers_in_out() -> None:
    base = {
        "decoder.h.0.c_proj.weight": TensorType("F32", [4, 4]),
        "encoder.query.weight": TensorType("F32", [4, 4]),
    }
    names = pair("decoder.h.0.c_proj", columns=4) | pair("encoder.query", columns=4)
    config = {"decoder": {"model_type": "gpt2"}, "encoder": {"model_type": "vit"}}
    changes = bind_adapter(
        "a", names, PLAIN, base, architecture="vision-encoder-decoder", model_config=config
    ).changes
    assert [transposed(change) for change in changes] == [True, False]


def test_every_architecture_with_such_layers_is_known() -> None:
    folder = Path(find_spec("transformers").origin).parent / "models"  # type: ignore[union-attr, arg-type]
    used = re.compile(r"= Conv1D\(")
    for file in folder.glob("*/modeling_*.py"):
        if used.search(file.read_text("utf-8")):
            types = re.findall(
                r'^    model_type = "([^"]+)"',
                file.with_name(file.name.replace("modeling", "configuration")).read_text("utf-8"),
                re.MULTILINE,
            )
            assert set(types) & set(CONV1D), file.name


def test_every_architecture_that_stores_experts_in_out_is_known() -> None:
    folder = Path(find_spec("transformers").origin).parent / "models"  # type: ignore[union-attr, arg-type]
    for file in folder.glob("*/modeling_*.py"):
        text = file.read_text("utf-8")
        if "use_experts_implementation" in text:
            turned = "is_transposed=True" in text
            assert stored_in_out(file.parent.name, {}) in (turned, None), file.name
            assert not turned or stored_in_out(file.parent.name, {}), file.name
