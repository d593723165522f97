"""Which tokenizer, chat template and generation config a composition has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modpkg.compose.composition import Composition
from modpkg.compose.plan import plan
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Step
from tests.compose.helpers import LORA, PREFIX, base, module
from tests.raising import raises

WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
END = {"id": 5, "content": "<|im_end|>", "special": True}
TEMPLATE = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
Q = "model.layers.0.self_attn.q_proj"


def tokenizer(*added: dict[str, Any], **config: Any) -> dict[str, Any]:
    """Return a tokenizer's files, by path."""
    document = {
        "version": "1.0",
        "truncation": None,
        "added_tokens": list(added),
        "model": {"type": "BPE", "vocab": WORDS, "merges": []},
    }
    settings = {"bos_token": "<s>", "eos_token": "</s>", **config}
    return {"tokenizer.json": document, "tokenizer_config.json": settings}


DOCUMENT = tokenizer()["tokenizer.json"]
CHAT = {**tokenizer(END, eos_token="<|im_end|>"), "chat_template.jinja": TEMPLATE}


def with_files(owner: InstalledModule, files: dict[str, Any]) -> InstalledModule:
    folder = next(iter(owner.files.values())).parent
    for path, value in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(value if isinstance(value, str) else json.dumps(value))
        owner.files[path] = folder / path
    return owner


def a_base(folder: Path, files: dict[str, Any], **config: Any) -> InstalledModule:
    config = {"vocab_size": 8, "eos_token_id": 2, "bos_token_id": 1, **config}
    tensors = {f"{Q}.weight": torch.ones(4, 4), "model.embed_tokens.weight": torch.ones(8, 4)}
    return with_files(base(folder, tensors, **config), files)


def an_adapter(folder: Path, name: str, files: dict[str, Any]) -> InstalledModule:
    torch.manual_seed(len(name))
    tensors = {
        f"{PREFIX}{Q}.lora_A.weight": torch.randn(2, 4),
        f"{PREFIX}{Q}.lora_B.weight": torch.randn(4, 2),
    }
    made = module(folder, name, "adapter", tensors, adapter_config=LORA)
    return with_files(made, files)


def composed(
    *modules: InstalledModule, tokenizer: str | None = None, template: str | None = None
) -> Composition:
    steps = tuple(Step(op="lora", module=ModuleName(each.name)) for each in modules[1:])
    named = None if tokenizer is None else ModuleName(tokenizer)
    recipe = Compose(
        base=ModuleName(modules[0].name), steps=steps, tokenizer=named, chat_template=template
    )
    return plan("m", "1", recipe, {each.name: each for each in modules})


def owners(composition: Composition) -> dict[str, str]:
    return {path: file.parent.name for path, file in composition.files.items()}


def test_the_adapters_own_tokenizer_is_used_and_told(tmp_path: Path) -> None:
    old = {**tokenizer(), "special_tokens_map.json": {}, "chat_template.jinja": "old"}
    result = composed(a_base(tmp_path, old), an_adapter(tmp_path, "ad", CHAT))
    assert owners(result) == dict.fromkeys(CHAT, "ad")
    assert result.notes == ("m has the tokenizer of ad, which differs from base's.",)
    assert result.config["eos_token_id"] == 5
    assert result.documents["generation_config.json"]["eos_token_id"] == [5, 2]


def test_special_tokens_are_aligned_as_by_the_trainer(tmp_path: Path) -> None:
    """transformers' own function is the judge."""
    from transformers import GenerationConfig, LlamaConfig
    from transformers.trainer_utils import align_special_tokens

    class Tokenizer:
        eos_token_id, bos_token_id, pad_token_id = 5, 1, 4

    for number, (eos, generation) in enumerate(
        [
            (2, {"eos_token_id": 2}),
            ([2, 3], {"eos_token_id": [3, 2], "pad_token_id": 0, "temperature": 0.5}),
            (5, {"eos_token_id": 5, "bos_token_id": 1}),
            (None, {"bos_token_id": 0}),
        ]
    ):

        class Model:
            config = LlamaConfig(vocab_size=8, bos_token_id=1, eos_token_id=eos)
            generation_config = GenerationConfig(**generation)

        align_special_tokens(Model, Tokenizer())  # not a ProcessorMixin
        folder = tmp_path / str(number)
        files = {**tokenizer(), "generation_config.json": generation}
        own = an_adapter(folder, "ad", {**tokenizer(END, eos_token="<|im_end|>", pad_token="b")})
        result = composed(a_base(folder, files, eos_token_id=eos), own)
        document = result.documents.get("generation_config.json", generation)
        for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
            assert document.get(key) == getattr(Model.generation_config, key), (key, generation)
            assert result.config.get(key) == getattr(Model.config, key), (key, generation)
        assert document.get("temperature") == generation.get("temperature")


@pytest.mark.parametrize(
    "same",
    [
        tokenizer(),
        {
            **tokenizer(),
            "tokenizer.json": {**tokenizer()["tokenizer.json"], "truncation": {"n": 4}},
        },
        tokenizer(
            pad_token="</s>", padding_side="left", model_max_length=10, added_tokens_decoder={}
        ),
        tokenizer(eos_token={"content": "</s>", "lstrip": False, "__type": "AddedToken"}),
    ],
)
def test_an_equal_tokenizer_changes_nothing(tmp_path: Path, same: dict[str, Any]) -> None:
    result = composed(a_base(tmp_path, tokenizer()), an_adapter(tmp_path, "ad", same))
    assert set(owners(result).values()) == {"base"}
    assert (result.notes, result.documents) == ((), {})


def test_a_template_alone_is_put_beside_the_bases_tokenizer(tmp_path: Path) -> None:
    own = an_adapter(tmp_path, "ad", {"chat_template.jinja": TEMPLATE})
    result = composed(a_base(tmp_path, tokenizer(chat_template="old")), own)
    assert owners(result)["chat_template.jinja"] == "ad"
    assert owners(result)["tokenizer.json"] == "base"
    assert result.notes == ("m has the chat template of ad, which differs from base's.",)
    again = a_base(tmp_path / "2", tokenizer(chat_template=TEMPLATE))
    assert composed(again, own).notes == ()


def test_a_template_in_an_adapters_tokenizer_config_is_used(tmp_path: Path) -> None:
    own = an_adapter(
        tmp_path, "ad", {"tokenizer_config.json": {"chat_template": TEMPLATE, "eos_token": "x"}}
    )
    files = {**tokenizer(), "chat_template.jinja": "old"}
    result = composed(a_base(tmp_path, files), own)
    assert set(owners(result).values()) == {"base"}
    assert "chat_template.jinja" not in result.files  # transformers would prefer it
    settings = {**files["tokenizer_config.json"], "chat_template": TEMPLATE}
    assert result.documents == {"tokenizer_config.json": settings}
    assert "ad has other tokens than base (eos_token)" in result.notes[0]
    assert result.notes[1:] == ("m has the chat template of ad, which differs from base's.",)
    same = composed(a_base(tmp_path / "2", {**files, "chat_template.jinja": TEMPLATE}), own)
    assert (same.notes, same.documents) == (result.notes[:1], {})


def test_a_generation_config_of_an_adapter_is_used(tmp_path: Path) -> None:
    own = an_adapter(tmp_path, "ad", {"generation_config.json": {"eos_token_id": [2, 3]}})
    result = composed(a_base(tmp_path, tokenizer()), own)
    assert owners(result)["generation_config.json"] == "ad"
    assert result.notes == ("m has the generation config of ad, which differs from base's.",)


@pytest.mark.parametrize("folder", ["1_Pooling", "pool", "modules/pooling-2"])
def test_the_sentence_modules_of_an_adapter_are_used(folder: str, tmp_path: Path) -> None:
    def files(mode: str, folder: str = folder) -> dict[str, Any]:
        kinds = {"": "Transformer", folder: "Pooling"}
        return {
            "modules.json": [
                {"name": path, "path": path, "type": f"sentence_transformers.models.{kind}"}
                for path, kind in kinds.items()
            ],
            f"{folder}/config.json": {"pooling_mode": mode},
            "config_sentence_transformers.json": {"prompts": {"query": mode}},
        }

    own = an_adapter(tmp_path, "ad", files("cls"))
    plain = composed(a_base(tmp_path, tokenizer()), own)
    assert owners(plain)["modules.json"] == "ad"
    assert f"{folder}/config.json" in plain.files
    told = "m has the sentence-transformers modules of ad, which differs from base's."
    assert plain.notes == (told,)
    same = composed(a_base(tmp_path / "2", files("cls")), own)
    assert (owners(same)["modules.json"], same.notes) == ("base", ())
    other = composed(a_base(tmp_path / "3", files("mean", "old")), own)
    assert other.notes == (told,)
    assert "old/config.json" not in other.files


def test_modules_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    for path in ("../up", "/etc", "a/../../b"):
        entry = {"name": "0", "path": path, "type": "sentence_transformers.models.Pooling"}
        own = an_adapter(tmp_path / path.replace("/", "-"), "ad", {"modules.json": [entry]})
        with raises("M105"):
            composed(a_base(tmp_path / path.replace("/", "_"), tokenizer()), own)


def test_a_base_alone_needs_none_of_its_text_files_to_be_planned(tmp_path: Path) -> None:
    lone = a_base(tmp_path, {**tokenizer(), "modules.json": []})
    for path in ("tokenizer.json", "tokenizer_config.json", "modules.json"):
        lone.files[path].unlink()  # as before they are fetched
    assert set(composed(lone, an_adapter(tmp_path, "ad", {})).files) >= {"modules.json"}


def test_two_tokenizers_are_refused_and_the_recipe_may_name_one(tmp_path: Path) -> None:
    other = tokenizer({**END, "content": "<|end|>"})
    modules = [
        a_base(tmp_path, tokenizer()),
        an_adapter(tmp_path, "one", CHAT),
        an_adapter(tmp_path, "other", other),
    ]
    with raises("M617", match='one and other were trained with a different tokenizer.*= "other"'):
        composed(*modules)
    assert owners(composed(*modules, tokenizer="one"))["tokenizer.json"] == "one"
    assert "chat_template.jinja" not in owners(composed(*modules, tokenizer="other"))
    plain = composed(*modules, tokenizer="base")
    assert (owners(plain)["tokenizer.json"], plain.config["eos_token_id"]) == ("base", 2)
    twice = an_adapter(tmp_path, "twice", CHAT)
    assert owners(composed(modules[0], modules[1], twice))["tokenizer.json"] == "one"
    none = an_adapter(tmp_path, "none", {})
    assert owners(composed(modules[0], none, modules[1]))["tokenizer.json"] == "one"
    with raises("M601", match="takes the tokenizer of none, which has none"):
        composed(modules[0], none, tokenizer="none")


def test_a_token_without_a_row_is_told(tmp_path: Path) -> None:
    files = tokenizer({**END, "id": 8})
    own = an_adapter(tmp_path, "ad", files)
    with raises("M616", match="'<|im_end|>' has number 8, and the embedding has 8 rows"):
        composed(a_base(tmp_path, tokenizer()), own)
    composed(a_base(tmp_path, tokenizer()), own, tokenizer="base")
    beyond = tokenizer({**END, "id": 8}, unk_token="<unk>")
    composed(a_base(tmp_path / "2", beyond), own)  # the base's has it too


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"added_tokens.json": {"<|im_end|>": 5}}, "<|im_end|>"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"5": END}}}, "<|im_end|>"),
        ({"special_tokens_map.json": {"eos_token": {"content": "b"}}}, "eos_token"),
        ({"special_tokens_map.json": {"eos_token": "</s>", "pad_token": "</s>"}}, None),
        ({"added_tokens.json": {"b": 4}, "tokenizer_config.json": {"bos_token": "<s>"}}, None),
    ],
)
def test_a_part_of_a_tokenizer_is_not_used_and_told(
    files: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    ground = a_base(tmp_path / "base", tokenizer())
    made = composed(ground, an_adapter(tmp_path / "lora", "lora", files))
    assert made.files["tokenizer.json"] == ground.files["tokenizer.json"]
    if said is None:
        assert not made.notes
    else:
        assert f"lora has other tokens than base ({said})" in made.notes[0]


def test_an_adapters_other_processor_is_told(tmp_path: Path) -> None:
    ground = a_base(tmp_path / "base", {**tokenizer(), "processor_config.json": {"size": 4}})
    own = an_adapter(tmp_path / "lora", "lora", {"processor_config.json": {"size": 8}})
    assert composed(ground, own).notes == (
        "lora has another processor_config.json than base, whose is used.",
    )
    same = an_adapter(tmp_path / "same", "same", {"processor_config.json": {"size": 4}})
    assert not composed(ground, same).notes


def test_a_fine_tunes_other_tokenizer_is_told(tmp_path: Path) -> None:
    values = {f"{Q}.weight": torch.zeros(4, 4), "model.embed_tokens.weight": torch.ones(8, 4)}
    tuned = module(tmp_path, "tuned", "base", values, config={})
    one = with_files(tuned, CHAT)
    start = a_base(tmp_path, tokenizer())
    step = Step(op="dense", module=ModuleName("tuned"))
    recipe = Compose(base=ModuleName("base"), steps=(step,))
    result = plan("m", "1", recipe, {"base": start, "tuned": one})
    assert owners(result)["tokenizer.json"] == "base"
    assert 'write tokenizer = "tuned"' in result.notes[0]
    two = with_files(module(tmp_path, "two", "base", values, config={}), CHAT)
    recipe = Compose(
        base=ModuleName("base"), steps=(step, Step(op="dense", module=ModuleName("two")))
    )
    result = plan("m", "1", recipe, {"base": start, "tuned": one, "two": two})
    assert len(result.notes) == 1
    assert "tuned, two have another tokenizer" in result.notes[0]


@pytest.mark.parametrize(
    "broken",
    [
        {"tokenizer.json": {"model": {"vocab": [1, [2], ["a", 0.5]]}, "added_tokens": 7}},
        {"tokenizer.json": {"model": [], "added_tokens": [None, {"id": "x", "content": 3}]}},
        {
            "tokenizer.json": {},
            "tokenizer_config.json": {"eos_token": [1], "added_tokens_decoder": 3},
        },
        {"tokenizer.json": {}, "special_tokens_map.json": {"eos_token": {"content": 5}}},
        {"vocab.json": {"a": "b"}, "tokenizer_config.json": {"added_tokens_decoder": {"²": 1}}},
    ],
)
def test_a_malformed_tokenizer_is_no_traceback(tmp_path: Path, broken: dict[str, Any]) -> None:
    composed(a_base(tmp_path, tokenizer()), an_adapter(tmp_path, "ad", broken))
    composed(a_base(tmp_path / "2", broken), an_adapter(tmp_path / "2", "ad", CHAT))


def test_a_recipe_may_name_a_chat_template(tmp_path: Path) -> None:
    files = {**CHAT, "additional_chat_templates/tool.jinja": "x"}
    found = composed(a_base(tmp_path, files), template=TEMPLATE + "new")
    assert found.documents["tokenizer_config.json"]["chat_template"] == TEMPLATE + "new"
    assert found.documents["tokenizer_config.json"]["eos_token"] == "<|im_end|>"
    assert found.files.keys() & {*files} == {"tokenizer.json", "tokenizer_config.json"}
    with raises("M601", match="no tokenizer"):
        composed(a_base(tmp_path / "bare", {}), template=TEMPLATE)


@pytest.mark.parametrize(
    ("templates", "wanted"),
    [
        (["one", "two", "two"], "two"),
        (["one", "two", None], "one"),
        ([None, "two", "one"], "two"),
        ([None, None, None], None),
        ([[{"name": "tool", "template": "x"}, {"name": "default", "template": "two"}], None, None],
         "two"),
    ],
)  # fmt: skip
def test_the_chat_template_that_most_modules_have(
    tmp_path: Path, templates: list[Any], wanted: str | None
) -> None:
    def files(template: Any) -> dict[str, Any]:
        return tokenizer(**({} if template is None else {"chat_template": template}))

    first, *others = templates
    named = zip(("one", "two"), others, strict=True)
    adapters = [an_adapter(tmp_path, name, files(template)) for name, template in named]
    made = a_base(tmp_path, files(first))
    found = composed(made, *adapters, template="auto", tokenizer="base")
    settings = found.documents.get("tokenizer_config.json", {})
    assert settings.get("chat_template") == wanted
