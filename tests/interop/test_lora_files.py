"""LoRA files of kohya, LyCORIS and diffusers: what is composed is what these tools compute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from modpkg.cli.import_ import import_command
from modpkg.compose.executor import compose
from modpkg.core.errors import ModpkgError
from modpkg.core.names import ModuleName
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.interop.hf import import_hf
from modpkg.interop.module_names import UnknownModules, paths_of
from modpkg.interop.peft import import_peft
from modpkg.manifest.schema import Step
from tests import modules, tiny
from tests.compose.helpers import of_folder, planned, values
from tests.raising import raises

Tensors = dict[str, torch.Tensor]

SHAPES = {
    "conv_in": (8, 6, 3, 3),
    "proj_in": (12, 8, 1, 1),
    "time_conv": (12, 8, 3),
    "mid.to_q": (16, 12),
    "mid.to_out.0": (12, 16),
    "mid.to_q_extra": (4, 6),
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


NET = {f"{path}.weight": random(*shape) for path, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    project = modules.write_module(folder / "net", "net", kind="base")
    save_file(NET, project / "model.safetensors")
    modules.publish(project, folder / "registry")
    return folder / "registry"


def taken(
    source: Path, registry: Path | None, out: Path, part: str | None = None, base: str = "net"
) -> list[str]:
    workspace = Workspace(options=RegistryOptions(str(registry))) if registry else None
    return import_peft(
        source, out, "ad", "1.0", base=base, license="MIT", part=part, workspace=workspace
    )


def composed(tensors: Tensors, registry: Path | None, folder: Path, **options: Any) -> Tensors:
    """Return what importing a file and composing it makes of the base."""
    part = options.pop("part", None)
    save_file(tensors, folder / "style.safetensors", metadata=options)
    taken(folder / "style.safetensors", registry, folder / "out", part)
    (folder / "base").mkdir()
    save_file(NET, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text("{}")
    base, adapter = (
        of_folder(folder / "base", "net", "base"),
        of_folder(folder / "out", "ad", "adapter"),
    )
    config = json.loads((folder / "out" / "adapter_config.json").read_text())
    step = Step(op=config["peft_type"].lower(), module=ModuleName("ad"))
    plan = planned(base, adapter, steps=[step])
    return values(compose(plan, folder / "store", threads=1).tensors)


def check(result: Mapping[str, torch.Tensor], deltas: Mapping[str, torch.Tensor]) -> None:
    """Check that each weight changed by this, and no other changed."""
    for name, before in NET.items():
        change = deltas.get(name.removesuffix(".weight"))
        wanted = before if change is None else before + change.reshape(before.shape)
        torch.testing.assert_close(result[name], wanted, rtol=1e-5, atol=1e-5)


def kohya(path: str, rank: int, alpha: float, prefix: str = "lora_unet_") -> tuple[Tensors, Any]:
    """Return a layer as sd-scripts' networks/lora.py saves it, and alpha / rank · up @ down."""
    shape = SHAPES[path]
    ones = [1] * (len(shape) - 2)
    down, up = random(rank, *shape[1:], seed=1), random(shape[0], rank, *ones, seed=2)
    name = prefix + path.replace(".", "_")
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(alpha),
    }
    return tensors, (alpha / rank) * up.flatten(1) @ down.flatten(1)


def test_loras_of_kohya(registry: Path, tmp_path: Path) -> None:
    tensors: Tensors = {}
    deltas = {}
    for path, rank, alpha in (
        ("conv_in", 3, 1.0),
        ("proj_in", 2, 2.0),
        ("time_conv", 2, 0.7),
        ("mid.to_q", 4, 1.0),
        ("mid.to_out.0", 4, 16.0),
        ("mid.to_q_extra", 1, 1.0),
    ):
        layer, deltas[path] = kohya(path, rank, alpha)
        tensors |= layer
    check(composed(tensors, registry, tmp_path), deltas)


@pytest.mark.parametrize("prefix", ["lora_te_", "lora_te3_", "lycoris_", "lora_transformer_"])
@pytest.mark.parametrize("root", ["", "net_", "the_net_"])
def test_prefixes_and_a_leading_part(
    prefix: str, root: str, registry: Path, tmp_path: Path
) -> None:
    tensors, delta = kohya("mid.to_out.0", 2, 1.0, prefix + root)
    check(composed(tensors, registry, tmp_path), {"mid.to_out.0": delta})


def test_a_matrix_for_a_convolution_and_the_reverse(registry: Path, tmp_path: Path) -> None:
    """sd-scripts/networks/merge_lora.py squeezes and unsqueezes both."""
    conv, one = kohya("proj_in", 2, 1.0)
    linear, other = kohya("mid.to_q", 2, 1.0)
    tensors = {key: t.flatten(1) if t.ndim else t for key, t in conv.items()}
    tensors |= {key: t[..., None, None] if t.ndim else t for key, t in linear.items()}
    check(composed(tensors, registry, tmp_path), {"proj_in": one, "mid.to_q": other})


def test_a_core_of_a_convolution(registry: Path, tmp_path: Path) -> None:
    """lycoris/functional/locon.py: Σ up[o, p] · mid[p, q, …] · down[q, i]."""
    up, mid, down = random(8, 3, 1, 1), random(3, 3, 3, 3), random(3, 6, 1, 1)
    name = "lora_unet_conv_in"
    tensors = {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_mid.weight": mid,
        f"{name}.lora_down.weight": down,
        f"{name}.alpha": torch.tensor(2.0),
    }
    product = torch.einsum("op,pqhw,qi->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    check(composed(tensors, registry, tmp_path), {"conv_in": 2 / 3 * product})


@pytest.mark.parametrize("path", ["mid.to_q", "conv_in"])
def test_dora_of_lycoris(path: str, registry: Path, tmp_path: Path) -> None:
    """lycoris/functional/general.py: (W + ΔW) · scale / ‖W + ΔW‖ by output."""
    tensors, delta = kohya(path, 2, 1.0, "lycoris_")
    before = NET[f"{path}.weight"]
    scale = random(before.shape[0], *(1 for _ in before.shape[1:])).abs()
    tensors[f"lycoris_{path.replace('.', '_')}.dora_scale"] = scale
    moved = before.flatten(1) + delta
    wanted = moved * scale.flatten(1) / moved.norm(dim=1, keepdim=True)
    check(composed(tensors, registry, tmp_path), {path: wanted - before.flatten(1)})


@pytest.mark.parametrize("cores", [False, True])
@pytest.mark.parametrize("path", ["mid.to_q", "conv_in", "time_conv"])
def test_loha_of_lycoris(path: str, cores: bool, registry: Path, tmp_path: Path) -> None:
    """lycoris/functional/loha.py: alpha / rank · (w1a w1b) ⊙ (w2a w2b), with cores by einsum."""
    out, inner, *kernel = SHAPES[path]
    if cores and not kernel:
        return
    name = f"lycoris_{path.replace('.', '_')}"
    tensors = {f"{name}.alpha": torch.tensor(1.0)}
    factors = []
    for n in (1, 2):
        if cores:
            a, b = random(3, out, seed=n), random(3, inner, seed=n)
            core = tensors[f"{name}.hada_t{n}"] = random(3, 3, *kernel, seed=n)
            factors.append(torch.einsum("ij...,jr,ip->pr...", core, b, a).flatten(1))
        else:
            count = torch.Size([inner, *kernel]).numel()
            a, b = random(out, 3, seed=n), random(3, count, seed=n)
            factors.append(a @ b)
        tensors |= {f"{name}.hada_w{n}_a": a, f"{name}.hada_w{n}_b": b}
    delta = 1 / 3 * factors[0] * factors[1]
    check(composed(tensors, registry, tmp_path), {path: delta})


@pytest.mark.parametrize("form", ["whole", "low rank", "both low rank", "core"])
@pytest.mark.parametrize("path", ["mid.to_q", "conv_in", "time_conv"])
def test_lokr_of_lycoris(path: str, form: str, registry: Path, tmp_path: Path) -> None:
    """lycoris/functional/lokr.py: alpha / rank · kron(w1, w2); the scale is 1 if both are whole."""
    out, inner, *kernel = SHAPES[path]
    if form == "core" and not kernel:
        return
    name = f"lycoris_{path.replace('.', '_')}"
    first = random(2, 2)
    second = random(out // 2, inner // 2, *kernel)
    tensors = {f"{name}.alpha": torch.tensor(9999.0 if form == "whole" else 3.0)}
    scale = 1.0 if form == "whole" else 1.5
    if form == "both low rank":
        a, b = random(2, 2, seed=3), random(2, 2, seed=4)
        tensors |= {f"{name}.lokr_w1_a": a, f"{name}.lokr_w1_b": b}
        first = a @ b
    else:
        tensors[f"{name}.lokr_w1"] = first
    if form == "whole":
        tensors[f"{name}.lokr_w2"] = second
    elif form == "core":
        a, b, core = random(2, out // 2), random(2, inner // 2), random(2, 2, *kernel)
        tensors |= {f"{name}.lokr_w2_a": a, f"{name}.lokr_w2_b": b, f"{name}.lokr_t2": core}
        second = torch.einsum("ij...,ip,jr->pr...", core, a, b).contiguous()
    else:
        a, b = random(out // 2, 2), random(2, second[0].numel())
        tensors |= {f"{name}.lokr_w2_a": a, f"{name}.lokr_w2_b": b}
        second = (a @ b).reshape(second.shape)
    delta = scale * torch.kron(first.reshape(2, 2, *(1 for _ in kernel)), second)
    check(composed(tensors, registry, tmp_path), {path: delta})


def test_the_part_is_chosen_and_the_rest_is_said(registry: Path, tmp_path: Path) -> None:
    one, delta = kohya("mid.to_q", 2, 1.0, "lora_te1_")
    other, _ = kohya("mid.to_out.0", 2, 1.0, "lora_te2_")
    file = tmp_path / "style.safetensors"
    save_file(one | other, file)
    with raises("M801", match=r"choose one by its part \(--part\): te1, te2"):
        taken(file, registry, tmp_path / "n")
    with raises("M801", match="no part 'unet'; it has te1, te2"):
        taken(file, registry, tmp_path / "n", "unet")
    warnings = taken(file, registry, tmp_path / "m", "te2")
    assert "left out: te1 (import it by --part te1)" in warnings
    check(composed(one | other, registry, tmp_path, part="te1"), {"mid.to_q": delta})


def test_a_folder_with_one_file(registry: Path, tmp_path: Path) -> None:
    tensors, _ = kohya("mid.to_q", 2, 1.0)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    save_file(tensors, folder / "style.safetensors")
    workspace = Workspace(options=RegistryOptions(str(registry)))
    import_peft(folder, tmp_path / "m", "ad", "1.0", base="net", workspace=workspace)
    assert 'license = "Apache-2.0"' in (tmp_path / "m" / "modpkg.toml").read_text()
    save_file(tensors, folder / "style-000002.safetensors")
    with raises("M801", match=r"each by its file: style-000002.safetensors, style.safetensors"):
        taken(folder, registry, tmp_path / "n")


# diffusers ------------------------------------------------------------------------------------


def diffusers(path: str, rank: int, part: str = "unet.") -> tuple[Tensors, torch.Tensor]:
    out, inner = SHAPES[path]
    a, b = random(rank, inner, seed=1), random(out, rank, seed=2)
    return {f"{part}{path}.lora_A.weight": a, f"{part}{path}.lora_B.weight": b}, b @ a


def test_diffusers_without_alphas(tmp_path: Path) -> None:
    """diffusers/utils/peft_utils.py, get_peft_kwargs: alpha is the rank, of each layer."""
    one, first = diffusers("mid.to_q", 2)
    other, second = diffusers("mid.to_q_extra", 3)
    check(composed(one | other, None, tmp_path), {"mid.to_q": first, "mid.to_q_extra": second})


@pytest.mark.parametrize("form", [".lora.{}.weight", ".lora_linear_layer.{}.weight"])
def test_older_names_of_diffusers(form: str, tmp_path: Path) -> None:
    one, first = diffusers("mid.to_q", 2)
    a, b = one.values()
    tensors = {f"unet.mid.to_q{form.format('down')}": a, f"unet.mid.to_q{form.format('up')}": b}
    check(composed(tensors, None, tmp_path), {"mid.to_q": first})


def test_processors_of_diffusers(tmp_path: Path) -> None:
    one, first = diffusers("mid.to_out.0", 2)
    a, b = one.values()
    stem = "unet.mid.processor.to_out_lora"
    tensors = {f"{stem}.down.weight": a, f"{stem}.up.weight": b}
    check(composed(tensors, None, tmp_path), {"mid.to_out.0": first})


def test_the_configuration_in_the_header(tmp_path: Path) -> None:
    """diffusers/loaders/lora_base.py: LoraConfig(**metadata)."""
    one, first = diffusers("mid.to_q", 2)
    other, second = diffusers("mid.to_q_extra", 3)
    config = {
        "unet.r": 2,
        "unet.lora_alpha": 8,
        "unet.rank_pattern": {"to_q_extra": 3},
        "unet.alpha_pattern": {"to_q_extra": 1.5},
        "unet.target_modules": ["to_q", "to_q_extra"],
        "unet.peft_type": "LORA",
        "text_encoder.r": 9,
    }
    result = composed(one | other, None, tmp_path, lora_adapter_metadata=json.dumps(config))
    check(result, {"mid.to_q": 4 * first, "mid.to_q_extra": 0.5 * second})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[1]", "in its header is not valid"),
        ("{", "in its header is not valid"),
        ('{"text_encoder.r": 2}', "has nothing for 'unet'"),
        ('{"unet.r": 2, "unet.peft_type": "LOHA"}', "another method"),
    ],
)
def test_a_header_that_does_not_fit(metadata: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(diffusers("mid.to_q", 2)[0], file, metadata={"lora_adapter_metadata": metadata})
    with raises("M801", match=message):
        taken(file, None, tmp_path / "out")


def test_a_diffusers_folder_is_a_base_and_takes_original_names(tmp_path: Path) -> None:
    """The names of Stable Diffusion XL in a file of kohya are those of another layout."""
    paths = {
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks_5_1_proj_in": "down_blocks.1.attentions.1.proj_in",
        "middle_block_1_transformer_blocks_0_attn1_to_q": (
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        ),
        "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
        "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_4_0_skip_connection": "up_blocks.1.resnets.1.conv_shortcut",
        "time_embed_2": "time_embedding.linear_2",
        "out_2": "conv_out",
    }
    others = ("down_blocks.0.resnets.1.conv1", "up_blocks.0.attentions.0.proj_in")
    source = tmp_path / "unet"
    source.mkdir()
    (source / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    weights = {f"{path}.weight": random(4, 6) for path in (*paths.values(), *others)}
    save_file(weights, source / "diffusion_pytorch_model.safetensors")
    (source / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    warnings = import_hf(source, tmp_path / "net", "net", "1.0", license="MIT")
    assert any("diffusion_pytorch_model.fp16" in warning for warning in warnings)
    modules.publish(tmp_path / "net", tmp_path / "registry")
    tensors: Tensors = {}
    for name in paths:
        tensors[f"lora_unet_{name}.lora_down.weight"] = random(2, 6)
        tensors[f"lora_unet_{name}.lora_up.weight"] = random(4, 2)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "x.safetensors")
    taken(tmp_path / "x.safetensors", tmp_path / "registry", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(paths.values())


@pytest.mark.parametrize("prefix", ["text_model_", ""])
def test_a_text_encoder_of_transformers(prefix: str, tmp_path: Path) -> None:
    """CLIPTextModel had its layers in text_model, and has them no more in transformers 5."""
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = CLIPTextModel(CLIPTextConfig(**sizes, **ids, num_attention_heads=2))
    model.save_pretrained(tmp_path / "clip")
    import_hf(tmp_path / "clip", tmp_path / "net", "net", "1.0", license="MIT")
    modules.publish(tmp_path / "net", tmp_path / "registry")
    name = f"lora_te_{prefix}encoder_layers_0_self_attn_out_proj"
    tensors = {
        f"{name}.lora_down.weight": random(2, 8),
        f"{name}.lora_up.weight": random(8, 2),
        f"{name}.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    taken(tmp_path / "x.safetensors", tmp_path / "registry", tmp_path / "out", base="net>=1")
    tiny.publish(tmp_path / "out", tmp_path / "registry")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    (path,) = config["target_modules"]
    assert path.removeprefix("text_model.") == "encoder.layers.0.self_attn.out_proj"


def test_on_the_command_line(registry: Path, tmp_path: Path) -> None:
    one, _ = kohya("mid.to_q", 2, 1.0, "lora_te1_")
    other, _ = kohya("mid.to_out.0", 2, 1.0, "lora_te2_")
    save_file(one | other, tmp_path / "My_Style.safetensors")
    options = ("--base", "net>=1", "--registry", str(registry), "--license", "MIT")
    arguments = ["peft", str(tmp_path / "My_Style.safetensors"), "--part", "te2", *options]
    result = CliRunner().invoke(import_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "left out: te1 (import it by --part te1)" in result.output
    assert Path("my-style/adapter_model.safetensors").is_file()


# What is refused ------------------------------------------------------------------------------

_ALPHA = {"lora_unet_mid_to_q.alpha": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_unet_mid_to_q.lora_up.weight": None}, "there is no 'lora_up'"),
        ({"lora_unet_mid_to_q.alpha": torch.tensor(0.0)}, "is 0.0, which is no scale"),
        ({"lora_unet_mid_to_q.alpha": torch.tensor(float("nan"))}, "is nan, which is no scale"),
        ({"lora_unet_mid_to_q.alpha": random(2)}, "is not one number"),
        ({"lora_unet_mid_to_q.lora_up.weight": random(16, 3)}, "do not fit together"),
        ({"lora_unet_mid_to_q.lora_down.weight": random(2)}, "do not fit together"),
        ({"lora_unet_mid_to_q.lora_down.weight": random(0, 12)}, "without values"),
        ({"lora_unet_mid_to_q.lora_down.weight": torch.tensor(1.0)}, "do not fit together"),
        ({"lora_unet_mid_to_q.dora_scale": random(1, 12)}, "one magnitude for each of the 16"),
        ({"lora_unet_mid_to_q.diff_b": random(16)}, "whole differences of weights or norms"),
        ({"lora_unet_mid_norm.w_norm": random(16)}, "whole differences of weights or norms"),
        ({"lora_unet_mid_to_k.oft_blocks": random(2, 2, 2)}, "OFT, which turns outputs"),
        ({"lora_unet_mid_to_k.a1.weight": random(2, 2)}, "GLoRA of LyCORIS"),
        ({"lora_unet_mid_to_k.on_input": torch.tensor(1)}, "IA³"),
        ({"bundle_emb.cat.string_to_param.x": random(2, 2)}, "textual inversion"),
        ({"lora_unet_mid_to_k.lambda_layer": random(2)}, "something else than LoRA"),
        ({"lora_unet_mid_to_q.hada_w1_a": random(2, 2)}, "one method, and this has"),
        ({"lora_unet_mid_to_k.lora_up.weight": random(2, 2)}, "some of its layers have an alpha"),
        (
            {"lora_unet_mid_to_q.lora_down.weight": torch.ones(2, 12, dtype=torch.int8)},
            "the dtype of .* is I8",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_counterpart_is_told(
    change: dict[str, torch.Tensor | None], message: str, registry: Path, tmp_path: Path
) -> None:
    given = {**kohya("mid.to_q", 2, 1.0)[0], **change}
    file = tmp_path / "x.safetensors"
    save_file({name: t for name, t in given.items() if t is not None}, file)
    with raises("M801", match=message):
        taken(file, registry, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_that_the_base_does_not_have(registry: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    tensors, _ = kohya("mid.to_q", 2, 1.0)
    other = {name.replace("mid", "late"): tensor.clone() for name, tensor in tensors.items()}
    save_file(other, file)
    with raises("M801", match="the base net 1.0 does not tell its layers: it has none of the 1"):
        taken(file, registry, tmp_path / "out")
    save_file(tensors | other, file)
    with raises("M801", match=r"it has no module 'late_to_q' \(1 of 2 are missing\)"):
        taken(file, registry, tmp_path / "out")
    with raises("M801", match="without the base they tell no layer"):
        taken(file, None, tmp_path / "out")
    with raises("M304"):
        taken(file, registry, tmp_path / "out", base="other")


def test_pickles_and_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04")
    with raises("M801", match="pickles .* can run code"):
        taken(tmp_path / "x.pt", None, tmp_path / "out")
    save_file({"weight": random(2, 2)}, tmp_path / "x.safetensors")
    with raises("M801", match="not a LoRA of kohya, LyCORIS or diffusers"):
        taken(tmp_path / "x.safetensors", None, tmp_path / "out")
    save_file({"base_model.model.q.lora_A.weight": random(2, 2)}, tmp_path / "x.safetensors")
    with raises("M801", match="name the folder"):
        taken(tmp_path / "x.safetensors", None, tmp_path / "out")
    save_file({"layers.0.q.lora_A.weight": random(2, 2)}, tmp_path / "x.safetensors")
    with raises("M801", match="neither alphas nor a configuration"):
        taken(tmp_path / "x.safetensors", None, tmp_path / "out")


def cut(data: bytes) -> Iterator[bytes]:
    for tenth in range(10):
        yield data[: len(data) * tenth // 10]


def test_damaged_files_are_told(registry: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(kohya("mid.to_q", 2, 1.0)[0], file)
    for data in cut(file.read_bytes()):
        file.write_bytes(data)
        with pytest.raises(ModpkgError):
            taken(file, registry, tmp_path / "out")


# Names ----------------------------------------------------------------------------------------


def named(*paths: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(paths, (2, 2))


@pytest.mark.parametrize(
    ("names", "paths", "found"),
    [
        (["a_b", "a_c_d"], ["a.b", "a.c_d"], ["a.b", "a.c_d"]),
        (["a_b"], ["x.y.a.b", "x.z.c"], ["x.y.a.b"]),
        (["t_m_a_b", "t_m_c"], ["a.b", "c"], ["a.b", "c"]),
        (["a_b"], ["a.b", "x.a.b"], ["a.b"]),
    ],
)
def test_names_with_underscores(names: list[str], paths: list[str], found: list[str]) -> None:
    assert paths_of(names, named(*paths)) == dict(zip(names, found, strict=True))


@pytest.mark.parametrize(
    ("names", "paths", "message"),
    [
        (["a_b"], ["a.b", "a_b"], "'a_b' could be 'a.b' or 'a_b'"),
        (["a_b"], ["x.a.b", "y.a.b"], "'a_b' could be 'x.a.b' or 'y.a.b'"),
        (["a_b", "c_d"], ["x.a.b", "y.c.d"], "its 2 modules are in different parts of it"),
        (["t_a_b", "u_c"], ["a.b", "c"], "it has none of the 2 modules, as 't_a_b'"),
        (["t_t_b"], ["t.b", "b"], "'t_t_b' could be 't.b' or 'b'"),
    ],
)
def test_names_that_tell_no_module(names: list[str], paths: list[str], message: str) -> None:
    with pytest.raises(UnknownModules, match=message):
        paths_of(names, named(*paths))
