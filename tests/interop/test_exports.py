"""What other tools open: exports of a small model, read back by those tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import modpkg as package
from modpkg.compose.executor import compose
from modpkg.interop.peft import export_peft
from tests import tiny
from tests.command import modpkg, modpkg_json, refused
from tests.compose.helpers import module, of_folder, values
from tests.compose.oracle import applied, save_adapter, shake
from tests.compose.test_peft_methods import Linear
from tests.raising import raises

IDS = torch.tensor([[1, 5, 9, 3]])


@pytest.fixture
def talker(home: Path, tmp_path: Path) -> Path:
    """An app with talker 2.0 and an assembly of half its adapter; returns the projects."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    step = '{ op = "lora", module = "tiny-lora", scale = 0.5 }'
    Path("modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\ntalker = "*"\ntiny = "*"\ntiny-lora = "*"\n'
        f'[models.half]\nbase = "tiny"\nsteps = [{step}]\n'
    )
    modpkg("install")
    return tmp_path / "projects"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["talker", "half"])
def test_an_exported_adapter_on_the_exported_base_is_the_model(talker: Path, model: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    modpkg("export", "tiny", "base")
    modpkg("export", model, "--to", "peft", "adapter")
    base = AutoModelForCausalLM.from_pretrained("base")
    merged = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
    with torch.inference_mode():
        expected, got = merged(IDS).logits, package.load(model)(IDS).logits
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_an_exported_adapter_equals_its_release(talker: Path) -> None:
    assert set(modpkg_json("export", "tiny-lora", "adapter", "--to", "peft")["files"]) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    original = talker / "lora-2"
    assert json.loads(Path("adapter/adapter_config.json").read_text()) == tiny.ADAPTER_CONFIG
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (Path("adapter"), original)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_exporting_and_importing_again_is_the_identity(talker: Path) -> None:
    modpkg("export", "talker", "--to", "hf", "out")
    modpkg("import", "hf", "out", "--name", "fused", "--license", "MIT", "--version", "3.0")
    modpkg("build", "fused")
    modpkg("publish", "fused")
    assert " tensors  20 same" in modpkg("diff", "fused==3.0", "talker").stdout

    modpkg("export", "talker", "--to", "safetensors", "plain")
    assert [path.name for path in Path("plain").iterdir()] == ["model.safetensors"]
    file = "plain/model.safetensors"
    modpkg("import", "safetensors", file, "--name", "bare", "--license", "MIT")
    modpkg("build", "bare")
    modpkg("publish", "bare")
    assert " tensors  20 same" in modpkg("diff", "bare==1.0.0", "talker").stdout


def test_a_path_is_a_directory_that_transformers_opens(talker: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = package.path("talker")
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, package.load("talker")(IDS).logits)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert package.path("talker") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("tiny", "--to", "peft"), "it is a base without an adapter"),
        (("talker", "--to", "sentence-transformers"), "its task is 'text-generation'"),
        (("tiny", "--to", "sentence-transformers"), "its architecture 'LlamaForCausalLM'"),
        (("nothing", "--to", "peft"), "'nothing' is not installed"),
    ],
)
def test_an_export_that_is_not_possible_is_refused(
    talker: Path, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in refused("export", *arguments, "out")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "IA3"}, "alpha does not scale what IA3 does"),
        ({"peft_type": "LORA", "bias": "all"}, "alpha does not scale its biases"),
        ({"peft_type": "LORA", "use_dora": True}, "alpha does not scale its use_dora"),
        ({"peft_type": "LORA", "modules_to_save": ["head"]}, "not scale its modules_to_save"),
    ],
)
def test_an_adapter_that_alpha_does_not_scale_is_refused(
    tmp_path: Path, config: dict[str, object], sentence: str
) -> None:
    made = module(tmp_path, "lora", "adapter", {"w": torch.ones(2)}, adapter_config=config)
    with raises("M805", match=sentence):
        export_peft(made, tmp_path / "out", scale=0.5)
    assert not (tmp_path / "out").exists()


def test_only_a_safetensors_file_is_imported_plain(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    assert "it is not a .safetensors file" in refused(
        "import", "safetensors", tmp_path / "model.bin"
    )


def test_an_import_is_a_copy(talker: Path) -> None:
    """Editing it in place leaves the source as it was."""
    modpkg("export", "talker", "out")
    weights = Path("out/model.safetensors")
    before = weights.read_bytes()
    modpkg("import", "hf", "out", "--name", "mine", "--license", "MIT")
    with open("mine/model.safetensors", "r+b") as file:
        file.write(b"\xff" * 8)
    assert weights.read_bytes() == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", ["none", "all"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_exported_adapter_of_parameters_is_what_was_composed(
    bias: str, scale: float, tmp_path: Path
) -> None:
    """Patterns by the parameter's path, a square weight, and a scale: PEFT agrees on all of it."""
    torch.manual_seed(3)
    state = {name: value.clone() for name, value in Linear().state_dict().items()}
    (tmp_path / "base").mkdir()
    save_file(state, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}')

    def fresh() -> Any:
        model = Linear().eval()
        model.load_state_dict(state)
        return model

    wrapped = peft.get_peft_model(
        fresh(),
        peft.LoraConfig(
            r=3,
            lora_alpha=5,
            init_lora_weights=False,
            target_modules=["last"],
            target_parameters=["first.weight", "square.weight"],
            alpha_pattern={"first.weight": 9, "square": 7, "last": 2},
            rank_pattern={"square.weight": 2},
            bias=bias,
        ),
    )
    shake(wrapped)
    save_adapter(wrapped, tmp_path)
    module = of_folder(tmp_path / "adapter", "adapter", "adapter")
    if bias == "all" and scale != 1.0:
        with raises("M805", match="does not scale its biases"):
            export_peft(module, tmp_path / "out", scale=scale)
        return
    export_peft(module, tmp_path / "out", scale=scale)
    again = peft.PeftModel.from_pretrained(fresh(), tmp_path / "out").merge_and_unload()
    composed = compose(applied(tmp_path, scale=scale), tmp_path / "store", threads=1)
    wanted = again.state_dict()
    for name, value in values(composed.tensors).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6)
