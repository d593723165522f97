"""Where a composition is computed: what is asked for, what is there, and what is worth it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import modpkg.compose.device as device_module
from modpkg.compose.composition import Composition, ComputedTensor
from modpkg.compose.device import VARIABLE, torch_device
from modpkg.compose.executor import compose
from modpkg.compose.memory import DEVICE_BYTES, STARTED_DEVICE_BYTES
from modpkg.core import system
from tests.compose.hard_tensors import Inputs, composition_of, low_rank_tensors
from tests.raising import raises


@pytest.fixture
def loras(tmp_path: Path) -> Composition:
    return composition_of("loras", dict(list(low_rank_tensors(Inputs(tmp_path)))[:3]))


def gpu(monkeypatch: pytest.MonkeyPatch, *, free: int = 1 << 40, **changes: Any) -> None:
    """Put a GPU into the place of this machine's."""
    there = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "mem_get_info": lambda _: (free, free),
        **changes,
    }
    monkeypatch.setattr(system, "may_have_gpu", lambda: True)
    fake = SimpleNamespace(
        __version__="2.99",
        version=SimpleNamespace(cuda=changes.get("built", "13.0"), hip=None),
        cuda=SimpleNamespace(**there),
        device=lambda name: SimpleNamespace(index=int(name[5:]) if name[5:] else None),
    )
    monkeypatch.setattr(device_module, "import_extra", lambda *_, **__: fake)


def test_the_bytes_do_not_depend_on_the_device(loras: Composition, tmp_path: Path) -> None:
    results = {
        device: compose(loras, tmp_path / device, device=device) for device in ("cpu", "cpu-torch")
    }
    assert results["cpu"].key == results["cpu-torch"].key


def test_auto_takes_a_gpu_for_what_is_large(
    loras: Composition, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(monkeypatch)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert torch_device(None, loras) == torch_device("auto", loras) == ""
    assert torch_device("cuda:1", loras) == "cuda:1"
    monkeypatch.setattr(ComputedTensor, "length", STARTED_DEVICE_BYTES // 3 + 1)
    assert torch_device(None, loras) == ""
    with monkeypatch.context() as started:
        used = SimpleNamespace(is_initialized=lambda: True)
        started.setitem(sys.modules, "torch", SimpleNamespace(cuda=used))
        assert torch_device(None, loras) == "cuda"
    monkeypatch.setattr(ComputedTensor, "length", DEVICE_BYTES // 3 + 1)
    assert torch_device(None, loras) == "cuda"
    monkeypatch.setenv(VARIABLE, "cpu")
    assert torch_device(None, loras) == ""
    assert torch_device("auto", loras) == "cuda"
    gpu(monkeypatch, free=1 << 20)
    assert torch_device("auto", loras) == ""


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({"built": None}, "cuda", "torch 2.99 here was built without CUDA"),
        ({"is_available": lambda: False}, "cuda", "torch finds no GPU"),
        ({}, "cuda:2", "this machine has 2 of them, counted from cuda:0"),
        ({"free": 1 << 20}, "cuda", "only 1.0 MB of its memory are free"),
    ],
)
def test_a_device_that_cannot_be_used_is_an_error(
    loras: Composition,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    name: str,
    reason: str,
) -> None:
    gpu(monkeypatch, **changes)
    with raises("M856", match=reason):
        torch_device(name, loras)
    nothing = composition_of("nothing", {})
    assert torch_device(name, nothing) == ""


def test_emulated_float64_is_refused(loras: Composition, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch)
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    with raises("M856", match="CUBLAS_EMULATE_DOUBLE_PRECISION is set"):
        torch_device("cuda", loras)


def test_a_variable_that_names_no_device_is_an_error(
    loras: Composition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "tpu")
    with raises("M857", match=f"{VARIABLE} is 'tpu'"):
        torch_device(None, loras)


def test_choosing_does_not_import_torch() -> None:
    program = (
        "import sys; from modpkg.compose.device import torch_device; "
        "from tests.compose.hard_tensors import composition_of; "
        "torch_device('auto', composition_of('m', {})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_device_that_fails_is_named(loras: Composition, monkeypatch: pytest.MonkeyPatch) -> None:
    from modpkg.compose import torch_reduction

    def fail() -> None:
        raise RuntimeError("out of memory.\nTried to allocate 20 MiB")

    monkeypatch.setattr(torch_reduction, "use_one_thread", fail)
    with (
        raises("M858", match="out of memory"),
        torch_reduction.using_device(torch.device("cpu"), "m"),
    ):
        raise AssertionError("not reached")
