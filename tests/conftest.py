"""Fixtures of all tests: a separate home, and small modules to publish."""

from __future__ import annotations

import gc
import signal
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import forkserver
from tests.registry.places import shared

# The same examples in each run: half of hypothesis's usual number; `python -m benchmarks.fuzz` and
# `benchmarks.resolver_fuzz` try thousands.
settings.register_profile(
    "modpkg",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],  # which is measured in seconds
)
settings.load_profile("modpkg")


LONGEST = (
    "tests/e2e/test_clamp.py",
    "tests/e2e/test_examples.py",
    "tests/e2e/test_crash.py",
    "tests/e2e/test_faults.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Start what all workers share, and inherit: forked processes, and servers when needed.

    A shell starts what it runs in the background, as the Makefile does, with SIGINT ignored, and so
    would be the commands that tests interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        shared.begin()
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        forkserver.start()


def pytest_unconfigure() -> None:
    """Stop the servers that tests needed."""
    shared.end()


def pytest_collection_finish() -> None:
    """Exempt what importing left, torch above all, from each later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, or one worker is left alone with it at the end."""
    order = {path: number for number, path in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let what a test draws without a seed of its own be the same in each run and any order."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A modpkg home that no other test sees, and a working folder without a project."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / "home"
    monkeypatch.setenv("MODPKG_HOME", str(folder))
    monkeypatch.delenv("MODPKG_REGISTRY", raising=False)
    monkeypatch.delenv("MODPKG_PROJECT", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def forked_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let code under test start Python processes that need not import torch again."""
    monkeypatch.setattr(sys, "executable", forkserver.python())


def safetensors_bytes(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """Return a safetensors file of raw tensors, written without the code under test."""
    import json

    header: dict[str, object] = {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
