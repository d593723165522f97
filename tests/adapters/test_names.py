"""From an adapter's tensor names to a base's."""

from __future__ import annotations

import pytest

from modpkg.core.records import TensorType
from tests.adapters.samples import bind, pair, transposed
from tests.raising import raises


def test_a_path_matches_the_weight_of_its_module() -> None:
    (binding,) = bind(pair("model.layers.0.q"))
    assert (binding.target, binding.weight) == ("model.layers.0.q.weight", 3.0)
    assert not transposed(binding)


@pytest.mark.parametrize("path", ["layers.0.q", "bert.model.layers.0.q"])
def test_one_leading_part_may_differ(path: str) -> None:
    assert bind(pair(path))[0].target == "model.layers.0.q.weight"


def test_prefixes_differ_for_all_names_or_none() -> None:
    with raises("M208", match="cannot be matched to a-base"):
        bind(pair("layers.0.q") | pair("model.layers.1.q"))


def test_an_ambiguous_prefix_is_an_error() -> None:
    base = {"a.q.weight": TensorType("F32", [4, 6]), "b.q.weight": TensorType("F32", [4, 6])}
    with raises("M208", match=r"'a\.q\.weight' or 'b\.q\.weight'"):
        bind(pair("q"), base)


def test_nothing_matches() -> None:
    with raises("M207", match="an-adapter"):
        bind(pair("transformer.h.0.attn"))


def test_a_tensor_for_a_missing_layer_is_named() -> None:
    with raises("M208", match=r"layers\.2\.q"):
        bind(pair("model.layers.0.q") | pair("model.layers.2.q"))


def test_an_adapter_name_inside_the_tensor_name() -> None:
    names = {key.replace(".weight", ".default.weight"): v for key, v in pair("layers.0.q").items()}
    assert bind(names)[0].target == "model.layers.0.q.weight"


def test_both_spellings_of_one_tensor_are_refused() -> None:
    names = pair("layers.0.q")
    names |= {key.replace(".weight", ".default.weight"): value for key, value in names.items()}
    with raises("M208", match="same module and role"):
        bind(names)


INSIDE = {
    f"{place}.layers.{layer}.{kind}.weight": TensorType("F32", [4, width])
    for place, width, kinds in (("language_model.model", 6, "qk"), ("vision.encoder", 7, "qo"))
    for layer in (0, 1)
    for kind in kinds
}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_an_adapter_of_one_model_within_the_base(prefix: str) -> None:
    names = pair(f"{prefix}layers.0.q") | pair(f"{prefix}layers.1.q")
    (first, _) = bind(names, INSIDE)
    assert first.target == "language_model.model.layers.0.q.weight"


def test_an_adapter_of_either_of_two_models_within_the_base_is_told() -> None:
    same = {name: TensorType("F32", [4, 6]) for name in INSIDE}
    with raises("M208", match=r"'language_model\.model\.layers.* or 'vision\.encoder\.layers"):
        bind(pair("layers.0.q") | pair("layers.1.q"), same)


@pytest.mark.parametrize("name", ["style", "0", "weight_2", "weight"])
def test_a_raw_state_dict_has_the_adapters_name_in_it(name: str) -> None:
    plain = pair("model.layers.0.q") | pair("model.layers.1.q")
    names = {key.replace(".weight", f".{name}.weight"): value for key, value in plain.items()}
    if name == "weight":  # PEFT lets no module be called as a parameter of another
        with raises("M207"):
            bind(names)
        return
    found = [change.target for change in bind(names)]
    assert found == [change.target for change in bind(plain)]


def test_a_raw_state_dict_of_several_adapters_is_told() -> None:
    names = {
        key.replace(".weight", f".{name}.weight"): value
        for key, value in pair("model.layers.0.q").items()
        for name in ("style", "tone")
    }
    with raises("M606", match=r"several adapters \(style, tone\)"):
        bind(names)
