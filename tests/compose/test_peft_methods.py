"""Every method × target kind, on small modules of plain torch: PEFT's forward is the judge."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import QALoraLinearVariant
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from modpkg.compose.executor import compose
from modpkg.core.errors import ModpkgError
from tests.compose.helpers import values
from tests.compose.oracle import agrees_on_modules, applied, close, save_adapter, shake
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")

FLOATS = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))
TOKENS = torch.tensor([[0, 3, 6], [1, 1, 5]])


def image(*extents: int) -> torch.Tensor:
    return torch.randn(2, *extents, generator=torch.Generator().manual_seed(5))


class Linear(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10, bias=bias)
        self.square = nn.Linear(10, 10, bias=bias)
        self.norm = nn.LayerNorm(10)
        self.last = nn.Linear(10, 4, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.square(self.first(x)).tanh()))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Conv1D(10, 6)
        self.square = Conv1D(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.square(self.first(x).tanh())


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.emb(x))


class Attention(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(6, 2, bias=bias, batch_first=True)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.attn(x, x, x)[0])


class Conv(nn.Module):
    def __init__(self, kind: Any, *, kernel: int = 3, groups: int = 1) -> None:
        super().__init__()
        self.conv = kind(4, 8, kernel, padding=kernel // 2, groups=groups)
        self.next = kind(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.next(self.conv(x).tanh())


def convolution(kind: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Conv(kind, **options)


INPUTS: dict[str, tuple[Callable[[], nn.Module], list[str], torch.Tensor]] = {
    "linear": (Linear, ["first", "square", "last"], FLOATS),
    "no bias": (lambda: Linear(bias=False), ["first", "last"], FLOATS),
    "Conv1D": (Transposed, ["first", "square"], FLOATS),
    "embedding": (Embedding, ["emb"], TOKENS),
    "both": (Embedding, ["emb", "last"], TOKENS),
    "attention": (Attention, ["attn"], image(5, 6)),
    "attention too": (lambda: Attention(bias=False), ["attn", "last"], image(5, 6)),
    "conv 1": (convolution(nn.Conv1d), ["conv", "next"], image(4, 7)),
    "conv 2": (convolution(nn.Conv2d), ["conv", "next"], image(4, 5, 5)),
    "conv 3": (convolution(nn.Conv3d), ["conv", "next"], image(4, 3, 3, 3)),
    "conv 1x1": (convolution(nn.Conv2d, kernel=1), ["conv", "next"], image(4, 5, 5)),
    "groups": (convolution(nn.Conv2d, groups=2), ["conv", "next"], image(4, 5, 5)),
}


def lora(**options: Any) -> Callable[[list[str]], Any]:
    return lambda targets: peft.LoraConfig(
        **{
            "r": 3,
            "lora_alpha": 5,
            "init_lora_weights": False,
            "target_modules": targets,
            **options,
        }
    )


def method(kind: Any, **options: Any) -> Callable[[list[str]], Any]:
    return lambda targets: kind(**{"target_modules": targets, **options})


IA3 = method(peft.IA3Config, feedforward_modules=[])
LOHA = method(peft.LoHaConfig, r=3, alpha=5, init_weights=False)
LOKR = method(peft.LoKrConfig, r=2, alpha=5, init_weights=False)
OFT = method(peft.OFTConfig, oft_block_size=2, r=0, init_weights=False)
HRA = method(peft.HRAConfig, r=4, init_weights=False)
MISS = method(peft.MissConfig, r=4, init_weights=True)
_MOVED_DORA = (("pissa", "linear"), ("pissa", "Conv1D"), ("pissa", "both"), ("olora", "no bias"))
CASES: list[tuple[str, Callable[[list[str]], Any], str]] = [
    *(("lora", lora(), kind) for kind in INPUTS if kind != "groups"),
    *(("rslora", lora(use_rslora=True), kind) for kind in ("linear", "Conv1D", "embedding")),
    *(
        ("dora", lora(use_dora=True), kind)
        for kind in INPUTS
        if kind not in ("groups", "attention", "attention too")
    ),
    *(
        ("kasa", lora(r=r, kasa_config=peft.KasaConfig()), kind)
        for kind, r in (("linear", 3), ("no bias", 2))
    ),
    *(
        (f"bdlora {a} {b}", lora(r=4, use_bdlora=peft.BdLoraConfig(nblocks=2, **names)), "linear")
        for a, b in ((["first"], ["last", "square"]), (["square", "last"], ["first"]))
        for names in ({"target_modules_bd_a": a, "target_modules_bd_b": b},)
    ),
    (
        "bdlora in part",
        lora(
            r=4,
            use_bdlora=peft.BdLoraConfig(
                nblocks=2, target_modules_bd_a=["last"], match_strict=False
            ),
        ),
        "no bias",
    ),
    *(
        (init, lora(r=3, init_lora_weights=init, **more), kind)
        for init, kind, more in (
            ("pissa", "linear", {}),
            ("pissa", "Conv1D", {"use_rslora": True}),
            ("pissa", "both", {}),
            ("olora", "linear", {}),
            ("olora", "no bias", {"lora_alpha": 2}),
            ("olora", "both", {}),
            *((init, k, {"use_dora": True}) for init, k in _MOVED_DORA),
        )
    ),
    (
        "qalora of layers that are not quantised",
        lora(use_qalora=True, qalora_group_size=2),
        "linear",
    ),
    ("velora", lora(velora_config=peft.VeloraConfig(num_groups=2)), "linear"),
    ("monteclora", lora(monteclora_config=peft.MontecloraConfig()), "linear"),
    ("rslora", lora(use_rslora=True, alpha_pattern={"attn": 9}), "attention"),
    ("lora bias", lora(lora_bias=True), "linear"),
    ("lora bias conv", lora(lora_bias=True), "conv 2"),
    ("bias all", lora(bias="all", target_modules=["first"]), "linear"),
    ("bias lora_only", lora(bias="lora_only", target_modules=["first"]), "linear"),
    (
        "patterns",
        lora(rank_pattern={"^first": 2, "last": 4}, alpha_pattern={"square": 9}),
        "linear",
    ),
    ("modules_to_save", lora(target_modules=["first"], modules_to_save=["norm"]), "linear"),
    ("modules_to_save linear", lora(target_modules=["first"], modules_to_save=["last"]), "linear"),
    ("tokens", lora(target_modules=["last"], trainable_token_indices={"emb": [1, 6]}), "both"),
    *(
        (
            f"parameters {more}",
            lora(target_modules=[], target_parameters=["first.weight", "square.weight"], **more),
            kind,
        )
        for kind in ("linear", "Conv1D")
        for more in (
            {},
            {"alpha_pattern": {"first.weight": 9}},
            {"alpha_pattern": {"first": 9, "square": 11}},
            {"rank_pattern": {"square.weight": 2, "first": 5}, "use_rslora": True},
            {"alpha_pattern": {"first.weight": 11, "weight": 9}},
        )
    ),
    *(
        (f"lora bias, bias {bias}", lora(lora_bias=True, bias=bias), kind)
        for bias in ("all", "lora_only")
        for kind in ("linear", "conv 2")
    ),
    (
        "modules and parameters",
        lora(
            target_modules=["last"],
            target_parameters=["square.weight"],
            alpha_pattern={"last": 9, "square": 7},
        ),
        "linear",
    ),
    ("all weights", lora(target_modules=[], target_parameters=["weight"]), "Conv1D"),
    *(
        ("ia3", IA3, kind)
        for kind in INPUTS
        if kind not in ("embedding", "both", "conv 1", "attention", "attention too")
    ),
    *(
        (f"ia3 {name}", method(peft.IA3Config, feedforward_modules=[name]), kind)
        for name, kinds in (("first", ("linear", "Conv1D")), ("conv", ("conv 2", "groups")))
        for kind in kinds
    ),
    *(
        ("loha", LOHA, kind)
        for kind in ("linear", "no bias", "conv 1", "conv 2", "conv 1x1", "groups")
    ),
    *(
        (
            "loha core",
            method(peft.LoHaConfig, r=3, init_weights=False, use_effective_conv2d=True),
            k,
        )
        for k in ("conv 1", "conv 2")
    ),
    *(
        ("lokr", LOKR, kind)
        for kind in ("linear", "no bias", "conv 1", "conv 2", "conv 1x1", "groups")
    ),
    *(
        (
            "lokr both",
            method(peft.LoKrConfig, r=1, init_weights=False, decompose_both=True, **more),
            kind,
        )
        for kind, more in (
            ("linear", {}),
            ("conv 1", {}),
            ("conv 2", {}),
            ("conv 2", {"use_effective_conv2d": True}),
        )
    ),
    ("lokr whole", method(peft.LoKrConfig, r=64, init_weights=False), "conv 1"),
    ("lokr whole", method(peft.LoKrConfig, r=64, init_weights=False), "conv 2"),
    *(("oft", OFT, kind) for kind in ("linear", "no bias", "conv 1x1", "embedding")),
    *(
        (
            f"oft {more}",
            method(peft.OFTConfig, oft_block_size=2, r=0, init_weights=False, **more),
            kind,
        )
        for kind in ("linear", "embedding")
        for more in (
            {"use_cayley_neumann": False},
            {"block_share": True},
            {"coft": True, "eps": 1e-2},
            *({"num_cayley_neumann_terms": n} for n in (2, 3, 4, 7)),
        )
    ),
    (
        "boft",
        method(peft.BOFTConfig, boft_block_size=2, boft_n_butterfly_factor=1, init_weights=False),
        "linear",
    ),
    *(
        (
            f"boft {size}",
            method(
                peft.BOFTConfig,
                boft_block_size=size,
                boft_n_butterfly_factor=1,
                target_modules=["conv"],
                init_weights=False,
            ),
            kind,
        )
        for kind, size in (("conv 2", 6), ("conv 2", 36), ("conv 1x1", 2))
    ),
    *(
        ("vera", method(peft.VeraConfig, r=3, init_weights=False, d_initial=0.5), kind)
        for kind in ("linear", "Conv1D")
    ),
    *(("hra", HRA, kind) for kind in ("linear", "conv 2")),
    ("hra GS", method(peft.HRAConfig, r=4, apply_GS=True, init_weights=False), "linear"),
    ("miss", MISS, "linear"),
    ("miss uneven", method(peft.MissConfig, r=4, init_weights=True), "no bias"),
    ("miss mini", method(peft.MissConfig, r=2, mini_r=2, init_weights="mini"), "linear"),
    ("miss bat", method(peft.MissConfig, r=2, init_weights="bat"), "linear"),
    ("shira", method(peft.ShiraConfig, r=1, init_weights=False), "linear"),
    *(
        ("hira", method(peft.HiraConfig, r=2, init_weights=False), kind)
        for kind in INPUTS
        if kind not in ("groups", "attention", "attention too", "conv 3")
    ),
    ("hira", method(peft.HiraConfig, r=2, target_modules=["conv"], init_weights=False), "conv 3"),
    *(
        ("delora", method(peft.DeloraConfig, r=3, delora_lambda=2, init_weights=False), kind)
        for kind in ("linear", "no bias")
    ),
    ("c3a", method(peft.C3AConfig, block_size=2, init_weights="gaussian"), "linear"),
    (
        "c3a of several sizes",
        method(peft.C3AConfig, block_size=2, block_size_pattern={"square": 5}),
        "no bias",
    ),
    ("ln tuning", method(peft.LNTuningConfig, target_modules=["norm"]), "linear"),
    (
        "adalora",
        method(peft.AdaLoraConfig, init_r=3, target_r=2, total_step=10, init_lora_weights=False),
        "linear",
    ),
    *(
        ("fourierft", method(peft.FourierFTConfig, n_frequency=n, scaling=40.0, **more), kind)
        for kind, n, more in (
            ("linear", 24, {}),
            ("Conv1D", 7, {"random_loc_seed": 12345678901}),
            ("no bias", 40, {"n_frequency_pattern": {"last": 9}, "random_loc_seed": 0}),
        )
    ),
    *(
        (f"waveft {family}", method(peft.WaveFTConfig, n_frequency=17, **more), kind)
        for family, kind, more in (
            ("", "linear", {}),
            ("direct", "Conv1D", {"use_idwt": False}),
            *(
                (each, kind, {"wavelet_family": each})
                for each in ("db1", "db2", "db7", "sym5", "coif1", "coif4")
                for kind in ("linear", "Conv1D")
            ),
            ("proportional", "no bias", {"proportional_parameters": True}),
        )
    ),
    *(
        ("randlora", method(peft.RandLoraConfig, r=r, init_weights=False, **more), kind)
        for kind, r, more in (
            ("linear", 4, {"randlora_alpha": 8}),
            ("Conv1D", 3, {"randlora_alpha": 8, "sparse": True}),
            ("no bias", 20, {"randlora_alpha": 8, "very_sparse": True}),
        )
    ),
    *(
        (
            f"vblora {more}",
            method(peft.VBLoRAConfig, r=3, num_vectors=7, vector_length=2, **more),
            kind,
        )
        for kind, more in (
            ("linear", {"init_vector_bank_bound": 0.5}),
            ("Conv1D", {"topk": 3}),
            ("linear", {"topk": 7}),
            ("linear", {"save_only_topk_weights": True}),
            ("Conv1D", {"save_only_topk_weights": True, "topk": 4}),
            ("no bias", {"save_only_topk_weights": True, "topk": 1}),
        )
    ),
    *(
        ("gralora", method(peft.GraloraConfig, init_weights=False, **more), kind)
        for kind, more in (
            ("linear", {"r": 4, "gralora_k": 2}),
            ("Conv1D", {"r": 6, "gralora_k": 2, "hybrid_r": 3, "alpha": 5}),
            ("no bias", {"r": 2, "gralora_k": 1}),
            ("no bias", {"r": 4, "gralora_k": 2, "hybrid_r": 1}),
        )
    ),
    *(
        ("road", method(peft.RoadConfig, variant=f"road_{n}", group_size=2, init_weights=False), k)
        for n in (1, 2, 4)
        for k in ("linear", "no bias")
    ),
    (
        "road of one group",
        method(
            peft.RoadConfig, group_size=10, target_modules=["first", "square"], init_weights=False
        ),
        "linear",
    ),
    *(
        (
            f"psoft {more}",
            method(peft.PsoftConfig, init_weights=False, **{"r": 3, **more}),
            "linear",
        )
        for more in (
            {},
            {"r": 1},
            {"ab_svd_init": "pissa_init", "psoft_alpha": 5},
            {"psoft_orth": False},
            {"psoft_mag_a": False, "use_cayley_neumann": True, "cayley_neumann_eps": 0.1},
            {"psoft_mag_b": False, "use_cayley_neumann": True, "num_cayley_neumann_terms": 3},
        )
    ),
    *(
        ("tinylora", method(peft.TinyLoraConfig, r=r, u=u, weight_tying=tying), kind)
        for kind, r, u, tying in (
            ("linear", 2, 3, 0.0),
            ("linear", 4, 5, 0.4),
            ("Conv1D", 2, 64, 1.0),
            ("both", 3, 7, 0.0),
        )
    ),
    *(
        (f"osf {rank}", method(peft.OSFConfig, effective_rank=rank), "linear")
        for rank in (2, 3, 0.5)
    ),
    ("beft", method(peft.BeftConfig, init_weights=False), "linear"),
    *(
        (f"deft {more}", method(peft.DeftConfig, r=3, **more), kind)
        for kind in ("linear", "Conv1D", "no bias")
        for more in (
            {"init_weights": False},
            {"alpha": 5},
            {"decomposition_method": "qr"},
            {"decomposition_method": "qr", "para": True},
            {"para": True, "init_weights": False},
        )
        if (kind, more) != ("Conv1D", {"para": True, "init_weights": False})  # a tiny change
    ),
    *(
        ("frod", method(peft.FrodConfig, sparse_rate=0.3, init_weights=False), kind)
        for kind in ("linear", "Conv1D")
    ),
    *(
        (
            f"glora {ab} {c} {de}",
            method(
                peft.GloraConfig, r=2, config_A_B=ab, config_C=c, config_D_E=de, init_weights=False
            ),
            kind,
        )
        for kind in ("linear", "no bias")
        for ab, c, de in (
            ("lora", "lora", "constant"),
            ("vector", "vector", "vector"),
            ("constant", "none", "none"),
        )
    ),
    ("glora of biases", method(peft.GloraConfig, config_A_B="none", init_weights=False), "linear"),
    *(
        (f"peanut {act}", method(peft.PeanutConfig, r=3, act_fn=act, **more), "linear")
        for act, more in (
            ("relu", {"scaling": 0.5}),
            ("gelu", {"depth": 1}),
            ("silu", {"depth": 3}),
            *((name, {"depth": 2}) for name in ("tanh", "gelu_new", "mish", "relu6", "leaky_relu")),
            *((name, {"depth": 1}) for name in ("sigmoid", "quick_gelu", "relu2", "linear")),
        )
    ),
    *(
        ("supertuning", method(peft.SupertuningConfig, sparsity=0.8, **more), "linear")
        for more in ({}, {"r": 3, "lora_alpha": 5}, {"select_top": False})
    ),
    *(
        ("unilora", method(peft.UniLoraConfig, r=2, theta_d_length=9, save_indices=True), kind)
        for kind in ("linear", "Conv1D")
    ),
    *(
        ("pvera", method(peft.PveraConfig, r=3, init_weights=False), kind)
        for kind in ("linear", "Conv1D")
    ),
    (
        "trainable tokens",
        method(peft.TrainableTokensConfig, token_indices=[0, 5], init_weights=False),
        "embedding",
    ),
]


@pytest.mark.parametrize(("name", "config", "kind"), CASES, ids=[f"{n}-{k}" for n, _, k in CASES])
def test_the_forward_pass_equals_pefts(
    name: str, config: Callable[[list[str]], Any], kind: str, tmp_path: Path
) -> None:
    build, targets, inputs = INPUTS[kind]
    agrees_on_modules(tmp_path, build, config(targets), inputs)


def test_qalora(tmp_path: Path) -> None:
    """PEFT pools the inputs of layers that GPTQ quantised; here its variant is put on others."""
    torch.manual_seed(3)
    base = Linear().eval()
    config = lora(use_qalora=True, qalora_group_size=2)(["first", "square"])
    wrapped = peft.get_peft_model(copy.deepcopy(base), config).eval()
    for layer in wrapped.modules():
        if isinstance(layer, LoraLayer):
            QALoraLinearVariant.init(layer, "default", config)
            layer.lora_variant["default"] = QALoraLinearVariant()
    shake(wrapped)
    assert wrapped.base_model.model.first.lora_A["default"].weight.shape == (3, 3)
    save_adapter(wrapped, tmp_path)
    (tmp_path / "base").mkdir()
    save_file(dict(base.state_dict()), tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "toy"}')
    composed = compose(applied(tmp_path), tmp_path / "store", threads=1)
    with torch.no_grad():
        wanted = wrapped(FLOATS)
        base.load_state_dict(values(composed.tensors))
        close(base(FLOATS), wanted)


def test_the_base_that_loftq_quantised_is_what_unload_gives(tmp_path: Path) -> None:
    """What the error for LoftQ says to do; its initialisation, which needs a GPU, is imitated."""
    torch.manual_seed(3)
    wrapped = peft.get_peft_model(Linear().eval(), lora()(["first"])).eval()
    with torch.no_grad():
        wrapped.base_model.model.first.base_layer.weight.round_(decimals=1)
    shake(wrapped)
    with torch.no_grad():
        wanted = wrapped(FLOATS)
    save_adapter(wrapped, tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "init_lora_weights": "loftq"}))
    base = wrapped.unload()
    (tmp_path / "base").mkdir()
    save_file(dict(base.state_dict()), tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "toy"}')
    with raises("M606", match="unload"):
        applied(tmp_path)
    path.write_text(json.dumps({**settings, "init_lora_weights": True}))
    composed = compose(applied(tmp_path), tmp_path / "store", threads=1)
    with torch.no_grad():
        base.load_state_dict(values(composed.tensors))
        close(base(FLOATS), wanted)


class _Blocks:
    """What PEFT's kernel for several butterfly factors computes."""

    @staticmethod
    def forward(factors: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([torch.block_diag(*blocks) for blocks in factors])]


@pytest.mark.parametrize(("factors", "size"), [(2, 2), (2, 4), (3, 2), (3, 6), (4, 2)])
@pytest.mark.parametrize("convolution", [False, True])
def test_boft_of_several_butterfly_factors(
    factors: int, size: int, convolution: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", _Blocks)
    config = peft.BOFTConfig(
        boft_block_size=size,
        boft_n_butterfly_factor=factors,
        target_modules=["0"],
        init_weights=False,
    )
    layers = [nn.Conv2d(12, 4, 2)] if convolution else [nn.Linear(48, 4), nn.Tanh()]
    inputs = image(12, 3, 3) if convolution else image(48)
    agrees_on_modules(tmp_path, lambda: nn.Sequential(*copy.deepcopy(layers)), config, inputs)


def pruned(folder: Path, *, lora_alpha: float) -> dict[str, int]:
    """Save an AdaLoRA that training pruned, and its base; return the ranks that are left."""
    torch.manual_seed(3)
    model = Linear().eval()
    (folder / "base").mkdir()
    save_file(dict(model.state_dict()), folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text('{"model_type": "toy"}')
    config = peft.AdaLoraConfig(
        target_modules=["first", "square", "last"],
        init_r=6,
        target_r=1,
        total_step=6,
        tfinal=3,
        lora_alpha=lora_alpha,
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(model, config)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], 0.005)
    for step in range(6):
        wrapped(FLOATS).square().sum().backward()
        optimizer.step()
        wrapped.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    save_adapter(wrapped, folder)
    assert config.rank_pattern is not None
    return {name.partition(".")[0]: sum(kept) for name, kept in config.rank_pattern.items()}


@pytest.mark.parametrize("lora_alpha", [7, -1])
def test_an_adalora_that_training_pruned(lora_alpha: float, tmp_path: Path) -> None:
    ranks = pruned(tmp_path, lora_alpha=lora_alpha)
    assert 0 in ranks.values()
    assert any(0 < rank < 6 for rank in ranks.values())
    torch.manual_seed(3)
    loaded = peft.PeftModel.from_pretrained(Linear().eval(), str(tmp_path / "adapter"))
    composed = compose(applied(tmp_path), tmp_path / "store", threads=1)
    wanted = loaded.merge_and_unload().state_dict()
    for name, value in values(composed.tensors).items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ranks", [[True] * 2, "all", [[True] * 6]], ids=str)
def test_an_adalora_with_other_ranks_than_it_says_is_refused(ranks: Any, tmp_path: Path) -> None:
    pruned(tmp_path, lora_alpha=7)
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["rank_pattern"]["last.lora_E"] = ranks
    path.write_text(json.dumps(settings))
    with pytest.raises(ModpkgError, match="rank"):
        applied(tmp_path)


REFUSED: list[tuple[str, Callable[[], Any], str, str]] = [
    ("groups", lambda: lora(r=4)(["conv"]), "groups", "grouped convolution"),
    ("oft conv", lambda: OFT(["conv"]), "conv 2", "overlapping patch"),
    (
        "vera without projections",
        lambda: peft.VeraConfig(r=2, save_projection=False, target_modules=["first"]),
        "linear",
        "save_projection",
    ),
    (
        "randlora",
        lambda: peft.RandLoraConfig(r=2, save_projection=False, target_modules=["first"]),
        "linear",
        "save_projection",
    ),
    (
        "pvera",
        lambda: peft.PveraConfig(r=2, save_projection=False, target_modules=["first"]),
        "linear",
        "save_projection",
    ),
    (
        "pvera that samples",
        lambda: peft.PveraConfig(r=2, sample_at_inference=True, target_modules=["first"]),
        "linear",
        "draws at random",
    ),
    (
        "unilora",
        lambda: peft.UniLoraConfig(r=2, theta_d_length=9, target_modules=["first"]),
        "linear",
        "save_indices",
    ),
    (
        "tinylora",
        lambda: peft.TinyLoraConfig(r=2, u=3, save_projection=False, target_modules=["first"]),
        "linear",
        "save_projection",
    ),
    (
        "frod",
        lambda: peft.FrodConfig(save_projection=False, target_modules=["first"]),
        "linear",
        "save_projection",
    ),
    (
        "supertuning",
        lambda: peft.SupertuningConfig(
            sparsity=0.8, save_precomputed_indices=False, target_modules=["first"]
        ),
        "linear",
        "save_precomputed_indices",
    ),
    (
        "psoft lowrank",
        lambda: peft.PsoftConfig(r=2, psoft_svd="lowrank", target_modules=["first"]),
        "linear",
        "psoft_svd",
    ),
    ("beft", lambda: peft.BeftConfig(target_modules=["first"]), "no bias", "has none beside"),
    (
        "peanut",
        lambda: peft.PeanutConfig(r=2, act_fn="laplace", target_modules=["first"]),
        "linear",
        "act_fn",
    ),
    ("lily", lambda: peft.LilyConfig(r=2, target_modules=["first"]), "linear", "'LILY'.*input"),
    ("lora bias", lambda: lora(lora_bias=True)(["first"]), "no bias", "has none beside"),
    (
        "pissa in a hurry",
        lambda: lora(init_lora_weights="pissa_niter_4")(["first"]),
        "linear",
        "init_lora_weights",
    ),
]


@pytest.mark.parametrize(
    ("name", "config", "kind", "message"), REFUSED, ids=[name for name, *_ in REFUSED]
)
def test_adapters_that_cannot_be_exact_are_refused(
    name: str, config: Callable[[], Any], kind: str, message: str, tmp_path: Path
) -> None:
    build, _, _ = INPUTS[kind]
    torch.manual_seed(3)
    model = build()
    (tmp_path / "base").mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    wrapped = peft.get_peft_model(model, config())
    shake(wrapped)
    save_adapter(wrapped, tmp_path)
    with raises("M606", match=message) as caught:
        applied(tmp_path)
    assert isinstance(caught.value, ModpkgError)
