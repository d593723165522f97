"""PEFT as the judge: an adapter saved by PEFT, applied by modpkg, run in the same class."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file

from modpkg.adapters import METHODS
from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Step
from tests.compose.helpers import of_folder, planned, values

TOLERANCE = 1e-5


def shake(model: Any) -> None:
    """Move every trainable parameter, so that nothing is left as it was initialised."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                # some of PEFT's are whatever was in memory, with init_weights=False
                parameter.nan_to_num_(0, 0, 0).clamp_(-4, 4)
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def applied(folder: Path, *, scale: float = 1.0, replace: tuple[str, ...] = ()) -> Composition:
    """Return the plan of ``folder/base`` with ``folder/adapter`` on it."""
    base = of_folder(folder / "base", "base", "base")
    adapter = of_folder(folder / "adapter", "adapter", "adapter")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    method = METHODS.get(config["peft_type"])
    op = "lora" if method is None else method.operator
    step = Step(op=op, module=ModuleName("adapter"), scale=scale, replace=replace)
    return planned(base, adapter, steps=[step])


def save_adapter(wrapped: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder / "adapter")


def agrees_on_modules(
    folder: Path, build: Callable[[], Any], config: Any, inputs: torch.Tensor
) -> Any:
    """Assert that a model of plain torch, with modpkg's weights, does what PEFT's model does."""
    torch.manual_seed(3)
    model = build().eval()
    (folder / "base").mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text('{"model_type": "toy", "architectures": ["Toy"]}')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, config).eval()
    shake(wrapped)
    save_adapter(wrapped, folder)
    with torch.no_grad():
        wanted = wrapped(inputs)
    plain = build().eval()
    composition = applied(folder)
    plain.load_state_dict(values(compose(composition, folder / "store", threads=1).tensors))
    with torch.no_grad():
        got = plain(inputs)
        base = build().eval()
        base.load_state_dict(state)
        before = base(inputs)
    close(got, wanted)
    assert (wanted - before).abs().max() > 1e-3, "the adapter does nothing"
    return composition


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Assert that two outputs are equal to within ``TOLERANCE`` of their magnitude."""
    error = float((got - wanted).abs().max() / wanted.abs().max())
    assert error <= TOLERANCE, error
