"""Where a composition is computed: with numpy on the CPU, or with torch on a GPU.

The bytes are the same. torch and a GPU's context take seconds to start, so that only what is large,
or what was asked for, goes there; nothing here imports torch before that.
"""

from __future__ import annotations

import os
import re
import sys

from modpkg.compose.composition import Composition, ComputedTensor
from modpkg.compose.memory import DEVICE_BYTES, DEVICE_FREE_BYTES, STARTED_DEVICE_BYTES
from modpkg.core import system
from modpkg.core.errors import ComposeError
from modpkg.core.extras import import_extra
from modpkg.core.files import human_bytes

VARIABLE = "MODPKG_DEVICE"
"""The environment variable with the device, where no option names one."""
AUTO, CPU = "auto", "cpu"
CPU_TORCH = "cpu-torch"
"""torch in the place of numpy, to compare them."""
_NAMES = re.compile(r"auto|cpu|cpu-torch|cuda(:\d{1,3})?")

_EMULATION = "CUBLAS_EMULATE_DOUBLE_PRECISION"
"""Makes matrix products of float64 out of integers, with errors relative to the largest element."""

METHODS = frozenset(["sum", "mean", "linear", "task-arithmetic"])
OPERATORS = frozenset(["lora", "dense"])
DTYPES = frozenset(["BF16", "F16", "F32"])
"""What a GPU may compute, see `modpkg.compose.torch_reduction`: it takes most of these."""


def is_device(name: str) -> bool:
    """Return whether ``name`` is one that `torch_device` takes."""
    return _NAMES.fullmatch(name) is not None


def torch_device(asked: str | None, composition: Composition) -> str:
    """Return the device of torch that computes what it can of a composition; empty if none does.

    Args:
        asked: ``auto``, ``cpu``, ``cpu-torch``, ``cuda`` or ``cuda:N``; None: as
            the environment says, else auto.
        composition: What is to be computed.

    Raises:
        ComposeError: The device is not one of these, or cannot be used.
    """
    name = asked or os.environ.get(VARIABLE) or AUTO
    if not is_device(name):
        raise ComposeError("M857", source=VARIABLE, device=name)
    if name in (CPU, CPU_TORCH):
        return "" if name == CPU else "cpu"
    length = sum(item.length for item in composition.computed.values() if _may_compute(item))
    if name == AUTO:
        least = STARTED_DEVICE_BYTES if _is_started() else DEVICE_BYTES
        large = length >= least and system.may_have_gpu()
        return "cuda" if large and not _hindrance("cuda") else ""
    if length and (reason := _hindrance(name)):
        raise ComposeError("M856", device=name, reason=reason)
    return name if length else ""


def _may_compute(item: ComputedTensor) -> bool:
    return (
        item.reducer in METHODS
        and item.dtype in DTYPES
        and bool(item.terms)
        and all(term.op in OPERATORS for term in item.terms)
    )


def _is_started() -> bool:
    """Return whether this process has used a GPU."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # half imported, in another thread
    return cuda is not None and bool(cuda.is_initialized())


def _hindrance(name: str) -> str:
    """Return why a device cannot be used; empty if it can."""
    if os.environ.get(_EMULATION, "0") not in ("", "0"):
        return f"{_EMULATION} is set, and its float64 has other errors than those of IEEE 754"
    torch = import_extra("torch", what="--device cuda", extra="run")
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} here was built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU, or its driver is too old"
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        return f"this machine has {count} of them, counted from cuda:0"
    try:
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError as error:  # the GPU is another process's alone, or broken
        return f"it cannot be used ({str(error).splitlines()[0]})"
    if free < DEVICE_FREE_BYTES:
        return f"only {human_bytes(free)} of its memory are free"
    return ""
