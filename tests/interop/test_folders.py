"""Folders as trainers, hubs and editors leave them: what is taken, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modpkg.core.packs import read_pack_header
from modpkg.interop.architecture_fit import check_project
from modpkg.interop.hf import import_hf
from modpkg.interop.peft import import_peft
from modpkg.manifest.read import read_manifest
from modpkg.runtime import loading_report
from tests import tiny
from tests.raising import raises
from tests.runtime.helpers import bert, llama
from tests.tiny import ADAPTER_CONFIG, CONFIG, adapter_weights, base_weights

PREFIX = "model.layers.0.self_attn.q_proj"


def base(folder: Path, **config: Any) -> Path:
    """Write a model as transformers saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "model.safetensors").write_bytes(base_weights())
    return folder


def adapter(folder: Path, seed: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG))
    (folder / "adapter_model.safetensors").write_bytes(adapter_weights(seed))
    return folder


def taken(source: Path, out: Path, **options: Any) -> tuple[list[str], str]:
    """Import a base; return the paths of its project's files, and the warnings."""
    warnings = import_hf(source, out, "m", "1.0", license="MIT", **options)
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    return sorted(set(files) - {"modpkg.toml"}), "\n".join(warnings)


def test_only_the_models_own_files_are_taken(tmp_path: Path) -> None:
    source = base(tmp_path / "source")
    adapter(source)
    adapter(source / "style")
    base(source / "original")
    for left in (
        "consolidated.safetensors",
        "checkpoint-5/optimizer.bin",
        "onnx/model.onnx",
        "trainer_state.json",
        "pytorch_model.bin",
        "run.py",
    ):
        (source / left).parent.mkdir(exist_ok=True)
        (source / left).write_bytes(b"x")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "a.jinja").write_text("{{ x }}")
    files, warnings = taken(source, tmp_path / "out")
    assert files == ["additional_chat_templates/a.jinja", "config.json", "model.safetensors"]
    for said in ("adapter_model.safetensors", "style/", "original/", "consolidated", "onnx/"):
        assert said in warnings
    for said in ("checkpoint-5/", "trainer_state.json", "pytorch_model.bin", "run.py"):
        assert said in warnings


def test_an_adapter_is_its_own_file_and_each_of_several_is_one(tmp_path: Path) -> None:
    source = adapter(tmp_path / "source")
    adapter(source / "style", seed=2)
    base(source / "checkpoint-2")
    (source / "model.safetensors").write_bytes(base_weights())
    warnings = import_peft(source, tmp_path / "a", "a", "1.0", base="b", license="MIT")
    assert sorted(p.name for p in (tmp_path / "a").rglob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    assert "style/" in "\n".join(warnings)
    assert "model.safetensors" in "\n".join(warnings)
    import_peft(source / "style", tmp_path / "s", "s", "1.0", base="b", license="MIT")
    own = (tmp_path / "s" / "adapter_model.safetensors").read_bytes()
    assert own == adapter_weights(2)
    (source / "adapter_config.json").unlink()
    with raises("M801", match="holds style; import each"):
        import_peft(source, tmp_path / "n", "n", "1.0", base="b")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((), "no config.json"),
        (("config.json",), r"no \*\.safetensors"),
        (("config.json", "pytorch_model.bin"), "pickles"),
        (("config.json", "tf_model.h5"), r"of a format that is not imported \(tf_model.h5\)"),
        (("config.json", "m.gguf"), "'modpkg import gguf' takes its m.gguf"),
        (("m.gguf",), "no config.json; 'modpkg import gguf' takes its m.gguf"),
        (("config.json", "consolidated.safetensors"), "not known whether"),
        (("adapter_config.json",), "it is an adapter"),
        (("config.json", "adapter_config.json"), "adapter's files only"),
        (("text/config.json",), "its folders text have one"),
        (("snapshots/4f/config.json",), "a hub's cache; import snapshots/4f"),
    ],
)
def test_a_folder_that_is_no_model(files: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in files:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text("{}")
    with raises("M801", match=reason):
        taken(source, tmp_path / "out")


def test_an_adapter_of_sentence_transformers_has_its_modules(tmp_path: Path) -> None:
    """As ``SentenceTransformer.add_adapter(...)`` and then ``save()`` write it."""
    source = adapter(tmp_path / "source")
    names = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(names.items())
    ]
    (source / "modules.json").write_text(json.dumps(modules))
    for part in ("1_Pooling", "2_Normalize", "checkpoint-5"):
        (source / part).mkdir()
        (source / part / "config.json").write_text("{}")
    warnings = import_peft(source, tmp_path / "a", "a", "1.0", base="b", license="MIT")
    assert warnings == ["left out: checkpoint-5/ (another model, or a checkpoint of training)"]
    assert (tmp_path / "a/1_Pooling/config.json").exists()
    assert (tmp_path / "a/2_Normalize/config.json").exists()

    save_file({"linear.weight": torch.ones(2, 2)}, source / "2_Normalize/model.safetensors")
    with raises("M801", match="its 2_Normalize has weights.*take modules.json away"):
        import_peft(source, tmp_path / "n", "n", "1.0", base="b", license="MIT")
    (source / "modules.json").unlink()
    import_peft(source, tmp_path / "n", "n", "1.0", base="b", license="MIT")
    assert not (tmp_path / "n/1_Pooling").exists()


def test_json_with_a_byte_order_mark_is_read_and_written_without(tmp_path: Path) -> None:
    source = base(tmp_path / "source")
    text = (source / "config.json").read_bytes()
    (source / "config.json").write_bytes(b"\xef\xbb\xbf" + text)
    taken(source, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == text


def test_code_beside_a_native_architecture_is_left_out(tmp_path: Path) -> None:
    auto = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    source = base(tmp_path / "source", auto_map=auto)
    (source / "tokenizer_config.json").write_text(
        json.dumps(
            {"auto_map": {"AutoTokenizer": ["x.T", None]}, "tokenizer_class": "LlamaTokenizer"}
        )
    )
    _, warnings = taken(source, tmp_path / "out")
    assert "LlamaForCausalLM of transformers itself" in warnings
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG
    kept = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert kept == {"tokenizer_class": "LlamaTokenizer"}


def test_code_that_a_part_of_a_native_config_names_is_left_out(tmp_path: Path) -> None:
    part = {"auto_map": {"AutoModel": "a.B"}, "rope_theta": 10000.0}
    source = base(tmp_path / "source", rope_parameters={**part, "rope_type": "default"})
    _, warnings = taken(source, tmp_path / "out")
    assert "LlamaForCausalLM of transformers itself" in warnings
    kept = json.loads((tmp_path / "out" / "config.json").read_text())
    assert kept["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}


def test_a_kernel_is_refused_at_import(tmp_path: Path) -> None:
    source = base(tmp_path / "source", _attn_implementation="someone/kernel")
    with raises("M707", match="kernel"):
        taken(source, tmp_path / "out")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mine"},
        {"architectures": ["MineForCausalLM"]},
        {"architectures": ["BertModel"]},
        {"architectures": None},
    ],
)
def test_code_of_another_architecture_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    source = base(tmp_path / "source", auto_map={"AutoModel": "a.B"}, **config)
    with raises("M707", match="auto_map"):
        taken(source, tmp_path / "out")


def test_a_tokenizer_of_custom_code_is_refused(tmp_path: Path) -> None:
    source = base(tmp_path / "source")
    named = {"auto_map": {"AutoTokenizer": ["x.T", None]}, "tokenizer_class": "KimiTokenizer"}
    (source / "tokenizer_config.json").write_text(json.dumps(named))
    with raises("M707", match="tokenizer_config"):
        taken(source, tmp_path / "out")


def edited(source: Path, **changes: Any) -> None:
    """Change tensors of a saved model; None removes one."""
    table = load_file(source / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            table = {key: value for key, value in table.items() if key != name}
        else:
            table[name] = tensor
    save_file(table, source / "model.safetensors")


@pytest.mark.parametrize("kind", [llama, bert])
def test_weights_are_compared_with_the_architecture(kind: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    kind().save_pretrained(source)
    first = min(load_file(source / "model.safetensors"))
    edited(source, extra=torch.zeros(2))
    _, warnings = taken(source, tmp_path / "out")
    assert "left out: extra (" in warnings
    held = read_pack_header(tmp_path / "out" / "model.safetensors")
    assert "extra" not in held
    assert check_project(read_manifest(tmp_path / "out" / "modpkg.toml")) is None
    edited(source, **{first: torch.zeros(3, 3)})
    with raises("M216", match=r"another shape for .*\[3, 3\] instead of"):
        taken(source, tmp_path / "two")
    edited(source, **{first: None})
    with raises("M216", match="has no value for"):
        taken(source, tmp_path / "two")


@pytest.mark.parametrize("value", ["awq", [1]], ids=str)
def test_a_quantization_config_that_is_no_object_is_told(value: Any, tmp_path: Path) -> None:
    source = base(tmp_path / "source", quantization_config=value)
    with raises("M704", match="quantization_config of config.json is not an object"):
        taken(source, tmp_path / "out")


def test_codes_without_a_quantization_config_are_told(tmp_path: Path) -> None:
    source = base(tmp_path / "source")
    codes = torch.zeros(1, 4, dtype=torch.int32)
    edited(source, **{f"{PREFIX}.weight": None, f"{PREFIX}.qweight": codes})
    assert "the weights are quantised (AWQ or GPTQ)" in taken(source, tmp_path / "out")[1]


FORMS = {
    "MLX": {"weight": torch.zeros(4, 2, dtype=torch.uint32), "scales": torch.ones(4, 1)},
    "EXL2": {"q_weight": torch.zeros(2, 4, dtype=torch.int32), "q_invperm": torch.zeros(4)},
    "EXL3": {"trellis": torch.zeros(2, 2, 4, dtype=torch.int16), "suh": torch.zeros(4)},
    "Marlin": {"B": torch.zeros(2, 4, dtype=torch.int32), "workspace": torch.zeros(4)},
    "torchao": {"_weight_qdata": torch.zeros(4, 4, dtype=torch.int8)},
    "compressed-tensors, sparse": {"compressed": torch.zeros(4), "bitmask": torch.zeros(4, 1)},
    "integers": {"weight": torch.zeros(8, 8, dtype=torch.int8)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_codes_is_told_by_its_name(form: str, tmp_path: Path) -> None:
    """It is not taken for a damaged model."""
    source = base(tmp_path / "source", quantization={"bits": 4})
    edited(
        source,
        **{f"{PREFIX}.weight": None} | {f"{PREFIX}.{k}": each for k, each in FORMS[form].items()},
    )
    assert f"the weights are quantised ({form})" in taken(source, tmp_path / "out")[1]


def test_tied_tensors_that_differ_are_told(tmp_path: Path) -> None:
    """transformers unties them, whatever the config says."""
    source = base(tmp_path / "source", tie_word_embeddings=True)
    embedding = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    edited(source, **{"lm_head.weight": embedding.clone()})
    taken(source, tmp_path / "one")
    edited(source, **{"lm_head.weight": embedding + 1})
    with raises(
        "M216", match=r"makes 'lm_head.weight' and 'model.embed_tokens.weight' one.*differ"
    ):
        taken(source, tmp_path / "two")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    taken(source, tmp_path / "three")
    with raises("M216", match="they differ"):
        project = tmp_path / "three"
        (project / "config.json").write_text(json.dumps(config))
        check_project(read_manifest(project / "modpkg.toml"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": "mistral"},
            "LlamaForCausalLM in architectures and 'mistral' in model_type",
        ),
        ({"dtype": "bfloat16"}, None),
        ({"model_type": "unheard"}, None),
    ],
)
def test_where_transformers_would_run_it_otherwise_is_told(
    changes: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    warnings = taken(base(tmp_path / "source", **changes), tmp_path / "out")[1]
    assert said in warnings if said is not None else not warnings


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("file", "code"), [("model.safetensors", "M201"), ("tokenizer.json", "M206")]
)
def test_a_pointer_of_git_is_told(file: str, code: str, tmp_path: Path) -> None:
    source = base(tmp_path / "source")
    (source / file).write_bytes(POINTER)
    with raises(code, match="'git lfs pull' fetches"):
        taken(source, tmp_path / "out")


def sharded(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write a model of two shards; return its folder and the map of its index."""
    source = base(folder)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    table = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, source / shard)
        table |= dict.fromkeys(names, shard)
    write_index(source, table)
    return source, table


def write_index(source: Path, table: dict[str, str]) -> None:
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_a_tensor_is_in_one_shard_whichever_the_index_names(tmp_path: Path) -> None:
    source, table = sharded(tmp_path / "source")
    first, last = min(table), max(table)
    write_index(source, table | {first: table[last], last: table[first]})
    files, _ = taken(source, tmp_path / "out")
    held = {n for f in files if "model-" in f for n in read_pack_header(tmp_path / "out" / f)}
    assert held == table.keys()
    own = load_file(source / table[last])
    save_file(own | {first: torch.zeros(2)}, source / table[last])
    with raises("M205", match=first):
        taken(source, tmp_path / "two")


def test_shards_in_a_folder_are_refused(tmp_path: Path) -> None:
    source, table = sharded(tmp_path / "source")
    (source / "w").mkdir()
    for shard in set(table.values()):
        (source / shard).rename(source / "w" / shard)
    write_index(source, {name: f"w/{shard}" for name, shard in table.items()})
    with raises("M801", match="in a folder; move it beside the index"):
        taken(source, tmp_path / "out")


def test_a_build_by_hand_is_compared_too(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tiny.write_base(tmp_path / "tiny")
    manifest = read_manifest(project / "modpkg.toml")
    assert check_project(manifest) is None
    with monkeypatch.context() as patched:  # what it depends on is the same: it is remembered
        patched.setattr(loading_report, "report_or_reason", None)
        assert check_project(manifest) is None
    edited(project, extra=torch.zeros(2))
    for _ in range(2):
        with raises("M216", match="does not have extra"):
            check_project(manifest)
    edited(project, extra=None, **{f"{PREFIX}.weight": None})
    with raises("M216", match="has no value for"):
        check_project(manifest)
    (project / "config.json").write_text(json.dumps({**CONFIG, "architectures": ["Unknown"]}))
    assert "no architecture 'Unknown'" in str(check_project(manifest))


VALUES: list[Any] = [None, True, -1, 10**9, 1.5, "x", [], [None], {}, {"a": {}}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_no_value_of_a_config_ends_in_a_traceback(value: Any, tmp_path: Path) -> None:
    """Every key in turn has a value of another type: the folder is imported, or refused."""
    for number, key in enumerate(CONFIG):
        source = base(tmp_path / f"source-{number}", **{key: value})
        refused_or(lambda at=source: taken(at, at.parent / f"out-{at.name}"))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "index"])
def test_no_truncated_file_ends_in_a_traceback(file: str, tmp_path: Path) -> None:
    source = base(tmp_path / "source")
    if file == "index":
        file = "model.safetensors.index.json"
        table = dict.fromkeys(read_pack_header(source / "model.safetensors"), "model.safetensors")
        (source / file).write_text(json.dumps({"weight_map": table}))
    whole = (source / file).read_bytes()
    for tenth in range(10):
        (source / file).write_bytes(whole[: len(whole) * tenth // 10])
        assert refused_or(lambda at=tenth: taken(source, tmp_path / f"out-{at}"))


def refused_or(attempt: Any) -> bool:
    """Run an import; return whether it is refused with an error for people."""
    from modpkg.core.errors import ModpkgError

    try:
        attempt()
    except ModpkgError:
        return True
    return False
